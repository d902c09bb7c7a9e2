"""Runs to which nothing refers any more: a sweep's folder is only a view, and is deleted without its runs.

A run is referred to by a plan.json of the results, by an import (`runs/imports/<key>`), by a live claim, and by each
run that is kept and learned from it, at every level. A run of which something was written within the last hour is kept
too: a sweep may be about to begin. What cannot be read might refer to anything: that is an error, and nothing is said
to be unreferred.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from kdtune.store.claims import Claims
from kdtune.store.done import DamagedError
from kdtune.store.encoding import from_json
from kdtune.store.forgetting import Lineage
from kdtune.store.importing import imported
from kdtune.store.layout import CLAIMS, DONE, RESPONSES, RUN_ID, run_folder
from kdtune.store.objects import Objects

RECENT_S = 3600.0
PLAN = "/plan.json"


class UnknownReference(Exception):
    """Something that may refer to runs does not tell to which. The message names it."""


@dataclass(frozen=True)
class Unreferred:
    """What was found. Sizes in bytes, `changed` in seconds since 1970, by run."""

    runs: list[str]  # a teacher before its students
    recent: list[str]  # nothing refers to these either, but they changed within the last hour
    sizes: dict[str, int]
    changed: dict[str, float]
    responses: int  # bytes of teachers' stored answers, of which nobody can tell whose they are
    lineage: Lineage


def unreferred(objects: Objects, claims: Claims, now: float | None = None) -> Unreferred:
    """Raises UnknownReference, StorageError. Writes nothing."""
    now = time.time() if now is None else now
    _refuse_links(objects)
    entries, lineage = objects.sizes(), Lineage(objects)
    sizes, changed, responses = dict.fromkeys(lineage.runs, 0), dict.fromkeys(lineage.runs, 0.0), 0
    for key, (size, when) in entries.items():
        responses += size if key.startswith(f"{RESPONSES}/") else 0
        if (id := _run_of(key)) in lineage.runs:
            sizes[id] += size
            changed[id] = max(changed[id], when)
    plans = {key.removesuffix(PLAN): _plan(objects, key) for key in entries if _is_plan(key)}
    planned = {id: teachers for plan in plans.values() for id, teachers in plan.items()}
    referred = planned.keys() | _imported(objects) | {*_claimed(entries, claims, plans.keys())}
    recent = {id for id in lineage.runs if now - changed[id] < RECENT_S}
    kept = _with_teachers(objects, referred | recent, lineage, planned)
    gone = [id for id in lineage.runs if id not in kept]
    alone = recent - _with_teachers(objects, referred, lineage, planned)
    return Unreferred(lineage.with_learners(gone), sorted(alone), sizes, changed, responses, lineage)


def _imported(objects: Objects) -> set[str]:
    try:
        return imported(objects)
    except DamagedError as error:
        raise UnknownReference(str(error)) from error


def _is_plan(key: str) -> bool:
    """At any depth: what somebody has put aside, with a sweep's folder, refers to its runs still."""
    return key.endswith(PLAN) and not key.startswith("runs/")


def _run_of(key: str) -> str:
    """The run to which an object belongs; of others something that is no id."""
    parts = key.split("/")
    if key.startswith(f"{DONE}/"):
        return parts[2]
    return parts[1] if parts[0] == "runs" and len(parts) > 2 else ""


def _plan(objects: Objects, key: str) -> dict[str, set[str]]:
    """The runs of a plan.json, with those that each waits for."""
    try:
        plan = from_json(objects.get(key) or b"")
        return {_id(run["id"]): {_id(id) for id in run.get("waits_for", ())} for run in plan["runs"]}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnknownReference(
            f"{objects.path(key)} cannot be read ({type(error).__name__}: {error}), so nobody can tell which runs it "
            "refers to; give its sweep's command again, which writes it anew, or delete it"
        ) from error


def _id(value: object) -> str:
    if not (isinstance(value, str) and RUN_ID.fullmatch(value)):
        raise ValueError(f"{value!r} is no run's id")
    return value


def _claimed(entries: Iterable[str], claims: Claims, planned: Collection[str]) -> Iterator[str]:
    """Runs that somebody works on. UnknownReference where a sweep is at work that has not told its plan yet."""
    for key in entries:
        name = key.removeprefix(f"{CLAIMS}/")
        if name == key or claims.owner(name) is None:
            continue
        if RUN_ID.fullmatch(name):
            yield name
        folder = name.removeprefix("sweep/")
        if folder != name and folder not in planned:
            raise UnknownReference(f"a command is about to begin with {folder}, and its plan is not there yet; wait")


def _with_teachers(objects: Objects, ids: Iterable[str], lineage: Lineage, planned: Mapping[str, set[str]]) -> set[str]:
    """These runs and all that they learned from, at every level. UnknownReference for one that does not tell."""
    found: set[str] = set()
    ahead = [*ids]
    while ahead:
        if (id := ahead.pop()) in found:
            continue
        found.add(id)
        if id in lineage.runs and not lineage.runs[id] and id not in planned:
            raise UnknownReference(
                f"{objects.path(run_folder(id))} has no run.yaml that can be read, so nobody can tell whom its run "
                "learned from; `kdtune forget` it, or put that file back"
            )
        ahead += lineage.parents.get(id, set()) | planned.get(id, set())
    return found


def _refuse_links(objects: Objects) -> None:
    """A sweep's folder that is a link is not followed, and what it refers to not seen. UnknownReference."""
    if (root := objects.local) is None or not root.is_dir():
        return
    folders = [path for path in sorted(root.iterdir()) if path.name != "runs" and path.is_dir()]
    for path in (*folders, *(inner for each in folders if not each.is_symlink() for inner in sorted(each.iterdir()))):
        if path.is_symlink() and path.is_dir():
            raise UnknownReference(f"{path} is a link, which is not followed: what it refers to is not known")
