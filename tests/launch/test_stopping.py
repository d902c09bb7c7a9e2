"""A run that is stopped by hand while it trains: where it ends, what is kept, how it goes on. Without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stored
from conftest import SMALL
from launch.test_here import Notes

from kdtune.launch import stopping
from kdtune.launch.here import launch_here
from kdtune.launch.interrupt import Interrupt
from kdtune.launch.stopping import performed
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.stopping import stop, take_up
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.context import RunContext
from kdtune.training.run import perform

NEVER = 1e9  # seconds between two checkpoints


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "LOOK_S", 0.01)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two teachers, one student, five epochs each."""
    text = SMALL.replace("seeds: 2", "seeds: 1").replace("seeds: 3", "seeds: 2").replace("[0.0, 0.2]", "0.2")
    (tmp_path / "x.yaml").write_text(text.replace("epochs: 3", "epochs: 5"))
    return build_plan(load_sweep(tmp_path / "x.yaml"), tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


class Stopping(Notes):
    """Stops a run when it has told of its first epoch, and waits until that must have been seen."""

    def __init__(self, store: Store, id: str) -> None:
        super().__init__()
        self.store, self.id = store, id

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        super().rows(id, rows)
        if id == self.id and rows[-1]["epoch"] == 1:
            stop(self.store.objects, id, "by a test")
            time.sleep(0.3)


def go(plan: Plan, store: Store, watcher: Notes, data: Path) -> Dispatch:
    dispatch = Dispatch(plan, Standing(store, plan.evaluators))
    launch_here(dispatch, watcher, data, NEVER, Interrupt())
    return dispatch


def test_it_ends_with_its_epoch_keeps_that_and_goes_on_bit_for_bit(plan: Plan, store: Store, tmp_path: Path) -> None:
    first, second, student = plan.runs
    watcher = Stopping(store, first)
    dispatch = go(plan, store, watcher, tmp_path)
    assert dispatch.over and dispatch.states == {first: "stopped", second: "done", student: "skipped"}
    assert dispatch.by_hand == {first}
    assert "by a test" in dispatch.reasons[first] and first in dispatch.reasons[student]
    assert "by a test" in dispatch.reasons[student], "and who stopped its teacher"
    assert [row["epoch"] for row in watcher.told[first]] == [1, 2]
    epoch, _ = stored.checkpoint(store, first) or (0, b"")
    assert epoch == 2, "however young the last checkpoint is"
    assert watcher.states[first] == "stopped" and store.owner(first) is None
    assert Standing(store).look(first).failure is None
    again = go(plan, store, notes := Notes(), tmp_path)
    assert again.counts == dispatch.counts and notes.order == [], "it is not tried again, and nobody waits for it"
    assert take_up(store.objects, plan.runs) == [first]
    assert go(plan, store, notes := Notes(), tmp_path).counts == {"done": 3}
    assert [row["epoch"] for row in notes.told[first]] == [1, 2, 3, 4, 5] and len(notes.order) == 4
    undisturbed = Store(tmp_path / "undisturbed")
    go(plan, undisturbed, Notes(), tmp_path)
    for id in plan.runs:
        assert stored.weights(store, id) == stored.weights(undisturbed, id)


def test_a_run_of_a_plan_that_is_stopped_before_it_begins_is_never_started(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    first, second, student = plan.runs

    class Meanwhile(Notes):
        def started(self, id: str) -> None:
            super().started(id)
            stop(store.objects, second)

    dispatch = go(plan, store, notes := Meanwhile(), tmp_path)
    assert dispatch.states == {first: "done", second: "stopped", student: "skipped"}
    assert not notes.told[second] and not store.objects.list(f"runs/{second}"), "not even claimed"


def test_one_that_another_command_takes_up_while_it_ends_has_failed_here_and_says_so(
    plan: Plan, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(plan.runs))

    def taken_up(*what: Any) -> Any:
        outcome = performed(*what)
        take_up(store.objects, plan.runs)
        return outcome

    monkeypatch.setattr("kdtune.launch.here.performed", taken_up)
    dispatch = go(plan, store, Stopping(store, first), tmp_path)
    assert dispatch.states[first] == "failed" and "another command has taken it up" in dispatch.reasons[first]
    monkeypatch.undo()
    assert go(plan, store, Notes(), tmp_path).counts == {"done": 3}, "the next command goes on"


def test_a_plan_of_stopped_runs_alone_is_over_at_once(plan: Plan, store: Store) -> None:
    for id in plan.runs:
        stop(store.objects, id)
    assert Dispatch(plan, Standing(store, plan.evaluators)).over


def context(store: Store, data: Path, **more: Any) -> RunContext:
    return replace(RunContext(store, data, checkpoint_every=NEVER), **more)


def test_what_is_trained_is_evaluated_to_the_end(plan: Plan, store: Store, tmp_path: Path) -> None:
    (first, *_), more = plan.runs.values(), plan.evaluation
    assert perform(first.run, (), context(store, tmp_path)).state == "done"
    stop(store.objects, first.id)
    assert performed(first.run, more, context(store, tmp_path)).state == "done"
    assert not Standing(store, plan.evaluators).missing(first.id), "done wins over the record"


def test_one_that_is_stopped_in_its_last_epoch_is_evaluated_when_it_is_taken_up(
    plan: Plan, store: Store, tmp_path: Path
) -> None:
    first = next(iter(plan.runs.values()))

    def report(history: list[dict[str, float]]) -> None:
        if len(history) == 4:
            stop(store.objects, first.id)
            time.sleep(0.3)

    assert performed(first.run, plan.evaluation, context(store, tmp_path, report=report)).state == "stopped"
    assert (stored.checkpoint(store, first.id) or (0,))[0] == 5
    take_up(store.objects, plan.runs)
    assert performed(first.run, plan.evaluation, context(store, tmp_path)).state == "done"


def test_an_epoch_that_diverged_is_a_result_and_no_stop(plan: Plan, store: Store, tmp_path: Path) -> None:
    text = (tmp_path / "x.yaml").read_text().replace("lr: 0.1,", "lr: 1.0e+30,")
    (tmp_path / "y.yaml").write_text(text)
    wild = next(iter(build_plan(load_sweep(tmp_path / "y.yaml"), tmp_path).runs.values()))
    assert perform(wild.run, (), context(store, tmp_path, stopped=lambda: True)).state == "diverged"


def test_a_look_that_fails_ends_nothing(plan: Plan, store: Store, tmp_path: Path, monkeypatch) -> None:
    first = next(iter(plan.runs.values()))
    looks: list[int] = []

    def away(objects: object, id: str) -> bool:
        looks.append(1)
        if len(looks) > 1:
            raise StorageError("it is away")
        return False

    monkeypatch.setattr(stopping, "is_stopped", away)
    slow = context(store, tmp_path, report=lambda history: time.sleep(0.03))
    assert performed(first.run, (), slow).state == "done" and len(looks) > 1


def test_a_storage_that_refuses_the_first_look_is_a_failed_run(plan: Plan, store: Store, tmp_path, monkeypatch) -> None:
    def refuse(objects: object, id: str) -> bool:
        raise StorageError("cannot look for it: no")

    monkeypatch.setattr(stopping, "is_stopped", refuse)
    ended = performed(next(iter(plan.runs.values())).run, (), context(store, tmp_path))
    assert ended.state == "failed" and isinstance(ended.error, StorageError)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_looks_end_with_the_run(plan: Plan, store: Store, tmp_path: Path) -> None:
    performed(next(iter(plan.runs.values())).run, (), context(store, tmp_path))
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "stopping"])
