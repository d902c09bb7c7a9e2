"""A sweep as its places and its distinct runs, and who waits for whom. Pure code: no torch, no Ray.

plan = build_plan(load_sweep("sweeps/fickle.yaml"), data_dir)
plan.runs["3f2a..."].waits_for   ->   ids of the teachers that must be done before this student starts
plan.places                      ->   every (role, point, seed) that asks for a run: the rows of the table
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtune.config import Network, Sweep, Teacher
from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.evaluation.evaluation import declared, in_the_end, named, watched
from kdtune.evaluation.metric import Metric
from kdtune.planning.axes import refuse_idle_axes
from kdtune.planning.files import file_digest
from kdtune.run import Choice, Run
from kdtune.sweepfile.load import SweepFile, SweepPoint
from kdtune.sweepfile.values import comparable, word

SPELLED = 4  # axes; of more, a label names those alone that differ from the sweep's first point


@dataclass(frozen=True)
class Place:
    """Where a sweep asks for a run: a role, a point of the grid, a seed. A run may be asked for at several places."""

    run: Run
    role: str  # "teacher", "source" or "student"
    parameters: dict[str, Any]  # only the axes that this run's part of the file uses
    teacher_parameters: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)  # the point of the sweep's first run of this role
    confirms: bool = False  # a search's choice, done again with seeds that have chosen nothing

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def waits_for(self) -> tuple[str, ...]:
        return self.run.waits_for

    @property
    def point(self) -> dict[str, Any]:
        """The axis values that lead to it: for a student its teacher's too."""
        return self.teacher_parameters | self.parameters

    @cached_property
    def condition(self) -> Hashable:
        """Role and point. Places of one condition differ in their seeds alone: what a mean is taken over."""
        return Place.condition_of(self.role, self.teacher_parameters, self.parameters, self.confirms)

    @staticmethod
    def condition_of(
        role: str, of_teacher: Mapping[str, Any], own: Mapping[str, Any], confirms: bool = False
    ) -> Hashable:
        """The condition of such a place."""
        return role, comparable(of_teacher), comparable(own), confirms

    @property
    def key(self) -> Hashable:
        """What no other place of its sweep has."""
        return self.id, self.condition

    @cached_property
    def label(self) -> str:
        """Its condition in words: `student dropout=0.2`."""
        told = self.point
        if len(told) > SPELLED and self.first:
            told = {axis: value for axis, value in told.items() if axis not in self.first or value != self.first[axis]}
            if not told:
                return f"{self.told_role} as first"
        return " ".join([self.told_role, *(f"{axis}={word(value)}" for axis, value in told.items())])

    @property
    def told_role(self) -> str:
        return f"confirming {self.role}" if self.confirms else self.role

    @cached_property
    def name(self) -> str:
        """What a person reads: `student dropout=0.2 seed=1`."""
        return f"{self.label} seed={self.run.seed}" if self.run.seed is not None else self.label

    def without(self, axis: str) -> Place:
        """The same without an axis: as if it had not been one."""

        def rest(point: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in point.items() if name != axis}

        own, teachers, first = map(rest, (self.parameters, self.teacher_parameters, self.first))
        return replace(self, parameters=own, teacher_parameters=teachers, first=first)

    def has(self, wanted: Mapping[str, Any]) -> bool:
        """Whether axes, seed, role and id are as wanted, by value or by the word that names have for it.

        Numbers compare as numbers, mappings in any order. An axis that is not there is not one that is null.
        """
        known = {**self.point, "seed": self.run.seed, "role": self.role, "id": self.id}
        return all(axis in known and _is(known[axis], value) for axis, value in wanted.items())


@dataclass(frozen=True)
class Plan:
    """All that a sweep asks for."""

    name: str
    profile: str
    dataset: str  # the titles of its data sets, which every figure and table names
    axes: tuple[str, ...]
    evaluation: Any  # config.Evaluation: a tuple of evaluators
    places: tuple[Place, ...]  # in written order; a run stands first before all that wait for it

    @cached_property
    def runs(self) -> dict[str, Place]:
        """The distinct runs by id, in written order, each at the first place that asks for it.

        One that is asked for as a teacher anywhere stands at such a place: it gets what teachers get.
        """
        found: dict[str, Place] = {}
        for place in self.places:
            if place.id not in found or (place.role == "teacher" != found[place.id].role):
                found[place.id] = place
        return found

    @property
    def shared(self) -> int:
        """How many runs are asked for at more than one place."""
        return sum(count > 1 for count in Counter(place.id for place in self.places).values())

    @property
    def evaluators(self) -> dict[str, str]:
        """Evaluator names by hash."""
        return {evaluator.hash: evaluator.key for evaluator in self.evaluation}

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """What the evaluators may measure, by name, in written order; of several data sets, on any of them."""
        datasets = dict.fromkeys(planned.run.dataset for planned in self.runs.values())
        found = [declared(self.evaluation, dataset) for dataset in datasets]
        return {name: metric for each in found for name, (_, metric) in each.items()}

    @property
    def headlines(self) -> list[Metric]:
        """The metrics that stand for the sweep, in the order of its evaluators."""
        return [metric for metric in self.metrics.values() if metric.headline]

    def of(self, ids: Collection[str]) -> Plan:
        """The plan of these runs alone, at all their places."""
        return replace(self, places=tuple(place for place in self.places if place.id in ids))

    def matching(self, wanted: Mapping[str, Any]) -> list[Place]:
        """The places whose axes, seed, role and id are as wanted, and no others."""
        return [place for place in self.places if place.has(wanted)]

    def only(self, wanted: Mapping[str, Any]) -> Plan:
        """The places that are as wanted, of students where there are any, and the runs that they wait for."""
        chosen = self.matching(wanted)
        chosen = [place for place in chosen if place.role == "student"] or chosen
        asked = {place.key for place in chosen}
        waited = {id for place in chosen for id in place.waits_for}
        for place in reversed(self.places):  # what a run waits for stands before it
            if place.id in waited:
                waited.update(place.waits_for)
        awaited = {self.runs[id].key for id in waited}
        return replace(self, places=tuple(place for place in self.places if place.key in asked | awaited))


def data_sets(runs: Mapping[str, Place]) -> list[Run]:
    """For each data set of these runs one that uses it."""
    return [*{json.dumps(place.run.content): place.run for place in runs.values()}.values()]


def build_plan(file: SweepFile, data_dir: Path, epochs: int | None = None) -> Plan:
    """The plan of a sweep file. `epochs` shortens every run, which thereby gets another id.

    Raises DataError where a data folder or a teacher's checkpoint cannot be read, SweepFileError for an axis that
    changes no run.
    """
    places: dict[Hashable, Place] = {}
    contents: dict[Dataset, dict[str, Any]] = {}
    first: dict[str, dict[str, Any]] = {}
    runs_at: list[frozenset[str]] = []  # of every point
    for point in file.points:
        for dataset in _datasets(point.sweep):
            if dataset not in contents:
                contents[dataset] = dataset.description(data_dir)
        here = list(_places_of(point, contents, epochs))
        for place in here:
            named = replace(place, first=first.setdefault(place.role, place.point))
            places.setdefault(named.key, named)
        runs_at.append(frozenset(place.id for place in here))
    proposed = file.search is not None and file.points is not file.ends  # points by chance: no axis is idle for two
    if epochs is None and not proposed:  # where all runs are as long, an axis of lengths changes none
        refuse_idle_axes(file, runs_at)
    sweep = (file.points or file.ends)[0].sweep
    titles = ", ".join(dict.fromkeys(dataset.heading for dataset in contents or _datasets(sweep)))
    return Plan(sweep.name, file.profile, titles, file.axes, in_the_end(sweep.evaluation), tuple(places.values()))


Contents = Mapping[Dataset, dict[str, Any]]  # what a run's description says of each


def _datasets(sweep: Sweep) -> list[Dataset]:
    """The student's first: it is what the sweep is about. DataError where its teacher cannot answer for its images."""
    student = sweep.dataset_of(sweep.student)
    if sweep.teacher is None or not sweep.asks:
        return [student]
    teacher = sweep.dataset_of(sweep.teacher)
    if teacher != student and not teacher.alike(student):
        told = f"{teacher.told} and {student.told}"
        raise DataError(f"a teacher answers for its student's images: {told}; both must be alike")
    return [student, teacher]


def _places_of(point: SweepPoint, contents: Contents, epochs: int | None) -> Iterator[Place]:
    sweep = point.sweep
    pool: list[Run] = []
    asks = sweep.asks
    if sweep.teacher is not None and asks:
        pool = list(_teachers(sweep, sweep.teacher, contents, epochs))
        yield from (Place(run, "teacher", point.teacher_parameters) for run in pool)
    loss = sweep.student.objective
    loss = loss.read_from(named(sweep.evaluation, loss.calibration).hash) if loss.calibration is not None else loss
    given = loss.given and file_digest(loss.given.file, "the teacher's answers")
    for seed in sweep.seeds:
        run = _trained(sweep, sweep.student, contents, seed, epochs)
        if asks or loss.needs_teacher:
            run = run.model_copy(update={"loss": loss, "answers_digest": given})
        if asks:
            run = run.model_copy(update={"teacher": _choice(sweep, pool, seed)})
        yield Place(run, "student", point.student_parameters, point.teacher_parameters if asks else {})


def _teachers(sweep: Sweep, teacher: Teacher, contents: Contents, epochs: int | None) -> Iterator[Run]:
    if teacher.checkpoint is not None:
        dataset = sweep.dataset_of(teacher)
        yield Run(
            dataset=dataset,
            content=contents[dataset],
            model=teacher.model,
            normalization=teacher.normalization,
            checkpoint=teacher.checkpoint,
            checkpoint_digest=file_digest(teacher.checkpoint, "the teacher's checkpoint"),
            rename=teacher.rename,
        )
        return
    for seed in teacher.seeds or sweep.seeds:
        yield _trained(sweep, teacher, contents, seed, epochs)


def _trained(sweep: Sweep, network: Network, contents: Contents, seed: int, epochs: int | None) -> Run:
    recipe = network.recipe if epochs is None else network.recipe.model_copy(update={"epochs": epochs})
    dataset = sweep.dataset_of(network)
    return Run(
        dataset=dataset,
        content=contents[dataset],
        model=network.model,
        normalization=network.normalization,
        recipe=recipe,
        seed=seed,
        noise=network.noise,
        loss=network.loss and network.loss.under(moved=bool(network.noise.knobs("input"))),
        watch=watched(sweep.evaluation),
    )


def _choice(sweep: Sweep, pool: list[Run], seed: int) -> Choice:
    select = sweep.teacher.select if sweep.teacher else None
    if sweep.teacher is None or select is None:
        return Choice(runs=(pool[0].id,), rule="given")
    if select.rule == "paired":
        return Choice(runs=tuple(run.id for run in pool if run.seed == seed), rule="paired")
    if select.rule == "average":
        return Choice(runs=tuple(run.id for run in pool), rule="average")
    evaluator, metric = declared(sweep.evaluation, sweep.dataset_of(sweep.teacher))[select.metric or ""]
    return Choice(
        runs=tuple(run.id for run in pool),
        rule="best",
        metric=metric.name,
        evaluator=evaluator.hash,
        better="lower" if metric.better == "lower" else None,
    )


def _is(value: Any, wanted: Any) -> bool:
    alike = comparable(value, in_order=False) == comparable(wanted, in_order=False)
    return alike or (isinstance(wanted, str) and wanted.strip("{}") == word(value).strip("{}"))
