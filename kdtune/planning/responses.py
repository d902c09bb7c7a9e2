"""Stored answers of teachers: what they cost and save, and how much room they take. Arithmetic, like `cost`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from kdtune.planning.plan import Plan
from kdtune.planning.sizes import images, model_cost
from kdtune.run import Run

FLOAT16 = 2  # bytes


@dataclass(frozen=True)
class Listening:
    """Students that learn from the same answers: of one teacher, or the best of one pool, to the same views."""

    students: int
    stored: bool
    asking: float  # multiply-adds of their teacher, were it asked at every step of each of them
    storing: float  # of its answers to all views, once
    size: int  # bytes of these


def listening(plan: Plan, ids: Iterable[str]) -> list[Listening]:
    """Those of these runs that ask a teacher for what could be stored, by what they ask."""
    groups: dict[str, list[Run]] = {}
    for run in (plan.runs[id].run for id in ids):
        if not storable(run) or run.recipe is None or run.teacher is None:
            continue
        alike = [run.teacher.model_dump(), run.content, run.recipe.augmentation.model_dump(), run.recipe.precision]
        groups.setdefault(json.dumps([*alike, run.loss is not None and run.loss.stored]), []).append(run)
    return [_of(plan, runs) for runs in groups.values()]


def asking(run: Run) -> bool:
    """Whether it has a teacher that is asked, or looked up, while it trains."""
    return run.loss is not None and run.loss.asks


def answering(run: Run) -> int:
    """How many networks answer as its teacher."""
    return len(run.teacher.runs) if run.teacher is not None and run.teacher.rule == "average" else 1


def storable(run: Run) -> bool:
    """Whether a run could look its teacher's answers up: the teacher has one to every view, and views come back."""
    shown = getattr(run.loss, "teacher_sees", "clean") == "shown"  # a sweep file refuses both, with input noise or not
    alike = not (shown or run.noise.knobs("teacher") or run.dataset.floats)
    return asking(run) and hasattr(run.loss, "responses") and alike


def _of(plan: Plan, runs: list[Run]) -> Listening:
    first = runs[0]
    seen = images(first.dataset)
    teacher = plan.runs[first.teacher.runs[0]].run if first.teacher and first.teacher.runs[0] in plan.runs else first
    forward = model_cost(teacher.model, seen.shape, seen.classes)[1] * answering(first)
    epochs = sum(run.recipe.epochs for run in runs if run.recipe)
    views = first.recipe.augmentation.views if first.recipe else 1
    return Listening(
        students=len(runs),
        stored=bool(first.loss and first.loss.stored),
        asking=float(forward * seen.train * seen.repeat * epochs),
        storing=float(forward * seen.train * views),
        size=FLOAT16 * seen.train * views * seen.classes,
    )
