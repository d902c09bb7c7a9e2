"""The record that somebody has stopped a run: who wins over it, who takes it away, and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdtune.store.forgetting import forget
from kdtune.store.objects import Objects
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.stopping import Stop, is_stopped, stop, stop_of, take_up
from kdtune.store.store import Store

RUN, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path if request.param == "folder" else request.getfixturevalue("s3").bucket())


def state(store: Store, run_id: str = RUN) -> State:
    listed, alone = Standing(store, ["abcdef"]), Standing(store, ["abcdef"])
    alone.refresh(run_id)
    assert listed.state(run_id) is alone.state(run_id), "by a listing of all, and by a look at one"
    return listed.state(run_id)


def finish(store: Store, outcome: str = "done", run_id: str = RUN) -> None:
    attempt = store.attempt(run_id)
    attempt.finish(outcome, b"weights" if outcome == "done" else None, [], {})


def test_it_says_who_when_where_and_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    written = stop(store.objects, RUN, "too slow")
    assert stop_of(store.objects, RUN) == written and is_stopped(store.objects, RUN)
    assert written.who == "ann" and written.time.endswith("+00:00") and written.host
    assert str(written) == f"by ann on {written.host}, {written.time}: too slow"
    assert stop_of(store.objects, OTHER) is None and not is_stopped(store.objects, OTHER)


def test_why_is_one_line_that_moves_no_cursor(store: Store) -> None:
    stop(store.objects, RUN, "too slow\nDONE\x1b[2J\u202e")
    assert str(stop_of(store.objects, RUN)).endswith(": too slow DONE [2J")


def test_the_first_who_stops_it_counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    first = stop(store.objects, RUN)
    monkeypatch.setenv("LOGNAME", "bob")
    assert stop(store.objects, RUN, "later") == first == stop_of(store.objects, RUN)


def test_a_user_without_a_name_can_stop_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert stop(Objects(str(tmp_path)), RUN).who == "somebody"


def test_a_damaged_record_still_stops(store: Store) -> None:
    stop(store.objects, RUN)
    store.objects.put(f"runs/stopped/{RUN}", b"{}")
    found = stop_of(store.objects, RUN)
    assert isinstance(found, Stop) and "damaged" in str(found) and f"runs/stopped/{RUN}" in str(found)
    assert state(store) is State.STOPPED


def test_what_is_new_partial_or_failed_is_stopped_and_afterwards_what_it_was(store: Store) -> None:
    for prepare, was in (
        (lambda attempt: None, State.NEW),
        (lambda attempt: attempt.save_checkpoint(1, b"state"), State.PARTIAL),
        (lambda attempt: attempt.write_failure(ValueError("no")), State.FAILED),
    ):
        prepare(store.attempt(RUN))
        assert state(store) is was
        stop(store.objects, RUN)
        assert state(store) is State.STOPPED
        assert take_up(store.objects, [OTHER, RUN]) == [RUN]
        assert state(store) is was


def test_who_works_on_it_now_is_seen_first(store: Store) -> None:
    stop(store.objects, RUN)
    with store.claim(RUN):
        assert state(store) is State.ELSEWHERE
    assert state(store) is State.STOPPED


@pytest.mark.parametrize("outcome", ["done", "diverged"])
def test_finished_is_finished(store: Store, outcome: str) -> None:
    stop(store.objects, RUN)
    finish(store, outcome)
    assert state(store) is (State.PARTIAL if outcome == "done" else State.DIVERGED), "an evaluator is new: it measures"
    standing = Standing(store)
    assert standing.state(RUN) is State(outcome)


def test_only_the_runs_that_are_named_are_taken_up(store: Store) -> None:
    stop(store.objects, RUN)
    stop(store.objects, OTHER)
    assert take_up(store.objects, {RUN: 1}) == [RUN]
    assert (is_stopped(store.objects, RUN), is_stopped(store.objects, OTHER)) == (False, True)
    assert take_up(store.objects, [RUN]) == []


def test_a_run_that_is_forgotten_takes_its_record_along(store: Store) -> None:
    store.attempt(RUN).save_checkpoint(1, b"state")
    stop(store.objects, RUN)
    trash = forget(store.objects, [RUN])
    assert state(store) is State.NEW
    kept: list[Any] = [key.removeprefix(f"{trash}/") for key in store.objects.list(trash)]
    assert f"stopped/{RUN}" in kept
    for key in kept:  # as `cp -rn trash/. runs/` does
        store.objects.move(f"{trash}/{key}", f"runs/{key}")
    assert state(store) is State.STOPPED
