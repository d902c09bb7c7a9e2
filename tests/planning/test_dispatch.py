"""Which run may start next. A store in memory of the test's own stands in for results."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtune.planning import dispatch as dispatching
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.sweepfile.load import load_sweep


class FakeStore:
    """How runs stand, as a test says."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.measured: set[tuple[str, str]] = set()
        self.owned: set[str] = set()

    def state(self, id: str) -> str:
        return self.now.get(id, "new")

    def owner(self, id: str):
        return {"pid": 1} if id in self.owned else None

    def has_checkpoint(self, id: str) -> bool:
        return False

    def evaluation(self, id: str, hash: str):
        return {} if self.now.get(id) == "done" and (id, hash) not in self.measured else None


@pytest.fixture
def store():
    return FakeStore()


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


def test_students_of_one_group_start_while_teachers_of_another_train(plan, store):
    dispatch = Dispatch(plan, store)
    assert take(dispatch) == teachers(plan, 0.0) + teachers(plan, 0.2)
    for id in teachers(plan, 0.2):
        store.now[id] = "done"
        dispatch.ended(id)
    assert take(dispatch) == students(plan, 0.2), "no barrier: the other group's teachers still run"


def test_a_student_waits_for_all_of_its_teachers(plan, store):
    dispatch = Dispatch(plan, store)
    take(dispatch)
    for id in teachers(plan, 0.0)[:2]:
        store.now[id] = "done"
        dispatch.ended(id)
    assert take(dispatch) == []


def test_diverged_teachers_count_as_done_unless_all_are(plan, store):
    dispatch = Dispatch(plan, store)
    take(dispatch)
    for id in teachers(plan, 0.0):
        store.now[id] = "diverged"
        dispatch.ended(id)
    for id, state in zip(teachers(plan, 0.2), ("diverged", "done", "done"), strict=True):
        store.now[id] = state
        dispatch.ended(id)
    assert take(dispatch) == students(plan, 0.2)
    assert all(dispatch.states[id] == "skipped" for id in students(plan, 0.0))
    assert "diverged" in dispatch.reasons[students(plan, 0.0)[0]]


def test_students_of_a_failed_teacher_are_skipped_and_the_next_command_retries(plan, store):
    dispatch = Dispatch(plan, store)
    take(dispatch)
    bad = teachers(plan, 0.0)[1]
    store.now[bad] = "failed"
    dispatch.ended(bad, "ValueError: no")
    assert dispatch.states[students(plan, 0.0)[0]] == "skipped"
    assert bad in dispatch.reasons[students(plan, 0.0)[0]]
    assert dispatch.reasons[bad] == "ValueError: no"
    again = Dispatch(plan, store)
    assert again.states[bad] == "new"
    assert again.states[students(plan, 0.0)[0]] == "new"


def test_what_is_done_is_not_started_and_what_lacks_an_evaluation_is(plan, store):
    for id in plan.runs:
        store.now[id] = "done"
    assert Dispatch(plan, store).over
    lacking = students(plan, 0.2)[0]
    store.measured.add((lacking, next(iter(plan.evaluators))))
    assert take(Dispatch(plan, store)) == [lacking]


def test_runs_claimed_elsewhere_are_waited_for_and_taken_over_when_left(plan, store, monkeypatch):
    monkeypatch.setattr(dispatching, "POLL_S", 0.0)
    mine, theirs = teachers(plan, 0.0)[0], teachers(plan, 0.0)[1]
    store.now[theirs] = "elsewhere"
    dispatch = Dispatch(plan, store)
    started = take(dispatch)
    assert theirs not in started and mine in started
    assert not dispatch.over
    store.now[theirs] = "partial"  # its owner died
    assert take(dispatch) == [theirs]


def test_a_process_lost_without_a_word_is_a_failure_with_a_reason(plan, store):
    dispatch = Dispatch(plan, store)
    lost = dispatch.next().id
    assert dispatch.ended(lost) == "failed"
    assert "lost" in dispatch.reasons[lost]


def test_stopping_ends_everything_that_has_not_ended(plan, store):
    dispatch = Dispatch(plan, store)
    take(dispatch)
    dispatch.stop()
    assert dispatch.over and dispatch.counts == {"stopped": 10}
