"""Which run of a plan may start next, and how each one stands. Pure code, shared by Ray's searcher and by `--here`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from types import MappingProxyType
from typing import Protocol

from kdtune.planning.plan import Plan, PlannedRun
from kdtune.store.standing import Standing
from kdtune.store.state import ENDED, FINISHED, STARTABLE, State

POLL_S = 1.0  # between two looks at runs that another sweep trains


class Watcher(Protocol):
    """Who is told what happens: the screen, TensorBoard."""

    def started(self, id: str) -> None: ...
    def rows(self, id: str, rows: list[dict[str, float]]) -> None: ...
    def ended(self, id: str, state: State) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


class Dispatch:
    """Hands out runs as their teachers become ready, without a barrier between groups.

    A student starts when all teachers it chooses from are done; a diverged one is done and never chosen. If one failed,
    its students are skipped with the reason until the next command retries it.

    An event costs as much as the runs that wait for its run, never as much as the plan: what can start lies in a heap,
    and each run counts the teachers that it still waits for.
    """

    def __init__(self, plan: Plan, standing: Standing) -> None:
        self.plan = plan
        self.standing = standing
        self.reasons: dict[str, str] = {}  # why a run failed or was skipped, by id
        found = standing.states(plan.runs)
        # A run that failed in an earlier command is tried again.
        self._states = {
            id: standing.look(id).untried if state is State.FAILED else state for id, state in found.items()
        }
        self.states: Mapping[str, State] = MappingProxyType(self._states)
        self._counts = Counter(self._states.values())
        self._elsewhere = {id for id, state in self._states.items() if state is State.ELSEWHERE}
        self._handed_out: set[str] = set()  # given away by `next`; they may still wait for a free machine
        self._order = list(plan.runs)
        self._position = {id: position for position, id in enumerate(self._order)}
        self._students: dict[str, list[str]] = {}
        self._waiting: dict[str, int] = {}  # teachers that are neither done nor diverged
        self._ready: list[int] = []  # a heap of positions; some may have been overtaken by events
        for id, planned in plan.runs.items():
            teachers = self._teachers(planned)
            for teacher in teachers:
                self._students.setdefault(teacher, []).append(id)
            self._waiting[id] = sum(self._states[teacher] not in FINISHED for teacher in teachers)
        self._settle(plan.runs)
        self._looked = 0.0

    def next(self) -> PlannedRun | None:
        """The first run, in the plan's order, that can start now. It is handed out once; `started` makes it running."""
        self._look_elsewhere()
        while self._ready:
            id = self._order[heappop(self._ready)]
            if self._states[id] in STARTABLE and id not in self._handed_out:
                self._handed_out.add(id)
                return self.plan.runs[id]
        return None

    def started(self, id: str) -> None:
        """It has what it needs and trains."""
        self._move(id, State.RUNNING)

    def ended(self, id: str, error: str = "") -> State:
        """Learns from the store how a run ended. `error` is the traceback or message of what went wrong, if known."""
        self.standing.refresh(id)
        state = self.standing.state(id)
        if state in STARTABLE or state is State.FAILED:
            state = State.FAILED
            self.reasons[id] = error.strip() or "its process was lost before it could say why"
        self._handed_out.discard(id)
        self._learn({id: state})
        return state

    def stop(self) -> None:
        """No further run starts; what has not ended counts as stopped."""
        for id, state in self.states.items():
            if state not in ENDED:
                self._move(id, State.STOPPED)

    @property
    def over(self) -> bool:
        return all(state in ENDED for state in self.counts)

    @property
    def counts(self) -> dict[State, int]:
        return {state: count for state, count in self._counts.items() if count}

    def _look_elsewhere(self) -> None:
        if not self._elsewhere or time.monotonic() - self._looked < POLL_S:
            return
        self.standing.refresh(*self._elsewhere)
        self._learn(self.standing.states(self._elsewhere))
        self._looked = time.monotonic()

    def _learn(self, news: Mapping[str, State]) -> None:
        """Take in how runs stand now, and what that means for them and for their students."""
        changed = {id: state for id, state in news.items() if state is not self._states[id]}
        for id, state in changed.items():
            self._move(id, state)
        students = {student for id in changed for student in self._students.get(id, ())}
        failed = State.FAILED in changed.values()
        self._settle({*changed, *(id for id in students if failed or not self._waiting[id])})

    def _move(self, id: str, state: State) -> None:
        before = self._states[id]
        self._states[id] = state
        self._counts[before] -= 1
        self._counts[state] += 1
        (self._elsewhere.add if state is State.ELSEWHERE else self._elsewhere.discard)(id)
        if (change := (before in FINISHED) - (state in FINISHED)) != 0:
            for student in self._students.get(id, ()):
                self._waiting[student] += change

    def _settle(self, ids: Iterable[str]) -> None:
        """Of these runs, queue what can start and skip what never can; then what that means for their students."""
        due = [self._position[id] for id in ids]
        heapify(due)  # in the plan's order a teacher comes before its students
        while due:
            id = self._order[heappop(due)]
            if self._states[id] not in STARTABLE or id in self._handed_out:
                continue
            if reason := self._hopeless(self.plan.runs[id]):
                self.reasons[id] = reason
                self._move(id, State.SKIPPED)
                for student in self._students.get(id, ()):
                    heappush(due, self._position[student])
            elif not self._waiting[id]:
                heappush(self._ready, self._position[id])

    def _teachers(self, planned: PlannedRun) -> list[str]:
        """What a run waits for, of this plan; in one of finished runs alone (late evaluation) some are missing."""
        return [id for id in planned.waits_for if id in self._states]

    def _hopeless(self, planned: PlannedRun) -> str:
        """Why a run can never start; empty if it may."""
        teachers = self._teachers(planned)
        if failed := [id for id in teachers if self._states[id] in (State.FAILED, State.SKIPPED)]:
            return f"its teacher {failed[0]} failed"
        if teachers and all(self._states[id] is State.DIVERGED for id in teachers):
            return "all teachers it chooses from diverged"
        return ""
