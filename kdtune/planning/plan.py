"""A sweep as its distinct runs, and who waits for whom. Pure code: no torch, no Ray.

plan = build_plan(sweepfile.load("sweeps/fickle.yaml"), data_dir)
plan.runs["3f2a..."].waits_for   ->   ids of the teachers that must be done before this student starts
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtune.config import Choice, Network, Run, Sweep, Teacher
from kdtune.data.dataset import Dataset
from kdtune.data.files import DataError
from kdtune.sweepfile.load import SweepFile, SweepPoint

SPELLED = 4  # axes; of more, a run's label names those alone that differ from the sweep's first point


@dataclass(frozen=True)
class PlannedRun:
    """A run as one sweep sees it: its role, and the axis values that lead to it."""

    run: Run
    role: str  # "teacher", "source" or "student"
    parameters: dict[str, Any]  # only the axes that this run's part of the file uses
    teacher_parameters: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)  # the point of the sweep's first run of this role

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def waits_for(self) -> tuple[str, ...]:
        return self.run.waits_for

    @property
    def point(self) -> dict[str, Any]:
        """The axis values that make it what it is: for a student its teacher's too."""
        return self.teacher_parameters | self.parameters

    @cached_property
    def label(self) -> str:
        """Its point, without its seed: `student dropout=0.2`."""
        told = self.point
        if len(told) > SPELLED and self.first:
            told = {axis: value for axis, value in told.items() if axis not in self.first or value != self.first[axis]}
            if not told:
                return f"{self.role} as first"
        return " ".join([self.role, *(f"{axis}={word(value)}" for axis, value in told.items())])

    @cached_property
    def name(self) -> str:
        """What a person reads: `student dropout=0.2 seed=1`."""
        return f"{self.label} seed={self.run.seed}" if self.run.seed is not None else self.label


@dataclass(frozen=True)
class Plan:
    name: str
    profile: str
    dataset: str  # its title, which every figure and table names
    axes: tuple[str, ...]
    evaluation: Any  # config.Evaluation: a tuple of evaluators
    runs: dict[str, PlannedRun]  # in written order; a teacher always before its students
    shared: int = 0  # runs that points of the sweep have in common and that are trained once

    @property
    def evaluators(self) -> dict[str, str]:
        """Evaluator names by hash."""
        return {evaluator.hash: evaluator.key for evaluator in self.evaluation}

    def only(self, wanted: dict[str, Any]) -> Plan:
        """The runs whose parameters and seed are as wanted, and all that they wait for."""
        chosen = {
            id: planned
            for id, planned in self.runs.items()
            if all(self._value(planned, axis) == value for axis, value in wanted.items())
        }
        students = {id: planned for id, planned in chosen.items() if planned.role == "student"} or chosen
        needed = set(students)
        for id, planned in reversed(self.runs.items()):  # what a run waits for stands before it
            if id in needed:
                needed |= set(planned.waits_for)
        return replace(self, runs={id: planned for id, planned in self.runs.items() if id in needed})

    @staticmethod
    def _value(planned: PlannedRun, axis: str) -> Any:
        beside = {"seed": planned.run.seed, "role": planned.role, "id": planned.id}
        return beside[axis] if axis in beside else planned.point.get(axis)


def build_plan(file: SweepFile, data_dir: Path, epochs: int | None = None) -> Plan:
    """The plan of a sweep file. `epochs` shortens every run, which thereby gets another id.

    Raises DataError where a data folder or a teacher's checkpoint cannot be read.
    """
    runs: dict[str, PlannedRun] = {}
    contents: dict[Dataset, dict[str, Any]] = {}
    first: dict[str, dict[str, Any]] = {}
    shared = 0
    for point in file.points:
        dataset = point.sweep.dataset
        if dataset not in contents:
            contents[dataset] = dataset.description(data_dir)
        for planned in _runs_of(point, contents[dataset], epochs):
            shared += planned.id in runs
            named = replace(planned, first=first.setdefault(planned.role, planned.point))
            runs.setdefault(planned.id, named)
    sweep = file.points[0].sweep
    return Plan(sweep.name, file.profile, sweep.dataset.title, file.axes, sweep.evaluation, runs, shared)


def _runs_of(point: SweepPoint, content: dict[str, Any], epochs: int | None) -> Iterator[PlannedRun]:
    sweep = point.sweep
    pool: list[Run] = []
    asks = sweep.student.asks
    if sweep.teacher is not None and asks:
        pool = list(_teachers(sweep, sweep.teacher, content, epochs))
        yield from (PlannedRun(run, "teacher", point.teacher_parameters) for run in pool)
    for seed in sweep.seeds:
        run = _trained(sweep, sweep.student, content, seed, epochs)
        if asks:
            run = run.model_copy(update={"loss": sweep.student.objective, "teacher": _choice(sweep, pool, seed)})
        yield PlannedRun(run, "student", point.student_parameters, point.teacher_parameters if asks else {})


def _teachers(sweep: Sweep, teacher: Teacher, content: dict[str, Any], epochs: int | None) -> Iterator[Run]:
    if teacher.checkpoint is not None:
        yield Run(
            dataset=sweep.dataset,
            content=content,
            model=teacher.model,
            normalization=teacher.normalization,
            checkpoint=teacher.checkpoint,
            checkpoint_digest=_file_digest(teacher.checkpoint),
        )
        return
    for seed in teacher.seeds or sweep.seeds:
        yield _trained(sweep, teacher, content, seed, epochs)


def _trained(sweep: Sweep, network: Network, content: dict[str, Any], seed: int, epochs: int | None) -> Run:
    recipe = network.recipe if epochs is None else network.recipe.model_copy(update={"epochs": epochs})
    return Run(
        dataset=sweep.dataset,
        content=content,
        model=network.model,
        normalization=network.normalization,
        recipe=recipe,
        seed=seed,
        noise=network.noise,
        loss=network.loss,
    )


def _choice(sweep: Sweep, pool: list[Run], seed: int) -> Choice:
    select = sweep.teacher.select if sweep.teacher else None
    if select is None:
        return Choice(runs=(pool[0].id,), rule="given")
    if select.rule == "paired":
        return Choice(runs=tuple(run.id for run in pool if run.seed == seed), rule="paired")
    accuracy = next(evaluator for evaluator in sweep.evaluation if evaluator.key == "accuracy")
    return Choice(runs=tuple(run.id for run in pool), rule="best", metric=select.metric, evaluator=accuracy.hash)


def _file_digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: the teacher's checkpoint cannot be read ({error.strerror})") from error


def word(value: Any) -> str:
    """An axis value as people read it: `0.2`, `null`, and a mapping as `crop={padding=4,mode=reflect},flip={}`."""
    if isinstance(value, dict):
        parts = {
            key: f"{{{word(part)}}}" if isinstance(part, dict) and part else word(part) for key, part in value.items()
        }
        return ",".join(f"{key}={part}" for key, part in parts.items()) or "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
