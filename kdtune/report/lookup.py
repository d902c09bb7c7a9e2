"""Which run somebody means: by its id, by the beginning of one, or by the name that a sweep has for it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kdtune.report.mirror import results_of
from kdtune.store.layout import DONE, RUN_ID
from kdtune.store.objects import Objects
from kdtune.store.store import Store

PLAN = re.compile(r"(?!runs/)[^/]+/[^/]+/plan\.json")
BEGINNING = re.compile(r"[0-9a-f]{4,11}")
SHOWN = 5  # of those that may be meant


def store_of(place: str) -> str:
    """The results that a folder belongs to: a sweep's, a profile's of one, or results themselves."""
    return next((results_of(folder.parent) for folder in _plans(place, ("plan.json", "*/plan.json"))), place)


def looked_up(run: str, place: str) -> str:
    """The id of a run in `place`: `3f2a5b...`, a beginning of four digits or more, or `student dropout=0.2 seed=1`.

    Raises LookupError where none is meant, or several are, with those that may be.
    """
    return meant(run, _done(place), _names(place), place)


def meant(run: str, ids: Iterable[str], names: Iterable[tuple[str, str]], place: str) -> str:
    """The same among these: the beginning of one of `ids`, or one of `names`, which are pairs of id and name. Neither
    is asked for a whole id. `place` is what a LookupError calls them."""
    if RUN_ID.fullmatch(run):
        return run
    if BEGINNING.fullmatch(run):
        return _only(run, [*dict.fromkeys(id for id in ids if id.startswith(run))], place)
    return _only(run, [*dict.fromkeys(id for id, name in names if name == run)], place)


def names_in(objects: Objects) -> Iterator[tuple[str, str]]:
    """Ids with names, of all sweeps of these results, which may be a bucket."""
    for key in objects.list():
        if PLAN.fullmatch(key) and (data := objects.get(key)) is not None:
            yield from _named(data)


def folders_of(ids: Collection[str], objects: Objects) -> list[str]:
    """The folders of sweeps, `fickle/paper`, that have any of these runs; the results may be a bucket."""
    plans = {key: objects.get(key) for key in objects.list() if PLAN.fullmatch(key)}
    having = [key for key, data in plans.items() if any(id in ids for id, _ in _named(data or b""))]
    return [key.removesuffix("/plan.json") for key in having]


def _done(place: str) -> Iterator[str]:
    yield from (key.rpartition("/")[2] for key in Store(store_of(place)).objects.list(DONE))


def _only(run: str, found: list[str], place: str) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise LookupError(f"{run!r} may be any of {', '.join(found[:SHOWN])}{more}; name one of them")
    raise LookupError(
        f"{run!r} is no run in {place}: an id has 12 hex digits, or the first four and more of them; a name is as in"
        " `student dropout=0.2 seed=1`"
    )


def _names(place: str) -> Iterator[tuple[str, str]]:
    """Ids with names, of all sweeps in a place."""
    for path in _plans(place, ("plan.json", "*/plan.json", "*/*/plan.json")):
        with suppress(OSError):
            yield from _named(path.read_bytes())


def _named(plan: bytes) -> Iterator[tuple[str, str]]:
    with suppress(ValueError, KeyError, TypeError):  # another's, or damaged: its own command says so
        for each in json.loads(plan)["places"]:
            yield str(each["id"]), str(each["name"])


def _plans(place: str, depths: tuple[str, ...]) -> list[Path]:
    if "://" in place:
        return []
    return [path for depth in depths for path in sorted(Path(place).glob(depth))]
