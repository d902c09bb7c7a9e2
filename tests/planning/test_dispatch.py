"""Which run may start next. A standing of the test's own stands in for results."""

from __future__ import annotations

import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.planning import dispatch as dispatching
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.planning.setbacks import ALIKE, Cause
from kdtune.store.state import ENDED, FINISHED, State
from kdtune.sweepfile.load import load_sweep


class FakeStanding:
    """How runs stand, as a test says."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.stops: dict[str, str] = {}

    def states(self, ids) -> dict[str, State]:
        return {id: self.state(id) for id in ids}

    def state(self, id: str) -> State:
        return State(self.now.get(id, "new"))

    def refresh(self, *ids: str) -> None:
        """A test's word is always fresh."""

    def look(self, id: str) -> SimpleNamespace:
        return SimpleNamespace(untried=State.NEW, failure=None, stop=self.stops.get(id))


@pytest.fixture
def standing():
    return FakeStanding()


@pytest.fixture
def plan(write_sweep):
    return build_plan(load_sweep(write_sweep()), Path("nowhere"))


def teachers(plan, rate: float) -> list[str]:
    return [id for id, p in plan.runs.items() if p.role == "teacher" and p.parameters["rate"] == rate]


def students(plan, rate: float) -> list[str]:
    return [id for id, p in plan.runs.items() if p.role == "student" and p.parameters["rate"] == rate]


def take(dispatch) -> list[str]:
    """Everything that may start now."""
    taken = []
    while (planned := dispatch.next()) is not None:
        taken.append(planned.id)
    return taken


def test_students_of_one_group_start_while_teachers_of_another_train(plan, standing):
    dispatch = Dispatch(plan, standing)
    assert take(dispatch) == teachers(plan, 0.0) + teachers(plan, 0.2)
    for id in teachers(plan, 0.2):
        standing.now[id] = "done"
        dispatch.ended(id)
    assert take(dispatch) == students(plan, 0.2), "no barrier: the other group's teachers still run"


def test_a_student_waits_for_all_of_its_teachers(plan, standing):
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    for id in teachers(plan, 0.0)[:2]:
        standing.now[id] = "done"
        dispatch.ended(id)
    assert take(dispatch) == []


def test_diverged_teachers_count_as_done_unless_all_are(plan, standing):
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    for id in teachers(plan, 0.0):
        standing.now[id] = "diverged"
        dispatch.ended(id)
    for id, state in zip(teachers(plan, 0.2), ("diverged", "done", "done"), strict=True):
        standing.now[id] = state
        dispatch.ended(id)
    assert take(dispatch) == students(plan, 0.2)
    assert all(dispatch.states[id] == "skipped" for id in students(plan, 0.0))
    assert "diverged" in dispatch.reasons[students(plan, 0.0)[0]]


def test_students_of_a_failed_teacher_are_skipped_and_the_next_command_retries(plan, standing):
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    bad = teachers(plan, 0.0)[1]
    standing.now[bad] = "failed"
    dispatch.ended(bad, "ValueError: no")
    assert dispatch.states[students(plan, 0.0)[0]] == "skipped"
    assert bad in dispatch.reasons[students(plan, 0.0)[0]]
    assert dispatch.reasons[bad] == "ValueError: no"
    again = Dispatch(plan, standing)
    assert again.states[bad] == "new"
    assert again.states[students(plan, 0.0)[0]] == "new"


def test_what_is_done_is_not_started_and_what_lacks_an_evaluation_is(plan, standing):
    for id in plan.runs:
        standing.now[id] = "done"
    assert Dispatch(plan, standing).over
    lacking = students(plan, 0.2)[0]
    standing.now[lacking] = "partial"
    assert take(Dispatch(plan, standing)) == [lacking]


def test_runs_claimed_elsewhere_are_waited_for_and_taken_over_when_left(plan, standing, monkeypatch):
    monkeypatch.setattr(dispatching, "POLL_S", 0.0)
    mine, theirs = teachers(plan, 0.0)[0], teachers(plan, 0.0)[1]
    standing.now[theirs] = "elsewhere"
    dispatch = Dispatch(plan, standing)
    started = take(dispatch)
    assert theirs not in started and mine in started
    assert not dispatch.over
    standing.now[theirs] = "partial"  # its owner died
    assert take(dispatch) == [theirs]


def test_a_process_lost_without_a_word_is_a_failure_with_a_reason(plan, standing):
    dispatch = Dispatch(plan, standing)
    lost = dispatch.next().id
    assert dispatch.ended(lost) == "failed"
    assert "lost" in dispatch.reasons[lost]


def test_stopping_ends_everything_that_has_not_ended(plan, standing):
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    dispatch.stop()
    assert dispatch.over and dispatch.counts == {"stopped": 10}


def test_a_lost_process_is_tried_again_three_times(plan, standing):
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    lost = teachers(plan, 0.0)[0]
    for _ in range(3):
        dispatch.started(lost)
        assert dispatch.ended(lost, "gone", Cause.LOST) == "new"
        assert take(dispatch) == [lost]
    assert dispatch.ended(lost, "gone", Cause.LOST) == "failed"
    assert dispatch.reasons == {lost: "gone"} | dict.fromkeys(students(plan, 0.0), f"its teacher {lost} failed")


def test_a_stuck_run_is_tried_again_once_though_its_attempt_has_failed_in_the_store(plan, standing):
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    stuck = teachers(plan, 0.2)[0]
    standing.now[stuck] = "failed"
    assert dispatch.ended(stuck, "no step", Cause.STUCK) == "new" and take(dispatch) == [stuck]
    assert dispatch.ended(stuck, "no step", Cause.STUCK) == "failed"


def test_a_process_lost_on_another_machine_counts_though_its_claim_looks_alive_for_a_while(plan, standing, monkeypatch):
    monkeypatch.setattr(dispatching, "POLL_S", 0.0)
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    lost = teachers(plan, 0.0)[0]
    for _ in range(3):
        standing.now[lost] = "elsewhere"
        assert dispatch.ended(lost, "gone", Cause.LOST) == "elsewhere" and take(dispatch) == []
        standing.now[lost] = "partial"
        assert take(dispatch) == [lost]
    standing.now[lost] = "elsewhere"
    assert dispatch.ended(lost, "gone", Cause.LOST) == "failed"


def test_a_process_ended_for_its_silence_may_hold_its_claim_for_a_moment_and_is_tried_again(
    plan, standing, monkeypatch
):
    """Its attempt has failed in the store by then, which is no other command's failure."""
    monkeypatch.setattr(dispatching, "POLL_S", 0.0)
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    stuck = teachers(plan, 0.2)[0]
    standing.now[stuck] = "elsewhere"
    assert dispatch.ended(stuck, "no sign of life", Cause.STUCK) == "elsewhere" and take(dispatch) == []
    standing.now[stuck] = "failed"
    assert take(dispatch) == [stuck]
    dispatch.started(stuck)
    assert dispatch.ended(stuck, "no sign of life", Cause.STUCK) == "failed" and stuck in dispatch.reasons


def test_a_process_lost_after_its_run_was_done_changes_nothing(plan, standing):
    dispatch = Dispatch(plan, standing)
    take(dispatch)
    lost = teachers(plan, 0.2)[0]
    standing.now[lost] = "done"
    assert dispatch.ended(lost, "gone", Cause.LOST) == "done" and lost not in dispatch.reasons


def test_short_of_memory_all_runs_that_are_out_come_back(plan, standing):
    dispatch = Dispatch(plan, standing)
    out = take(dispatch)
    for id in out[:4]:
        dispatch.started(id)
    standing.now[out[0]], standing.now[out[1]] = "done", "partial"
    stand = dispatch.short_of_memory()
    assert dispatch.setbacks.limit == 2 and stand[out[0]] == "done"
    assert take(dispatch) == out[1:], "in the plan's order, also those that had not started"
    assert not dispatch.reasons


def test_a_run_too_large_for_the_machine_is_failed_and_the_others_go_on(plan, standing):
    dispatch = Dispatch(plan, standing)
    large = teachers(plan, 0.0)[0]
    for _ in range(3):
        assert dispatch.next().id == large
        dispatch.started(large)
        stand = dispatch.short_of_memory()
    assert stand == {large: "failed"} and "memory" in dispatch.reasons[large]
    assert dispatch.setbacks.limit is None and take(dispatch) == teachers(plan, 0.0)[1:] + teachers(plan, 0.2)


def test_five_alike_stop_the_sweep(plan, standing):
    dispatch = Dispatch(plan, standing)
    for _ in range(5):
        id = dispatch.next().id
        dispatch.started(id)
        dispatch.ended(id, f"Traceback\nKeyError: no images for {id}")
    assert dispatch.over and dispatch.next() is None
    assert dispatch.counts == {"failed": 5, "skipped": 4, "stopped": 1}
    assert dispatch.stopped.startswith("5 runs failed alike and none succeeded")
    last = teachers(plan, 0.2)[2]
    assert dispatch.reasons[last] == dispatch.stopped
    assert dispatch.ended(last, "gone", Cause.LOST) == "failed", "nothing is tried again then"


@pytest.fixture(scope="module")
def benchmark() -> SimpleNamespace:
    """benchmarks/dispatch.py, which is no package."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "dispatch.py")))


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python it takes, a line of a loop each time: the same on every machine, however busy."""
    count = 0

    def traced(frame, event, argument):
        nonlocal count
        count += event == "line"
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_four_times_the_runs_are_at_most_five_times_the_work(benchmark):
    small, large = (lines_run(lambda runs=runs: benchmark.decide_all(benchmark.plan_of(runs))) for runs in (200, 800))
    assert large < 5 * small


class Reference:
    """The rules of who may start, each looked up in the whole plan every time."""

    def __init__(self, plan, states: dict[str, str]) -> None:
        self.runs = plan.runs
        self.states = {id: "new" if state == "failed" else state for id, state in states.items()}
        self.out: set[str] = set()
        self.succeeded, self.failures = False, 0
        self.skip()

    def skip(self) -> None:
        for id, planned in self.runs.items():
            if self.states[id] in ("new", "partial") and id not in self.out:
                teachers = [self.states[teacher] for teacher in planned.waits_for]
                if {"failed", "skipped", "stopped"} & set(teachers) or (teachers and set(teachers) == {"diverged"}):
                    self.states[id] = "skipped"

    def next(self) -> str | None:
        for id, planned in self.runs.items():
            ready = all(self.states[teacher] in ("done", "diverged") for teacher in planned.waits_for)
            if self.states[id] in ("new", "partial") and id not in self.out and ready:
                self.out.add(id)
                return id
        return None

    def ended(self, id: str, state: str) -> None:
        self.states[id] = "failed" if state in ("new", "partial") else state
        self.out.discard(id)
        self.succeeded |= state in FINISHED
        self.failures += self.states[id] == "failed"
        self.skip()
        if self.states[id] == "failed" and self.failures >= ALIKE and not self.succeeded:
            self.states = {id: state if state in ENDED else "stopped" for id, state in self.states.items()}

    def looked(self, now: dict[str, str]) -> None:
        self.states |= {id: now[id] for id, state in self.states.items() if state == "elsewhere"}
        self.skip()


STATES = st.sampled_from(["new", "partial", "elsewhere", "done", "diverged", "failed", "stopped"])


def drawn_plan(data) -> SimpleNamespace:
    """Up to nine runs, each waiting for up to three before it."""
    ids = [f"{number:02d}" for number in range(data.draw(st.integers(1, 9)))]
    runs = {}
    for number, id in enumerate(ids):
        teachers = data.draw(st.lists(st.sampled_from(ids[:number]), unique=True, max_size=3)) if number else []
        runs[id] = SimpleNamespace(id=id, waits_for=tuple(teachers), chooses_from={"teacher": tuple(teachers)})
    return SimpleNamespace(runs=runs, evaluators={})


@given(st.data())
def test_whatever_happens_it_decides_as_the_rules_say(data):
    plan, standing = drawn_plan(data), FakeStanding()
    ids = [*plan.runs]
    standing.now = {id: data.draw(STATES) for id in ids}
    dispatch, reference = Dispatch(plan, standing), Reference(plan, standing.now)
    for _ in range(25):
        assert dispatch.states == reference.states
        assert dispatch.counts == Counter(reference.states.values())
        assert dispatch.over == all(state in ENDED for state in reference.states.values())
        for id in ids:  # what others do with their runs
            if reference.states[id] == "elsewhere" and data.draw(st.booleans()):
                standing.now[id] = data.draw(STATES)
        dispatch._looked = float("-inf")
        reference.looked(standing.now)
        taken, expected = dispatch.next(), reference.next()
        assert (taken.id if taken else None) == expected
        if reference.out and data.draw(st.booleans()):
            id = data.draw(st.sampled_from(sorted(reference.out)))
            standing.now[id] = data.draw(STATES)
            dispatch.ended(id, "because")
            reference.ended(id, standing.now[id])
    assert {id for id, state in dispatch.states.items() if state == "skipped"} <= dispatch.reasons.keys()


def test_a_plan_of_finished_runs_alone_does_not_ask_for_teachers_that_are_not_in_it(plan, standing):
    """Late evaluation: a student is trained, and one of its teachers was lost since."""
    student = students(plan, 0.2)[0]
    standing.now[student] = "partial"
    dispatch = Dispatch(plan.of([student]), standing)
    assert take(dispatch) == [student]


# Stopped by hand


def stop(standing: FakeStanding, *ids: str) -> None:
    standing.now |= dict.fromkeys(ids, "stopped")
    standing.stops |= dict.fromkeys(ids, "by ann on gpu7, today")


def test_students_of_a_stopped_teacher_are_skipped_and_say_by_whom(plan, standing):
    lost = teachers(plan, 0.0)[1]
    stop(standing, lost)
    dispatch = Dispatch(plan, standing)
    assert take(dispatch) == [id for id in teachers(plan, 0.0) + teachers(plan, 0.2) if id != lost]
    assert dispatch.by_hand == {lost} and dispatch.reasons[lost] == "by ann on gpu7, today"
    for id in students(plan, 0.0):
        assert dispatch.states[id] == "skipped"
        assert dispatch.reasons[id] == f"its teacher {lost} was stopped by ann on gpu7, today"


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_teacher_that_is_stopped_while_it_trains_ends_the_wait_for_it(plan, standing, monkeypatch, where):
    monkeypatch.setattr(dispatching, "POLL_S", 0.0)
    first, *others = teachers(plan, 0.0) + teachers(plan, 0.2)
    if where == "elsewhere":
        standing.now[first] = "elsewhere"
    dispatch = Dispatch(plan, standing)
    taken = take(dispatch)
    assert (first in taken) == (where == "here") and not dispatch.over
    stop(standing, first)
    if where == "here":
        assert dispatch.ended(first) == "stopped"
    else:
        assert take(dispatch) == []
    assert dispatch.by_hand == {first} and {dispatch.states[id] for id in students(plan, 0.0)} == {"skipped"}
    for id in (*others, *students(plan, 0.2)):
        standing.now[id] = "done"
        take(dispatch)
        dispatch.ended(id)
    assert dispatch.over and dispatch.counts == {"stopped": 1, "skipped": 2, "done": 7}


def test_what_a_command_has_left_when_it_ends_is_not_stopped_by_hand(plan, standing):
    dispatch = Dispatch(plan, standing)
    dispatch.stop()
    assert dispatch.counts == {"stopped": 10} and dispatch.by_hand == set()


@given(st.data())
def test_whatever_is_stopped_whenever_the_plan_ends(data):
    """Runs are stopped at the start or while they train; what learns from them does not wait."""
    plan, standing = drawn_plan(data), FakeStanding()
    stop(standing, *data.draw(st.sets(st.sampled_from([*plan.runs]))))
    dispatch = Dispatch(plan, standing)
    while (planned := dispatch.next()) is not None:
        dispatch.started(planned.id)
        if data.draw(st.booleans()):
            stop(standing, planned.id)
        else:
            standing.now[planned.id] = "done"
        dispatch.ended(planned.id)
    assert dispatch.over
    assert dispatch.by_hand == {id for id, state in standing.now.items() if state == "stopped"}
    for id, state in dispatch.states.items():
        teachers = {dispatch.states[teacher] for teacher in plan.runs[id].waits_for}
        if id not in dispatch.by_hand:
            assert (state == "skipped") == bool(teachers & {"stopped", "skipped"})
