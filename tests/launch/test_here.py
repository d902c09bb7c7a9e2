"""A plan in this process: what is started in which order, what is told, how it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import stored
import torch
from conftest import SMALL

import kdtune.training.run
from kdtune.launch import here
from kdtune.launch.here import launch_here
from kdtune.launch.interrupt import Interrupt
from kdtune.launch.watchdog import Watchdog
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.context import RunContext


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.order: list[tuple[str, str]] = []
        self.told: dict[str, list[dict[str, float]]] = defaultdict(list)
        self.states: dict[str, str] = {}
        self.ticks = 0

    def started(self, id: str) -> None:
        self.order.append(("started", id))

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        self.told[id] += rows

    def ended(self, id: str, state: str) -> None:
        self.order.append(("ended", id))
        self.states[id] = state

    def tick(self) -> None:
        self.ticks += 1


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two teachers, one student."""
    path = tmp_path / "x.yaml"
    text = SMALL.replace("seeds: 2", "seeds: 1").replace("seeds: 3", "seeds: 2").replace("[0.0, 0.2]", "0.2")
    path.write_text(text)
    plan = build_plan(load_sweep(path), tmp_path)
    assert [run.role for run in plan.runs.values()] == ["teacher", "teacher", "student"]
    return plan


@pytest.fixture
def go(plan: Plan, tmp_path: Path):
    """Does the plan here; returns how each run stands and what was told."""

    def go(every: float = 1e9, interrupt: Interrupt | None = None, **flags: Any) -> tuple[Dispatch, Notes]:
        dispatch, notes = Dispatch(plan, Standing(Store(tmp_path / "results"), plan.evaluators)), Notes()
        launch_here(dispatch, notes, tmp_path, every, interrupt or Interrupt(), **flags)
        return dispatch, notes

    return go


def test_teachers_first_one_after_the_other(go, plan: Plan) -> None:
    dispatch, notes = go()
    assert notes.order == [(what, id) for id in plan.runs for what in ("started", "ended")]
    assert set(notes.states.values()) == {"done"} and dispatch.over
    assert notes.ticks >= len(plan.runs)


def test_every_epoch_is_told_once_and_is_what_the_store_keeps(go, plan: Plan) -> None:
    dispatch, notes = go()
    for id in plan.runs:
        assert [row["epoch"] for row in notes.told[id]] == [1, 2, 3]
        assert notes.told[id] == stored.history(dispatch.standing.store, id)


def test_a_second_time_there_is_nothing_to_do(go) -> None:
    go()
    dispatch, notes = go()
    assert notes.order == [] and dispatch.over


def test_a_failure_is_told_its_student_skipped_and_tried_again(go, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, student = plan.runs
    original = kdtune.training.run.train

    def broken(network: Any, split: Any, recipe: Any, lesson: Any, seed: int, **rest: Any) -> Any:
        return 1 / 0 if seed == 1 else original(network, split, recipe, lesson, seed, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(kdtune.training.run, "train", broken)
        dispatch, notes = go()
    assert notes.states == {first: "done", second: "failed"}
    assert dispatch.states[student] == "skipped" and second in dispatch.reasons[student]
    assert "ZeroDivisionError" in dispatch.reasons[second] and "in broken" in dispatch.reasons[second], "in full"
    again, notes = go()
    assert [id for what, id in notes.order if what == "started"] == [second, student]
    assert set(again.states.values()) == {"done"}


def test_the_debugger_opens_where_a_run_failed_if_asked(go, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(kdtune.training.run, "train", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(here.pdb, "post_mortem", lambda trace: opened.append(trace))
    go()
    assert opened == []
    go(post_mortem=True)
    assert len(opened) == 2, "for each teacher"
    innermost = opened[0]
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    assert innermost.tb_frame.f_code.co_name == "<lambda>"


def test_ctrl_c_ends_it_after_the_epoch_and_the_next_time_goes_on(
    go, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(plan.runs))
    with monkeypatch.context() as patch, Interrupt() as interrupt:
        rows = Notes.rows

        def one_epoch(self: Notes, id: str, new: list[dict[str, float]]) -> None:
            rows(self, id, new)
            if new[-1]["epoch"] == 2:
                signal.raise_signal(signal.SIGINT)

        patch.setattr(Notes, "rows", one_epoch)
        dispatch, notes = go(every=0, interrupt=interrupt)
        assert interrupt.signal == signal.SIGINT
    assert notes.order == [("started", first)] and not dispatch.over
    assert [row["epoch"] for row in notes.told[first]] == [1, 2]
    assert dispatch.standing.store.owner(first) is None, "its claim is given back"
    again, notes = go(every=0)
    assert set(again.states.values()) == {"done"}
    trained = [row["epoch"] for row in notes.told[first]]
    assert trained == [1, 2, 3], "the whole history, of which one epoch is new"
    assert stored.history(again.standing.store, first) == notes.told[first]


def test_interrupted_before_it_begins_it_does_nothing(go, plan: Plan) -> None:
    interrupt = Interrupt()
    interrupt.signal = signal.SIGTERM
    dispatch, notes = go(interrupt=interrupt)
    assert notes.order == [] and set(dispatch.states.values()) == {"new"}


def test_a_run_that_another_has_is_waited_for(go, plan: Plan, tmp_path: Path) -> None:
    """Another process has the first teacher, and gives it up untrained: then it is trained here."""
    first, *_ = plan.runs
    claim = Store(tmp_path / "results").claim(first)
    assert claim is not None
    threading.Timer(1.5, claim.release).start()
    began = time.monotonic()
    dispatch, notes = go()
    assert set(dispatch.states.values()) == {"done"}
    assert notes.order[0] != ("started", first), "the others do not wait for it"
    assert time.monotonic() - began >= 1


def test_five_failures_alike_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SMALL)
    monkeypatch.setattr(kdtune.training.run, "train", lambda *_, **__: 1 / 0)
    plan = build_plan(load_sweep(path), tmp_path)
    dispatch = Dispatch(plan, Standing(Store(tmp_path / "results"), plan.evaluators))
    notes = Notes()
    launch_here(dispatch, notes, tmp_path, 1e9, Interrupt())
    assert dispatch.counts == {"failed": 5, "skipped": 4, "stopped": 1}
    assert len(notes.states) == 5 and dispatch.stopped.endswith("ZeroDivisionError: division by zero")


def test_an_error_of_the_gpu_ends_it_for_the_process_has_no_gpu_any_more(go, plan: Plan, monkeypatch: Any) -> None:
    original, captured = kdtune.training.run.train_and_evaluate, []

    def broken(*told: Any) -> None:
        captured.append(next(each for each in told if isinstance(each, RunContext)).captured)
        if len(captured) == 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        original(*told)

    monkeypatch.setattr(kdtune.training.run, "train_and_evaluate", broken)
    dispatch, notes = go()
    assert [what for what, _ in notes.order] == ["started", "ended"] and dispatch.over
    assert dispatch.stopped == "its GPU had an error, which stays with this process; the same command goes on"
    again, _ = go()
    assert set(again.states.values()) == {"done"} and captured == [True, False, True, True], "eager steps, of this run"


def test_a_full_disk_ends_it_with_the_first_run(go, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, *_: Any) -> None:
        raise StorageError("cannot write r/x: No space left on device (9 bytes needed, 0 free); free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "claim", full)  # the first thing that a run writes
        dispatch, notes = go()
    assert [what for what, _ in notes.order] == ["started", "ended"]
    assert "9 bytes needed, 0 free" in dispatch.stopped and dispatch.over
    again, _ = go()
    assert set(again.states.values()) == {"done"}


def test_a_run_that_hangs_here_is_told_and_left_alone(
    go, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = kdtune.training.run.train
    monkeypatch.setattr(here, "Watchdog", lambda found: Watchdog(found, silence=0.3))

    def slow(network: Any, *rest: Any, **more: Any) -> Any:
        network(torch.zeros(1, 1, 8, 8))
        time.sleep(1.5)
        return original(network, *rest, **more)

    monkeypatch.setattr(kdtune.training.run, "train", slow)
    dispatch, _ = go()
    assert set(dispatch.states.values()) == {"done"}
    assert "no training step or evaluation batch for" in caplog.text
    assert len(list((tmp_path / "results" / "runs").glob("*/*/stacks.txt"))) >= 1


BARE = """\
import importlib.metadata, sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "optuna"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def version(name, known=importlib.metadata.version):
    if name in ("ray", "optuna", *UNINSTALLED):
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)

def requires(name, known=importlib.metadata.requires):
    version(name)
    return known(name)

sys.meta_path.insert(0, Absent())
importlib.metadata.version, importlib.metadata.requires = version, requires
"""


@pytest.mark.parametrize("uninstalled", ["kdtune", ""])
def test_it_needs_neither_ray_nor_an_installed_kdtune(uninstalled: str, write_sweep: Any, tmp_path: Path) -> None:
    """As on a machine that was lent with torch on it, and nothing else: a copy of the folder is enough."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/sitecustomize.py").write_text(f"UNINSTALLED = {uninstalled.split()}\n{BARE}")
    paths = {"PYTHONPATH": f"{tmp_path / 'bare'}{os.pathsep}{Path(here.__file__).parents[2]}"}
    words = ["sweep", str(write_sweep()), "--here", "--results", "results", "--seeds", "1", "--yes"]
    done = subprocess.run(
        [sys.executable, "-m", "kdtune", *words], cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("kdtune itself is not installed" in done.stderr) == bool(uninstalled)
    kept = [json.loads(path.read_text()) for path in (tmp_path / "results/runs").rglob("provenance.json")]
    assert kept and all(set(each["libraries"]) == {"torch", "torchvision", "numpy", "kdtune"} for each in kept)
