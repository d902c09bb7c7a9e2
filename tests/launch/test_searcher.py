"""Tune's private cache of processes: changed where it is as it was tested, left alone where it is not."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from ray.tune.execution import tune_controller

from kdtune.launch import searcher
from kdtune.launch.searcher import PlanSearcher, keeping_processes, told
from kdtune.launch.watchdog import Stuck
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.planning.setbacks import Cause
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

OWN = tune_controller._ObjectCache


@pytest.fixture(autouse=True)
def unsaid():
    searcher._warn_once.cache_clear()


def kept(cache, shapes) -> list:
    for shape in shapes:
        cache.cache_object(shape, f"process {shape}")
    return list(cache.flush_cached_objects())


def test_processes_are_kept_while_nothing_waits_and_go_when_something_does(caplog):
    with keeping_processes():
        cache = tune_controller._ObjectCache(may_keep_one=True)
        assert kept(cache, ["a", "a", "b"]) == [] and cache.num_cached_objects == 3
        cache.increase_max("b")
        assert list(cache.flush_cached_objects()) == ["process a"] * 2
    assert tune_controller._ObjectCache is OWN
    assert caplog.text == ""


class Other(OWN):
    """A cache that counts under another name."""

    def __init__(self, may_keep_one: bool = True) -> None:
        super().__init__(may_keep_one)
        del self._max_num_objects


@pytest.mark.parametrize("other", [Other, None, object])
def test_another_tune_keeps_its_own_cache_and_that_is_said_once(monkeypatch, caplog, other):
    if other is None:
        monkeypatch.delattr(tune_controller, "_ObjectCache")
    else:
        monkeypatch.setattr(tune_controller, "_ObjectCache", other)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with keeping_processes():
                assert getattr(tune_controller, "_ObjectCache", None) is other
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "2.60" in caplog.text


def test_a_run_that_another_machine_finished_and_nobody_sees_here_stops_the_sweep(write_sweep, tmp_path):
    """Results in a folder of that machine's own: the first is enough to know of all."""
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    dispatch = Dispatch(plan, Standing(Store(tmp_path / "results"), plan.evaluators))
    watcher = SimpleNamespace(ended=lambda id, state: None)
    hand = PlanSearcher(dispatch, lambda planned: {"id": planned.id}, watcher)
    id = hand.suggest("a")["id"]
    hand.on_trial_complete("a", {"ended": "done", "error": "", "host": "gpu-7"})
    said = (
        f"done on gpu-7, and not visible here ({tmp_path}/results/runs): is --results a place that all machines share?"
    )
    assert dispatch.reasons[id] == said
    assert dispatch.stopped == f"no further run is started: {said}" and dispatch.over


@pytest.mark.parametrize(
    ("error", "captured"),
    [(torch.AcceleratorError("CUDA error"), False), (Stuck("no step for 900 s"), False), (ValueError("no"), True)],
)
def test_a_run_that_its_gpu_may_have_stumbled_over_takes_eager_steps_from_then_on(
    write_sweep, tmp_path, error, captured
):
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    (id, *_) = plan.runs

    def handed(lost: int = 0) -> bool:
        standing = Standing(Store(tmp_path / "results"), plan.evaluators)
        standing.refresh(id)
        dispatch = Dispatch(plan, standing)
        for _ in range(lost):
            dispatch.setbacks.again(id, Cause.LOST)
        hand = PlanSearcher(dispatch, lambda planned: {"id": planned.id}, SimpleNamespace())
        return hand.suggest("a")["captured"]

    assert handed() is handed(lost=1) is True and handed(lost=2) is False
    store = Store(tmp_path / "results")
    with store.claim(id) as claim:
        store.attempt(id, claim.attempt).write_failure(error)
    assert handed() is captured


def test_a_storage_that_went_before_a_run_is_handed_out_ends_the_sweep(write_sweep, tmp_path, monkeypatch):
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    dispatch = Dispatch(plan, Standing(Store(tmp_path / "results"), plan.evaluators))
    lost = StorageError("it does not answer")
    lost.gone = True

    def job(planned):
        raise lost

    assert PlanSearcher(dispatch, job, SimpleNamespace()).suggest("a") is None
    assert dispatch.over and dispatch.storage_is_gone


@pytest.mark.parametrize(
    "result", [{}, {"ended": "failed", "error": "ValueError: x"}, {"ended": "elsewhere", "error": ""}]
)
def test_of_other_ends_nothing_is_made_up(result):
    assert told(result, None, "a") == result.get("error", "")


@pytest.mark.parametrize("on_its_way_out", [False, True])
def test_a_run_is_said_to_be_tried_again_however_long_its_process_takes_to_end(
    write_sweep, tmp_path, caplog, on_its_way_out
):
    """Ray sees a killed process end when its socket closes; the system may take a moment more to let it go."""
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    store, heard = Store(tmp_path / "results"), []
    dispatch = Dispatch(plan, Standing(store, plan.evaluators))
    watcher = SimpleNamespace(ended=lambda id, state: heard.append(state))
    hand = PlanSearcher(dispatch, lambda planned: {"id": planned.id}, watcher)
    id = hand.suggest("a")["id"]
    claim = store.claims.claim(id) if on_its_way_out else None  # of a process that lives: this one
    hand.on_trial_complete("a", error=True)
    hand.failed(id, "The actor died unexpectedly before finishing this task.\nThe actor is dead because it was killed")
    if claim is not None:
        claim.release()
    assert "is tried again (1 of 4)" in caplog.text
    assert heard == ([State.ELSEWHERE] if on_its_way_out else [])
