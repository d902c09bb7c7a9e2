"""Which run of a plan may start next, and how each one stands. Pure code, shared by Ray's searcher and by `--here`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from types import MappingProxyType

from kdtune.planning.hopeless import hopeless
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan
from kdtune.planning.setbacks import TRIES, Cause, Setbacks
from kdtune.planning.watching import CannotGrow, Source
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.state import ENDED, FINISHED, STARTABLE, State

log = logging.getLogger(__name__)

POLL_S = 1.0  # between two looks at runs that another sweep trains


class Dispatch:
    """Hands out runs as their teachers become ready, without a barrier between groups.

    A student starts when all teachers it chooses from are done; a diverged one is done and never chosen. If one failed,
    its students are skipped with the reason until the next command retries it; so they are if one was stopped by hand,
    until a command is told to. If one is not done any more when its student starts (damaged, forgotten), both are
    handed out once more, the teacher first. What else this command tries again, and when nothing more is worth
    starting, its `setbacks` say.

    An event costs as much as the runs that wait for its run, never as much as the plan: what can start lies in a heap,
    and each run counts the teachers that it still waits for.

    With a `source` the plan grows: it is asked for more whenever a run has ended. `on_growth` is told what came.
    """

    def __init__(self, plan: Plan, standing: Standing, source: Source | None = None) -> None:
        self.plan = plan
        self.standing = standing
        self.source = source
        self.on_growth: Callable[[Sequence[str]], None] = lambda new: None
        self.setbacks = Setbacks()
        self.reasons: dict[str, str] = {}  # why a run failed, was skipped or stopped, by id
        self.by_hand: set[str] = set()  # runs that `kdtune stop` has stopped
        self.stopped = ""  # why no further run starts, where nobody asked for that
        self.storage_is_gone = False
        self._states: dict[str, State] = {}
        self.states: Mapping[str, State] = MappingProxyType(self._states)
        self._counts = Counter[State]()
        self._elsewhere: set[str] = set()
        self._waited_again: set[str] = set()  # students whose teachers were lost while they were handed out
        self._handed_out: set[str] = set()  # given away by `next`; they may still wait for a free machine
        self._again: set[str] = set()  # to be tried again once the claim of their lost process has gone
        self._order: list[str] = []
        self._position: dict[str, int] = {}
        self._students: dict[str, list[str]] = {}
        self._waiting: dict[str, int] = {}  # teachers that are neither done nor diverged
        self._ready: list[int] = []  # a heap of positions; some may have been overtaken by events
        self._looked = 0.0
        self._ask, self._closed = True, False  # whether something has ended since the source was asked; the end is near
        self._take_in([*plan.runs])

    def _take_in(self, ids: Sequence[str]) -> None:
        """Runs of the plan that are new here."""
        now = self._before_the_next_attempt(ids)
        self._states |= now
        self._counts.update(now.values())
        self._elsewhere |= {id for id, state in now.items() if state is State.ELSEWHERE}
        for id in ids:
            self._position[id] = len(self._order)
            self._order.append(id)
            teachers = self._teachers(self.plan.runs[id])
            for teacher in teachers:
                self._students.setdefault(teacher, []).append(id)
            self._waiting[id] = sum(self._states[teacher] not in FINISHED for teacher in teachers)
        self._told_by_hand(now)
        self._settle(ids)

    def grow(self, plan: Plan) -> None:
        """Takes in a plan that has all runs of the present one and more."""
        new = [id for id in plan.runs if id not in self._states]
        self.plan = plan
        self.standing.refresh(*new)
        self._take_in(new)
        self.on_growth(new)

    def _take_more(self) -> None:
        """Asks the source until it has nothing new; what it names may have ended long ago."""
        while self.source is not None and self._ask and not self._closed:
            self._ask = False
            try:
                if (plan := self.source.more(self.states)) is not None:
                    self._ask = True
                    self.grow(plan)
            except StorageError as lost:
                self.without_storage(lost)
            except CannotGrow as error:
                self.stop(str(error))

    def next(self) -> Place | None:
        """The first run, in the plan's order, that can start now. It is handed out once; `started` makes it running."""
        self._look_elsewhere()
        self._take_more()
        while self._ready:
            id = self._order[heappop(self._ready)]
            if self._states[id] in STARTABLE and id not in self._handed_out:
                self._handed_out.add(id)
                self._again.discard(id)
                return self.plan.runs[id]
        return None

    def started(self, id: str) -> None:
        """It has what it needs and trains."""
        self._move(id, State.RUNNING)

    def ended(self, id: str, error: str = "", cause: Cause = Cause.ITSELF) -> State:
        """Learns from the store how a run ended; returns how it stands, which is startable where it is tried again.

        `error` is the traceback or message of what went wrong, if known, and `cause` what that means for the run.
        """
        self._handed_out.discard(id)
        try:
            self.standing.refresh(id)
            state = self.standing.state(id)
        except StorageError as lost:
            self.without_storage(lost)
            return self._states[id]
        # The claim of a process that is gone from another machine looks alive for a while.
        gone = state is State.ELSEWHERE and cause is not Cause.ITSELF
        if gone or state in STARTABLE or state is State.FAILED:
            return self._without_result(id, error, cause)
        if state in FINISHED:
            self.setbacks.succeeded()
        elif error:  # its claim could not be given back: it looks as if another had it
            self.reasons.setdefault(id, error.strip())
        self._learn({id: state})
        return state

    def without_storage(self, lost: StorageError) -> None:
        """It was waited for, and does not answer. Raises again what is no such error."""
        if not lost.gone:
            raise lost
        self._storage_went(str(lost))

    def _storage_went(self, why: str) -> None:
        self.storage_is_gone = True
        self.stop(why)

    def _without_result(self, id: str, error: str, cause: Cause) -> State:
        """Whether a run is tried again, or has failed for this command."""
        if cause in (Cause.UNFIT, Cause.STORAGE):  # the next run would fare no better, and none is to blame
            if cause is Cause.STORAGE:
                self._storage_went(error)
            else:
                self.stop(f"no further run is started: {error}")
            return self._states[id]
        if not self.stopped:
            if (lost := self._lost_teachers(id)) is not None and id not in self._waited_again:
                self._waited_again.add(id)
                self._learn({id: self.standing.look(id).untried, **lost})
                return self._states[id]
            if self.setbacks.again(id, cause):
                return self._back([id])[id]
        return self._failed(id, error.strip() or "its process was lost before it could say why")

    def _lost_teachers(self, id: str) -> dict[str, State] | None:
        """How those teachers of a run stand that were done and are not any more; None if all it needs is there."""
        teachers = self._teachers(self.plan.runs[id])
        believed = [teacher for teacher in teachers if self._states[teacher] in FINISHED]
        self.standing.refresh(*believed)
        now = self._before_the_next_attempt(believed)
        lost = {teacher: state for teacher, state in now.items() if state not in FINISHED}
        for teacher in lost:
            log.warning("%s waits again: its teacher %s is not done any more", self.plan.runs[id].name, teacher)
        return lost if lost or len(believed) < len(teachers) else None

    def _before_the_next_attempt(self, ids: Iterable[str]) -> dict[str, State]:
        """How runs stand; one that failed in an earlier command is tried again."""
        found = self.standing.states(ids)
        return {id: self.standing.look(id).untried if state is State.FAILED else state for id, state in found.items()}

    def short_of_memory(self) -> dict[str, State]:
        """A machine's memory was short, so all runs that are out come back, and fewer go out at a time (`setbacks`).

        Returns how these runs stand now. One whose process is not quite gone is `elsewhere` for a moment.
        """
        out, self._handed_out = [*self._handed_out], set()
        running = [id for id in out if self._states[id] is State.RUNNING] or out
        enough = self.setbacks.short_of_memory(running)
        self.standing.refresh(*out)
        stand = self._back(out)
        if not enough and stand[running[0]] not in FINISHED:
            tries = TRIES[Cause.MEMORY]
            reason = f"killed for want of memory, {tries} times with no other run beside it: it needs a larger machine"
            stand[running[0]] = self._failed(running[0], reason)
        return stand

    def stop(self, why: str = "") -> None:
        """No further run starts; what has not ended counts as stopped."""
        self.stopped, self._closed = self.stopped or why, True
        for id, state in self.states.items():
            if state not in ENDED:
                self._move(id, State.STOPPED)
                if why:
                    self.reasons[id] = why

    def _back(self, ids: Sequence[str]) -> dict[str, State]:
        """These runs may start again, but for those that the store knows to be finished, or to be elsewhere."""
        now = self._before_the_next_attempt(ids)
        self._again |= {id for id, state in now.items() if state is State.ELSEWHERE}
        self._learn(now)
        self._settle(ids)
        return now

    def _failed(self, id: str, reason: str) -> State:
        self.reasons[id] = reason
        self._learn({id: State.FAILED})
        if why := self.setbacks.failed(reason):
            self.stop(why)
        return State.FAILED

    @property
    def over(self) -> bool:
        self._take_more()
        return all(state in ENDED for state in self.counts)

    @property
    def counts(self) -> dict[State, int]:
        return {state: count for state, count in self._counts.items() if count}

    def _look_elsewhere(self) -> None:
        if not self._elsewhere or time.monotonic() - self._looked < POLL_S:
            return
        again = self._elsewhere & self._again
        try:
            theirs = [*self._elsewhere]
            self.standing.refresh(*theirs)
            self._learn(self.standing.states(self._elsewhere - again) | self._before_the_next_attempt(again))
            self._told_elsewhere(theirs)
        except StorageError as lost:
            self.without_storage(lost)
        self._looked = time.monotonic()

    def _told_elsewhere(self, ids: Iterable[str]) -> None:
        """Why runs failed that another command had: what it kept of them."""
        for id in ids:
            if self._states[id] is State.FAILED and (failure := self.standing.look(id).failure) is not None:
                self.reasons[id] = f"{failure['type']}: {failure['message']} (in the command that had it)"

    def _learn(self, news: Mapping[str, State]) -> None:
        """Take in how runs stand now, and what that means for them and for their students."""
        changed = {id: state for id, state in news.items() if state is not self._states[id]}
        for id, state in changed.items():
            self._move(id, state)
        self._told_by_hand(changed)
        students = {student for id in changed for student in self._students.get(id, ())}
        lost = not {State.FAILED, State.STOPPED}.isdisjoint(changed.values())
        self._settle({*changed, *(id for id in students if lost or not self._waiting[id])})

    def _told_by_hand(self, news: Mapping[str, State]) -> None:
        """Of runs that the store knows to be stopped: by whom."""
        for id, state in news.items():
            if state is State.STOPPED and (stop := self.standing.look(id).stop) is not None:
                self.by_hand.add(id)
                self.reasons[id] = str(stop)

    def _move(self, id: str, state: State) -> None:
        before = self._states[id]
        self._states[id] = state
        self._counts[before] -= 1
        self._counts[state] += 1
        self._ask = self._ask or state in ENDED
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
            if reason := hopeless(self.plan.runs[id].chooses_from, self._states, self.reasons):
                self.reasons[id] = reason
                self._move(id, State.SKIPPED)
                for student in self._students.get(id, ()):
                    heappush(due, self._position[student])
            elif not self._waiting[id]:
                heappush(self._ready, self._position[id])

    def _teachers(self, planned: Place) -> list[str]:
        """What a run waits for, of this plan; in one of finished runs alone (late evaluation) some are missing."""
        return [id for id in planned.waits_for if id in self._states]
