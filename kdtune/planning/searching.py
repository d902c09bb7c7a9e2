"""A search under way: what it has proposed, what became of that, and the plan that grows by it.

A proposal's runs are places of the plan like any other's, its value is the mean of what was measured of them. It is
known when all its runs have ended with a result. One that failed is open: the search goes as far as its lag allows, and
the next command tries again. What is proposed is kept in the store and never drawn again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from kdtune.planning.front import ranked
from kdtune.planning.hopeless import all_diverged
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.points import joined, no_sweep, restored, students_of
from kdtune.planning.search import known_to, proposed
from kdtune.planning.searchid import plain_point, search_id
from kdtune.store.encoding import digest, to_json
from kdtune.store.layout import WEIGHTS
from kdtune.store.searches import Record, Searches
from kdtune.store.standing import Standing
from kdtune.store.state import FINISHED, State
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep
from kdtune.sweepfile.source import Source
from kdtune.sweepfile.tree import SweepFileError

Value = tuple[float, ...] | None  # means by `Search.metrics`; None: it diverged, or nothing could be measured


@dataclass(frozen=True)
class Proposal:
    """A point, and its runs: a student for each seed."""

    number: int
    point: Mapping[str, Any]
    runs: tuple[str, ...]


class Searching:
    """The source of a dispatch (`planning.watching.Source`), and what people are told of a search.

    At first the plan has what the file lists and what the store knows to be proposed. Raises DataError, StorageError,
    SweepFileError for an axis that changes no run, CannotGrow for a proposal that is kept and no sweep.
    """

    def __init__(self, file: SweepFile, plan: Plan, data_dir: Path, standing: Standing) -> None:
        if file.search is None:
            raise ValueError(f"{file.path} has no search")
        self.file, self.search, self.data_dir, self.standing = file, file.search, data_dir, standing
        self.plan = replace(plan, places=())  # what the file lists comes back below, as proposals
        self.proposals: list[Proposal] = []
        self.values: list[Value] = []  # of the first proposals, as far as all before them are known
        self.confirming: dict[int, tuple[str, ...]] = {}  # runs that confirm, by proposal
        at_ends = replace(file, points=file.ends)
        self.at_ends = build_plan(at_ends, data_dir)
        self.id = search_id(file, self.search, students_of(at_ends, self.at_ends))
        self.memory = Searches(standing.store.objects, self.id)
        self.records: dict[int, Record] = {}
        self._take([plain_point(self.search, point) for point in file.points])
        kept = self.memory.known()
        while (number := len(self.proposals) + len(self.records)) < self.search.trials and number in kept:
            self.records[number] = kept[number]
        self._take([*map(self._restored, self.records)])
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
    def counted(self) -> list[Value]:
        """The objectives of known proposals; None also for those that keep not all constraints."""
        return [self.search.counted(value) for value in self.values]

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
            for place in ranked(self.counted, self.directions):
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
            points.append(self._restored(number))
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
        found = [[each.get(name) for each in measured] for name in self.search.metrics]
        if any(number is None for numbers in found for number in numbers):
            return None
        return tuple(fmean(map(float, numbers)) for numbers in found)  # type: ignore[arg-type]

    def _refuse_invalid(self, number: int, point: Mapping[str, Any]) -> None:
        """Raises CannotGrow for values that are valid one by one, and not together."""
        try:
            self._file([point])
        except SweepFileError as error:
            kept = self.memory.path(number) if number in self.records else None
            raise no_sweep(number, point, error, kept) from error

    def _take(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Points as the next proposals."""
        if points:
            try:
                self.plan, runs = self._planned(self.plan, points)
            except SweepFileError:
                for number, point in enumerate(points, len(self.proposals)):
                    self._refuse_invalid(number, point)
                raise
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
            if points and not self._is_sweep(*points):
                points = [point for point in points if self._is_sweep(point)]
            plan = self._planned(self.plan, points)[0] if points else self.plan
            if self.search.confirm and not confirmed:
                all_points = [*(proposal.point for proposal in self.proposals), *points]
                plan, _ = self._confirmed(plan, all_points[-self.search.confirm.points :])
            self._foreseen_at = {asked: plan}
        return self._foreseen_at[asked]

    def _is_sweep(self, *points: Mapping[str, Any]) -> bool:
        """Whether values that are valid one by one are so together."""
        try:
            self._file(points)
        except SweepFileError:
            return False
        return True

    @cached_property
    def _foreseen_at(self) -> dict[tuple[int, bool], Plan]:
        return {}

    def _by_chance(self, number: int) -> dict[str, Any]:
        return {
            axis: each.at(random.Random(f"{self.id}/{number}/{axis}").random())
            for axis, each in self.search.space.items()
        }

    def _restored(self, number: int) -> dict[str, Any]:
        return restored(number, self.records[number].point, self.search.space, self.memory.path(number))

    def _drawn_from(self, number: int) -> str:
        """A digest of what proposal `number` is drawn from: how the runs before it ended, and with which weights."""
        before = self.proposals[: known_to(self.search, number)]
        done = [(id, self.standing.look(id).done) for proposal in before for id in proposal.runs]
        ends = [[id, each and each.outcome, each and each.files.get(WEIGHTS)] for id, each in done]
        return digest(to_json(ends)) if ends else ""


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
