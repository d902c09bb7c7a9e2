"""Checkpoints of a run: `<attempt>/checkpoints/<epoch>.pt`, then `<epoch>.json` with its digest. For `store` only.

A checkpoint counts once its .json is there and the digest fits; a crash before that leaves nothing that could be loaded
(dangers 3: a damaged one must not be tried again and again while an older one is good).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kdtune.store.encoding import digest, from_json, to_json
from kdtune.store.objects import Objects

EVERY_S = 60.0  # seconds between two checkpoints of a run, unless --checkpoint-every says otherwise
KEPT = 2  # checkpoints of a run: one may be damaged

_FILE = re.compile(r"(?P<attempt>[^/]+)/checkpoints/(?P<epoch>0|[1-9][0-9]{0,8})\.(?P<kind>pt|json)")


class Checkpoint(NamedTuple):
    """Sorts by age: a run's attempts compute the same bytes, so the epoch decides and the attempt only breaks ties."""

    epoch: int
    attempt: str


def save(objects: Objects, run: str, attempt: str, epoch: int, data: bytes) -> None:
    """Write one and delete all that are older than the newest KEPT of all attempts. `run` is the run's folder."""
    place = _path(run, Checkpoint(epoch, attempt))
    objects.put(f"{place}.pt", data)
    objects.put(f"{place}.json", to_json({"epoch": epoch, "sha256": digest(data)}))
    found = _found(_names(objects, run))
    kept = _complete(found)[:KEPT]
    for checkpoint, kinds in found.items():
        if len(kept) == KEPT and checkpoint < kept[-1]:
            _delete(objects, run, checkpoint, kinds)


def sound(objects: Objects, run: str) -> Iterator[tuple[Checkpoint, bytes]]:
    """Those whose digest fits, newest first; those that do not fit are set aside with a warning."""
    for checkpoint in _complete(_found(_names(objects, run))):
        place = _path(run, checkpoint)
        record, data = objects.get(f"{place}.json"), objects.get(f"{place}.pt")
        if record is None or data is None:
            continue  # deleted by another attempt since the listing
        if _fits(record, checkpoint.epoch, data):
            yield checkpoint, data
        else:
            reject(objects, run, checkpoint, "it does not fit the digest beside it")


def reject(objects: Objects, run: str, checkpoint: Checkpoint, why: str) -> None:
    """Set one aside with a warning: it is never tried again."""
    place = _path(run, checkpoint)
    objects.reject(f"{place}.pt", objects.get(f"{place}.pt") or b"", why)
    objects.reject(f"{place}.json", objects.get(f"{place}.json") or b"", "it belongs to a damaged checkpoint")


def any_complete(names: Iterable[str]) -> bool:
    """Whether one looks complete among `names`, keys below a run's folder; nothing is read."""
    return bool(_complete(_found(names)))


def delete_all(objects: Objects, run: str) -> None:
    """Delete the checkpoints of all attempts, and what crashed writers left of them."""
    for checkpoint, kinds in _found(_names(objects, run)).items():
        _delete(objects, run, checkpoint, kinds)
    objects.remove_leftovers(run)


def _names(objects: Objects, run: str) -> list[str]:
    return [key.removeprefix(f"{run}/") for key in objects.list(run)]


def _found(names: Iterable[str]) -> dict[Checkpoint, set[str]]:
    found: dict[Checkpoint, set[str]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            found.setdefault(Checkpoint(int(match["epoch"]), match["attempt"]), set()).add(match["kind"])
    return found


def _complete(found: dict[Checkpoint, set[str]]) -> list[Checkpoint]:
    return sorted((checkpoint for checkpoint, kinds in found.items() if kinds == {"pt", "json"}), reverse=True)


def _fits(record: bytes, epoch: int, data: bytes) -> bool:
    try:
        return bool(from_json(record) == {"epoch": epoch, "sha256": digest(data)})
    except ValueError:
        return False


def _delete(objects: Objects, run: str, checkpoint: Checkpoint, kinds: set[str]) -> None:
    for kind in sorted(kinds):  # json first: without it the .pt no longer counts
        objects.delete(f"{_path(run, checkpoint)}.{kind}")


def _path(run: str, checkpoint: Checkpoint) -> str:
    return f"{run}/{checkpoint.attempt}/checkpoints/{checkpoint.epoch}"
