"""Runs that are to go: who learned from them, and the way to the trash, `runs/trash/<time>/`.

Nothing is deleted: put back by hand, `<id>/`, `done/<id>` and `stopped/<id>` under `runs/` again, a run is what it was.
`done` goes first, that of students before that of their teachers, so whenever this is cut short, no run counts that
rests on one that is gone; giving the command again moves the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from graphlib import TopologicalSorter
from typing import Any

from kdtune.store.claims import new_attempt
from kdtune.store.encoding import from_yaml, unseal
from kdtune.store.layout import DESCRIPTION, DONE, EVALUATIONS, RUN_ID, TRASH, done_key, run_folder, stopped_key
from kdtune.store.objects import Objects
from kdtune.store.standing import READERS

log = logging.getLogger(__name__)


class Lineage:
    """All runs of a store by id, as their run.yaml describes them, and who learns from whom, whatever their sweeps."""

    def __init__(self, objects: Objects) -> None:
        described: dict[str, list[str]] = {}
        for key in objects.list("runs"):
            parts = key.split("/")
            id = parts[2] if key.startswith(f"{DONE}/") else parts[1]
            if RUN_ID.fullmatch(id):
                described.setdefault(id, []).extend([key] if parts[3:] == [DESCRIPTION] else [])
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(lambda keys: _description(objects, keys), described.values())
            self.runs: dict[str, dict[str, Any]] = dict(zip(described, read, strict=True))
        self.parents = {id: _parents(description) for id, description in self.runs.items()}

    def with_learners(self, ids: Iterable[str]) -> list[str]:
        """These runs and all that learned from them, or from those, at every level; a teacher before its students."""
        children: dict[str, list[str]] = {}
        for id, parents in self.parents.items():
            for parent in parents:
                children.setdefault(parent, []).append(id)
        found: dict[str, None] = {}
        ahead = [*ids]
        while ahead:
            if (id := ahead.pop()) not in found:
                found[id] = None
                ahead += children.get(id, [])
        order = TopologicalSorter({id: self.parents.get(id, set()) & found.keys() for id in found})
        return [*order.static_order()]

    def name(self, id: str) -> str:
        """What a run is, as far as its own description tells: the sweep that named its parameters is not known here."""
        description = self.runs[id]
        model = description.get("model")
        words = ["student" if self.parents[id] else "run", *(model if isinstance(model, dict) else [str(model)])]
        return " ".join([*words, f"seed={description['seed']}"] if "seed" in description else words)


def forget(objects: Objects, ids: Sequence[str]) -> str:
    """Move runs to the trash; returns its key. `ids`: a teacher before its students, as `with_learners` has them."""
    trash = f"{TRASH}/{new_attempt()}"
    for id in reversed(ids):
        objects.move(done_key(id), f"{trash}/done/{id}")
    for id in reversed(ids):  # the folder last: while it is there the command given again finds the run
        objects.move(stopped_key(id), f"{trash}/stopped/{id}")
        objects.move(run_folder(id), f"{trash}/{id}")
    return trash


def evaluations_of(objects: Objects, id: str, evaluator: str) -> list[str]:
    """The keys of what an evaluator (its name or its hash) has measured of a run, in all attempts, without suffix."""
    found = []
    for key in objects.list(run_folder(id)):
        parts = key.split("/")
        if parts[3:4] == [EVALUATIONS] and key.endswith(".json"):
            place = key.removesuffix(".json")
            if evaluator in (parts[4].removesuffix(".json"), _evaluator(objects.get(key) or b"")):
                found.append(place)
    return found


def forget_evaluations(objects: Objects, places: Iterable[str]) -> str:
    """Move results (`evaluations_of`) to the trash; returns its key. Their runs stay, and are measured again."""
    trash = f"{TRASH}/{new_attempt()}"
    for place in places:
        for kind in ("json", "npz"):  # without the first the second does not count
            objects.move(f"{place}.{kind}", f"{trash}/{place.removeprefix('runs/')}.{kind}")
    return trash


def _description(objects: Objects, keys: Sequence[str]) -> dict[str, Any]:
    """The newest that can be read; the attempts of a run all have the same."""
    for key in sorted(keys, reverse=True):
        try:
            return from_yaml(objects.get(key) or b"")
        except ValueError as error:
            log.warning("%s is damaged (%s) and cannot tell whom its run learned from", objects.path(key), error)
    return {}


def _parents(description: dict[str, Any]) -> set[str]:
    """The runs that one chose from: it learned from one of them, and its choice hung on all."""
    choices = [description.get("teacher"), description.get("source")]
    return {str(id) for choice in choices if isinstance(choice, dict) for id in choice.get("runs") or ()}


def _evaluator(data: bytes) -> str | None:
    try:
        evaluator = unseal(data).get("evaluator")
    except ValueError:
        return None
    return evaluator.get("name") if isinstance(evaluator, dict) else None
