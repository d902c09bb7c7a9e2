"""A search under way: what it has proposed, what became of that, and the plan that grows by it.

A proposal's runs are places of the plan like any other's, its value is the mean of what was measured of them. It is
known when all its runs have ended with a result. One that failed is open: the search goes as far as its lag allows, and
the next command tries again. What is proposed is kept in the store and never drawn again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from kdtune.evaluation.evaluation import declared
from kdtune.extensions import codes_of
from kdtune.identity import id_of
from kdtune.planning.front import ranked
from kdtune.planning.hopeless import all_diverged
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.points import joined, students_of
from kdtune.planning.search import known_to, proposed
from kdtune.planning.watching import CannotGrow
from kdtune.store.encoding import digest, to_json
from kdtune.store.layout import WEIGHTS
from kdtune.store.searches import Record, Searches
from kdtune.store.standing import Standing
from kdtune.store.state import FINISHED, State
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, SweepPoint, load_sweep
from kdtune.sweepfile.source import Source
from kdtune.sweepfile.tree import SweepFileError
from kdtune.sweepfile.values import plain, word

Value = tuple[float, ...] | None  # a number for each objective; None: it diverged, or nothing could be measured


@dataclass(frozen=True)
class Proposal:
    """A point, and its runs: a student for each seed."""

    number: int
    point: Mapping[str, Any]
    runs: tuple[str, ...]


class Searching:
    """The source of a dispatch (`planning.watching.Source`), and what people are told of a search.

    At first the plan has what the file lists and what the store knows to be proposed. Raises DataError, StorageError,
    SweepFileError for an axis that changes no run.
    """

    def __init__(self, file: SweepFile, plan: Plan, data_dir: Path, standing: Standing) -> None:
        if file.search is None:
            raise ValueError(f"{file.path} has no search")
        self.file, self.search, self.data_dir, self.standing = file, file.search, data_dir, standing
        self.plan = replace(plan, places=())  # what the file lists comes back below, as proposals
        self.proposals: list[Proposal] = []
        self.values: list[Value] = []  # of the first proposals, as far as all before them are known
        self.confirming: dict[int, tuple[str, ...]] = {}  # runs that confirm, by proposal
        self.id = self._id()
        self.memory = Searches(standing.store.objects, self.id)
        self.records: dict[int, Record] = {}
        self._take([self._plain(point) for point in file.points])
        kept = self.memory.known()
        while (number := len(self.proposals) + len(self.records)) < self.search.trials and number in kept:
            self.records[number] = kept[number]
        self._take([self._restored(record.point) for record in self.records.values()])
        self._learn(standing.states(self.plan.runs))

    # What a dispatch asks

    def more(self, states: Mapping[str, State]) -> Plan | None:
        """The plan with what can be proposed by now; once all is known, with the runs that confirm."""
        before = self.plan
        self._learn(states)
        while new := self._next():
            self._take(new)
            self._learn(states)  # a point may come again: its runs are known already
        return None if self.plan is before else self.plan

    def foreseen(self) -> Plan:
        """The plan with others in the place of what is not proposed yet: drawn from the space without looking at
        anything, which is what costs are estimated by."""
        return self._foreseen(len(self.proposals), self.complete)

    @property
    def to_come(self) -> int:
        """How many students are not in the plan yet, at most."""
        left = self.search.trials - len(self.proposals)
        confirm = self.search.confirm
        return left * len(self.seeds) + (confirm.points * confirm.seeds if confirm and not self.complete else 0)

    # What people are told

    @property
    def progress(self) -> str:
        return f"{len(self.values)} of {self.search.trials} proposals known"

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.file.points or self.file.ends)[0].sweep.seeds

    @property
    def directions(self) -> list[Any]:
        return [*self.search.objectives.values()]

    @property
    def complete(self) -> bool:
        """Whether all proposals are made and known."""
        return len(self.values) == self.search.trials

    def open(self, states: Mapping[str, State]) -> Iterator[tuple[Proposal, str]]:
        """Proposals with a run that ended without a result, and that run."""
        for proposal in self.proposals[len(self.values) :]:
            troubled = [id for id in proposal.runs if states.get(id) in (State.FAILED, State.SKIPPED, State.STOPPED)]
            if troubled and not self._known(proposal, states):
                yield proposal, troubled[0]

    def drawn_from_others(self) -> list[int]:
        """Numbers of proposals that were drawn by runs with other weights than there are now: these were forgotten, or
        trained anew by other code. They stay as they are."""
        recorded = {number: record.drew_from for number, record in self.records.items()}
        ready = [number for number in recorded if known_to(self.search, number) <= len(self.values)]
        return [number for number in ready if recorded[number] != self._drawn_from(number)]

    @property
    def proposed_file(self) -> SweepFile:
        """The file with all proposals as its points."""
        return self._file([proposal.point for proposal in self.proposals])

    # How it is done

    def _learn(self, states: Mapping[str, State]) -> None:
        """Take in the values of proposals whose runs have ended since; when all are known, plan those that confirm."""
        while len(self.values) < len(self.proposals):
            proposal = self.proposals[len(self.values)]
            if not self._known(proposal, states):
                break
            self.values.append(self._value(proposal, states))
        if self.complete and self.search.confirm is not None and not self.confirming:
            best: dict[tuple[str, ...], int] = {}  # a point that came again counts once
            for place in ranked(self.values, self.directions):
                best.setdefault(self.proposals[place].runs, place)
            chosen = [*best.values()][: self.search.confirm.points]
            self.plan, runs = self._confirmed(self.plan, [self.proposals[place].point for place in chosen])
            self.confirming = dict(zip(chosen, runs, strict=True))

    def _next(self) -> list[Mapping[str, Any]]:
        """The points that can be proposed by what is known now."""
        points: list[Mapping[str, Any]] = [proposal.point for proposal in self.proposals]
        while len(points) < self.search.trials and len(self.values) >= known_to(self.search, len(points)):
            number = len(points)
            by = f"optuna {version('optuna')}"
            mine = Record(proposed(self.search, points, self.values), self._drawn_from(number), by)
            self._refuse_invalid(number, mine.point)
            self.records[number] = self.memory.keep(number, mine)
            points.append(self._restored(self.records[number].point))
        return points[len(self.proposals) :]

    def _known(self, proposal: Proposal, states: Mapping[str, State]) -> bool:
        return all(states.get(id) in FINISHED or self._without_teacher(id, states) for id in proposal.runs)

    def _without_teacher(self, id: str, states: Mapping[str, State]) -> bool:
        """Whether all that it could learn from have diverged: a result too."""
        return states.get(id) is State.SKIPPED and all_diverged(self.plan.runs[id].chooses_from, states)

    def _value(self, proposal: Proposal, states: Mapping[str, State]) -> Value:
        if any(states[id] is not State.DONE for id in proposal.runs):
            return None
        measured = [self.standing.measured(id) for id in proposal.runs]
        found = [[each.get(name) for each in measured] for name in self.search.objectives]
        if any(number is None for numbers in found for number in numbers):
            return None
        return tuple(fmean(map(float, numbers)) for numbers in found)  # type: ignore[arg-type]

    def _refuse_invalid(self, number: int, point: Mapping[str, Any]) -> None:
        """Raises CannotGrow for values that are valid one by one, and not together."""
        try:
            self._file([point])
        except SweepFileError as error:
            told = " ".join(f"{axis}={word(value)}" for axis, value in point.items())
            raise CannotGrow(f"proposal {number} is no sweep, so that the search ends here: {told}: {error}") from error

    def _take(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Points as the next proposals."""
        if points:
            self.plan, runs = self._planned(self.plan, points)
            for point, ids in zip(points, runs, strict=True):
                self.proposals.append(Proposal(len(self.proposals), point, ids))

    def _planned(
        self, plan: Plan, points: Sequence[Mapping[str, Any]], overrides: Sequence[Any] = (), confirms: bool = False
    ) -> tuple[Plan, list[tuple[str, ...]]]:
        """A plan with these points too, and the students of each."""
        file = self._file(points, overrides)
        more = build_plan(file, self.data_dir)
        return joined(plan, more, confirms), students_of(file, more)

    def _file(self, points: Sequence[Mapping[str, Any]], overrides: Sequence[Any] = ()) -> SweepFile:
        """The file at these points."""
        source = Source(self.file.path, self.file.folder, None, self.file.tree)
        found = load_sweep(source, overrides=overrides, at=[*points], max_runs=None)
        return replace(found, profile=self.file.profile)

    def _confirmed(self, plan: Plan, points: Sequence[Mapping[str, Any]]) -> tuple[Plan, list[tuple[str, ...]]]:
        """A plan with these points once more, for seeds that have chosen nothing. Their teachers are the same."""
        if self.search.confirm is None or not points:
            return plan, []
        overrides: list[Any] = [("seeds", [*self.search.confirm.those(self.seeds)])]
        teacher = self.file.ends[0].sweep.teacher
        if teacher and teacher.select and teacher.select.rule != "paired" and not teacher.seeds:
            overrides.append(("teacher.seeds", [*self.seeds]))
        return self._planned(plan, points, overrides, confirms=True)

    def _foreseen(self, number: int, confirmed: bool) -> Plan:
        asked = (number, confirmed)
        if asked not in self._foreseen_at:
            points = [self._by_chance(number) for number in range(number, self.search.trials)]
            plan = self._planned(self.plan, points)[0] if points else self.plan
            if self.search.confirm and not confirmed:
                all_points = [*(proposal.point for proposal in self.proposals), *points]
                plan, _ = self._confirmed(plan, all_points[-self.search.confirm.points :])
            self._foreseen_at = {asked: plan}
        return self._foreseen_at[asked]

    @cached_property
    def _foreseen_at(self) -> dict[tuple[int, bool], Plan]:
        return {}

    def _by_chance(self, number: int) -> dict[str, Any]:
        return {
            axis: each.at(random.Random(f"{self.id}/{number}/{axis}").random())
            for axis, each in self.search.space.items()
        }

    def _plain(self, point: SweepPoint) -> dict[str, Any]:
        """Values by axis, in the order of the space."""
        return {axis: plain(point.at.values[axis], {}) for axis in self.search.space}

    def _restored(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point as it was kept, with the file's own alternatives: the order of their keys may have a meaning."""
        space = self.search.space
        told = {axis: each.told(point[axis]) for axis, each in space.items()}
        return {axis: point[axis] if told[axis] is None else space[axis].value(told[axis]) for axis in space}

    def _drawn_from(self, number: int) -> str:
        """A digest of what proposal `number` is drawn from: how the runs before it ended, and with which weights."""
        before = self.proposals[: known_to(self.search, number)]
        done = [(id, self.standing.look(id).done) for proposal in before for id in proposal.runs]
        ends = [[id, each and each.outcome, each and each.files.get(WEIGHTS)] for id, each in done]
        return digest(to_json(ends)) if ends else ""

    def _id(self) -> str:
        """12 hex digits of all that decides what is proposed: the runs at the ends of the space stand for the sweep.

        Neither the number of trials nor what confirms is part of it: with more of them a search goes on.
        """
        at_ends = replace(self.file, points=self.file.ends)
        self.at_ends = build_plan(at_ends, self.data_dir)
        runs = students_of(at_ends, self.at_ends)
        sweep = self.file.ends[0].sweep
        ends = zip(map(self._plain, self.file.ends), runs, strict=True)
        measured = declared(sweep.evaluation, sweep.dataset_of(sweep.student))
        description = {
            "space": {axis: each.dumped() for axis, each in self.search.space.items()},
            "sampler": self.search.sampler.dumped(),
            "seed": self.search.seed,
            "lag": self.search.lag,
            "objectives": [[name, way, measured[name][0].hash] for name, way in self.search.objectives.items()],
            "seeds": [*self.seeds],
            "listed": [self._plain(point) for point in self.file.points],
            "ends": sorted(json.dumps([point, ids], sort_keys=True) for point, ids in ends),
            "extensions": codes_of(self.search),
        }
        return id_of(description)


def known_plan(
    file: SweepFile, data_dir: Path, store: Store, evaluators: Iterable[str] | None = None
) -> tuple[Plan, Searching | None]:
    """The plan of a file, with all that its search has proposed so far where it has one, and that search. Raises as
    `build_plan` does, StorageError.

    `evaluators`: hashes of those that a run must have been measured by to be known; None: all of the file's.
    """
    plan = build_plan(file, data_dir)
    if file.search is None:
        return plan, None
    standing = Standing(store, plan.evaluators if evaluators is None else evaluators)
    search = Searching(file, plan, data_dir, standing)
    return search.plan, search
