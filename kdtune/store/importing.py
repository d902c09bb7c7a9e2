"""The runs of a bundle are taken into a store: all is looked at first, then each run is written whole, `done` last.

The first `done` of a run wins, as everywhere. A run that is there already is left as it is, and lacks afterwards none
of the evaluations that the bundle has of the same weights; one with other weights is refused before anything is
written. What a search has proposed comes before its runs, and of that the first wins too. What was cut short is
completed by the same import again.

    runs/imports/<first 12 digits of the manifest's SHA-256>      ids, sweep, profile, where from; sealed
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from kdtune.store import checkpoints
from kdtune.store.bundle import Bundle, Packed
from kdtune.store.done import DamagedError, Done, read_done
from kdtune.store.encoding import digest, seal, unseal
from kdtune.store.layout import DONE, IMPORTS, RUN_ID, SEARCHES, WEIGHTS, done_key, evaluation_name, run_folder
from kdtune.store.objects import Objects
from kdtune.store.searches import Record, Searches, record_of
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.store.tar import BundleError

RECORD = re.compile(r"[0-9a-f]{12}")
SHOWN = 10  # runs in a message


class Folder(StrEnum):
    """What became of the sweep's folder."""

    WRITTEN = "written"
    THE_SAME = "the same"  # is there, just as in the bundle
    LEFT = "left"  # another is there
    CLAIMED = "claimed"  # a command works on it, and writes it


@dataclass(frozen=True)
class Lacking:
    """What a store lacks of a bundle: whole runs, evaluations by the ids of runs that are there, proposals by number.

    `others`: numbers of proposals that are there with another point, or drawn from other weights. They stay.
    """

    runs: list[str]
    evaluations: dict[str, list[str]]
    proposals: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)


def lacking(bundle: Bundle, store: Store) -> Lacking:
    """Looks and writes nothing. BundleError where a run is there with other weights, or is being worked on; all of
    them are named. StorageError where a link or a file stands where a folder should be."""
    objects = store.objects
    proposed = (SEARCHES, f"{SEARCHES}/{bundle.search}") if bundle.proposals else ()
    for key in (DONE, IMPORTS, bundle.folder, *proposed):
        objects.refuse_link(key)
    for key in (bundle.sweep, bundle.folder, IMPORTS, *proposed):
        if objects.exists(key):
            raise BundleError(f"{objects.path(key)} is a file, and a folder should be there: move it")
    standing = Standing(store)
    standing.preload(bundle.runs, {hash for run in bundle.runs.values() for hash in run.evaluations})
    runs, evaluations, wrong = [], {}, []
    for id, run in bundle.runs.items():
        look = standing.look(id)
        if look.state(run.evaluations) is State.ELSEWHERE:
            wrong.append(f"run {id} is being worked on by a command, which has claimed it")
        elif (done := look.done) is None:
            runs.append(id)
            if look.lost:  # whatever becomes of it, its record stays, and would not fit what is written here
                wrong.append(f"run {id} is done there, but for {look.lost[1]}: put it back, or `kdtune forget` the run")
        elif other := _difference(run, done):
            wrong.append(f"run {id} {other}")
        elif missing := [hash for hash in run.evaluations if look.record(hash) is None]:
            evaluations[id] = missing
    if wrong:
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        listed = "".join(f"\n  {each}" for each in wrong[:SHOWN])
        raise BundleError(f"these stand against it in {objects.path('')}, and nothing was written:{listed}{more}")
    return Lacking(runs, evaluations, *_proposals(bundle, objects))


def _proposals(bundle: Bundle, objects: Objects) -> tuple[list[int], list[int]]:
    """Numbers of those that are not there, or damaged, and of those that are there and others."""
    lacks, others = [], []
    for number, key in bundle.proposals.items():
        ours, theirs = record_of(bundle.read(key)), _record(objects, key)
        if theirs is None:
            lacks.append(number)
        elif (ours.point, ours.drew_from) != (theirs.point, theirs.drew_from):
            others.append(number)
    return lacks, others


def _record(objects: Objects, key: str) -> Record | None:
    """What is there; None where it is damaged."""
    try:
        return record_of(objects.get(key) or b"")
    except ValueError:
        return None


def _difference(run: Packed, done: Done) -> str:
    """In what a run of the bundle is another than the one of its id that is there; empty if in nothing."""
    if run.weights == done.files.get(WEIGHTS):
        return ""
    both = (done.files.get(WEIGHTS), run.weights)
    there, here = (f"weights {weights}" if weights else "none, for it diverged" for weights in both)
    return f"has {there} there and {here} in the bundle"


def take_in(bundle: Bundle, store: Store, lacks: Lacking, origin: str) -> Folder:
    """Writes what `lacking` has found, and the sweep's folder; `origin` says where the bundle is from.

    Raises StorageError; BundleError where another command has finished one of the runs meanwhile, with other weights.
    """
    _keep_record(bundle, store.objects, origin)
    for number in lacks.proposals:
        Searches(store.objects, bundle.search).bring(number, bundle.read(bundle.proposals[number]))
    for id in lacks.runs:
        _write_run(bundle, store, id)
    for id, hashes in lacks.evaluations.items():
        if (done := store.done(id)) is not None:
            _write_evaluations(bundle, store, id, done, hashes)
    return _write_folder(bundle, store)


def _keep_record(bundle: Bundle, objects: Objects, origin: str) -> None:
    """First of all: from then on nobody takes these runs for ones that nothing refers to."""
    key = f"{IMPORTS}/{bundle.digest[:12]}"
    if (found := objects.get(key)) is not None:
        try:
            unseal(found)
        except ValueError as error:
            objects.reject(key, found, str(error))
    about = {"from": origin, "sweep": bundle.sweep, "profile": bundle.profile, "runs": sorted(bundle.runs)}
    objects.create(key, seal(about))


def _write_run(bundle: Bundle, store: Store, id: str) -> None:
    run, objects = bundle.runs[id], store.objects
    for name in run.done.files:
        key = f"{run_folder(id)}/{run.done.attempt}/{name}"
        objects.put(key, bundle.read(key))
    if run.weights is not None:
        _write_evaluations(bundle, store, id, run.done, [*run.evaluations])
    if not objects.create(done_key(id), bundle.read(done_key(id))):
        done = read_done(objects, id)
        if other := _difference(run, done) if done else "cannot be read back":
            raise BundleError(f"run {id} {other}: another command has finished it just now, and what it wrote stays")
    checkpoints.delete_all(objects, run_folder(id))


def _write_evaluations(bundle: Bundle, store: Store, id: str, done: Done, hashes: list[str]) -> None:
    """Of the attempt that counts there, whichever it is in the bundle: the weights are the same."""
    run, kept = bundle.runs[id], store.evaluations(id, done)
    for hash in hashes:
        place = f"{run_folder(id)}/{evaluation_name(run.done.attempt, hash)}"
        packed = bundle.read(f"{place}.npz") if run.evaluations[hash] else None
        kept.add(hash, bundle.read(f"{place}.json"), packed)


def _write_folder(bundle: Bundle, store: Store) -> Folder:
    """Where nothing is, or a part of just this one, which an import left that was cut short."""
    objects, wanted = store.objects, {name.removeprefix(f"{bundle.folder}/"): name for name in bundle.view}
    there = objects.published(bundle.folder)
    if any(name not in wanted or not _is_same(bundle, objects, wanted[name]) for name in there):
        return Folder.LEFT
    if len(there) == len(wanted):
        return Folder.THE_SAME
    if (claim := store.claim(f"sweep/{bundle.folder}")) is None:
        return Folder.CLAIMED
    with claim:
        for name in bundle.view:
            objects.put(name, bundle.read(name))
    return Folder.WRITTEN


def _is_same(bundle: Bundle, objects: Objects, name: str) -> bool:
    return digest(objects.get(name) or b"") == bundle.digest_of(name)


def imported(objects: Objects) -> set[str]:
    """The ids of all runs that bundles have brought: they are kept, though no sweep here may ask for them.

    Raises DamagedError where a record of them is not as it was written: nobody knows then which runs are meant.
    """
    return {
        id for key in objects.list(IMPORTS) if RECORD.fullmatch(key.rpartition("/")[2]) for id in _ids(objects, key)
    }


def _ids(objects: Objects, key: str) -> Iterator[str]:
    try:
        ids = unseal(objects.get(key) or b"")["runs"]
        if not (isinstance(ids, list) and all(isinstance(id, str) and RUN_ID.fullmatch(id) for id in ids)):
            raise ValueError("its runs are no ids")
        yield from ids
    except (ValueError, LookupError) as error:
        raise DamagedError(
            f"{objects.path(key)} is damaged ({error}): it says which runs were imported. Import that bundle again, or"
            " delete it if they need not be kept"
        ) from error
