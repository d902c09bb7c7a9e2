"""A sweep as its places and its distinct runs, and who waits for whom. Pure code: no torch, no Ray.

plan = build_plan(load_sweep("sweeps/fickle.yaml"), data_dir)
plan.runs["3f2a..."].waits_for   ->   ids of the teachers that must be done before this student starts
plan.places                      ->   every (role, point, seed) that asks for a run: the rows of the table
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtune.config import Sweep
from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.evaluation.evaluation import declared, in_the_end, named, watched
from kdtune.evaluation.metric import Metric
from kdtune.garbage import uncollected
from kdtune.networks import Network, Student, Teacher
from kdtune.planning.axes import refuse_deafness, refuse_idle_axes
from kdtune.planning.files import file_digest
from kdtune.planning.place import Place
from kdtune.run import Choice, Run
from kdtune.sweepfile.load import SweepFile, SweepPoint


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


@uncollected()
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
        runs_at.append(frozenset(_heard(place.run).id for place in here))
    proposed = file.search is not None and file.points is not file.ends  # drawn: no two differ in one axis
    if epochs is None and not proposed:  # where all runs are as long, an axis of lengths changes none
        refuse_idle_axes(file, runs_at)
        refuse_deafness(file, [place.run for place in places.values() if place.role == "student"])
    sweep = (file.points or file.ends)[0].sweep
    titles = ", ".join(dict.fromkeys(dataset.heading for dataset in contents or _datasets(sweep)))
    return Plan(sweep.name, file.profile, titles, file.axes, in_the_end(sweep.evaluation), tuple(places.values()))


Contents = Mapping[Dataset, dict[str, Any]]  # what a run's description says of each


def _datasets(sweep: Sweep) -> list[Dataset]:
    """The student's first: it is what the sweep is about. DataError where a network cannot answer for its images."""
    student = sweep.dataset_of(sweep.student)
    others = {part: sweep.dataset_of(network) for part, network in sweep.networks.items() if part != "student"}
    if not sweep.asks:
        others.pop("teacher", None)
    for part, other in others.items():
        if other != student and not other.alike(student):
            told = f"{other.told} and {student.told}"
            raise DataError(f"a {part} answers for its student's images: {told}; both must be alike")
    return [student, *others.values()]


def _places_of(point: SweepPoint, contents: Contents, epochs: int | None) -> Iterator[Place]:
    sweep = point.sweep
    pool: list[Run] = []
    if sweep.teacher is not None and sweep.asks:
        pool = list(_teachers(sweep, sweep.teacher, contents, epochs))
        yield from (Place(run, "teacher", point.teacher_parameters) for run in pool)
    source: dict[int, Run] = {}
    for part, learner in sweep.learners.items():
        runs = {seed: _learning(sweep, learner, pool, contents, seed, epochs) for seed in sweep.seeds}
        parameters = point.student_parameters
        if part == "source":
            source, parameters = runs, point.source_parameters
        elif source:
            runs = {seed: run.model_copy(update={"source": _alone(source[seed])}) for seed, run in runs.items()}
        yield from (Place(run, part, parameters, point.led_by(part)) for run in runs.values())


def _learning(
    sweep: Sweep, learner: Student, pool: list[Run], contents: Contents, seed: int, epochs: int | None
) -> Run:
    """A run of a student or of a source, which may have a teacher."""
    run = _trained(sweep, learner, contents, seed, epochs)
    asks, loss = sweep.asks_teacher(learner), learner.objective
    if asks or loss.needs_teacher:
        loss = loss.read_from(named(sweep.evaluation, loss.calibration).hash) if loss.calibration is not None else loss
        given = loss.given and file_digest(loss.given.file, "the teacher's answers")
        run = run.model_copy(update={"loss": loss, "answers_digest": given})
    return run.model_copy(update={"teacher": _choice(sweep, pool, seed)}) if asks else run


def _heard(run: Run) -> Run:
    """The run without what nobody looks at; its id is another one all the same."""
    return run.model_copy(update={"noise": run.noise.model_copy(update={"target": ()})}) if run.deaf else run


def _alone(run: Run) -> Choice:
    return Choice(runs=(run.id,), rule="paired")


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
    for seed in sweep.pool:
        run = _trained(sweep, teacher, contents, seed, epochs)
        yield run if teacher.trained else run.model_copy(update={"recipe": None, "watch": ()})


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
        return Choice(runs=tuple(run.id for run in pool if run.seed == select.paired_with(seed)), rule="paired")
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
