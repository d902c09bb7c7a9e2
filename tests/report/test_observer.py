"""Who is told: TensorBoard's files and the screen, from what the driver hears and what the store has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stored
from conftest import SMALL

from kdtune.cli.sweep import Options, run
from kdtune.launch.here import launch_here
from kdtune.launch.interrupt import Interrupt
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.report.folder import View
from kdtune.report.observer import Observer, Table, TensorBoard
from kdtune.report.progress import Progress
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.stopping import stop
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Any:
    """The small sweep, finished without an observer's folder."""
    root = tmp_path_factory.mktemp("observer")
    path = root / "small.yaml"
    path.write_text(SMALL)
    options = Options(path, profile="paper", results=str(root / "first"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    return SimpleNamespace(root=root, path=path, plan=build_plan(load_sweep(path), root), store=Store(root / "first"))


def scalars(folder: Path) -> dict[str, dict[str, dict[int, float]]]:
    """What TensorBoard shows: runs by name, tags, values by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[str, dict[int, float]]] = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(path.parent))
        events.Reload()
        name = path.parent.relative_to(folder).name
        found[name] = {
            tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]
        }
    return found


def observed(plan: Any, store: Store, verbosity: int = 0) -> tuple[Observer, Dispatch, View]:
    standing = Standing(store, plan.evaluators)
    dispatch, view = Dispatch(plan, standing), View(standing, plan)
    watchers = [Progress(plan, dispatch, verbosity=verbosity), TensorBoard(dispatch, view)]
    return Observer(watchers), dispatch, view


def test_runs_that_other_commands_did_are_there_from_the_start(sweep, tmp_path: Path) -> None:
    """A sweep whose runs are all done shows them all: histories and final metrics."""
    standing = Standing(sweep.store, sweep.plan.evaluators)
    view = View(standing, sweep.plan, [str(tmp_path)])  # a folder that nobody wrote to
    assert not view.local.exists()
    TensorBoard(Dispatch(sweep.plan, standing), view).close()
    shown = scalars(view.local)
    (hash,) = sweep.plan.evaluators
    for id, planned in sweep.plan.runs.items():
        mine = shown[planned.name]
        history = stored.history(sweep.store, id)
        assert mine["train/loss"] == pytest.approx({int(row["epoch"]): row["train/loss"] for row in history})
        metrics = sweep.store.evaluation(id, hash)
        assert mine["test/accuracy"] == pytest.approx({len(history): metrics["test/accuracy"]})


def test_epochs_are_there_while_a_run_trains_and_once(sweep, tmp_path: Path) -> None:
    observer, _, view = observed(sweep.plan, Store(tmp_path))
    id, planned = next(iter(sweep.plan.runs.items()))
    history = stored.history(sweep.store, id)
    observer.started(id)
    observer.rows(id, history[:1])
    observer.tick()
    assert scalars(view.local)[planned.name]["train/loss"] == pytest.approx({1: history[0]["train/loss"]})
    observer.rows(id, history[:2])
    observer.rows(id, [])
    assert sorted(scalars(view.local)[planned.name]["train/loss"]) == [1, 2]
    observer.close()


def test_a_whole_sweep_gives_what_rebuilding_gives(sweep, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Live or derived anew: the same pictures; and a line a run on the screen."""
    store = Store(tmp_path)
    observer, dispatch, view = observed(sweep.plan, store)
    launch_here(dispatch, observer, tmp_path, 1e9, Interrupt())
    live = scalars(view.local)
    observer.close()
    assert scalars(view.local) == live
    assert set(live) >= {planned.name for planned in sweep.plan.runs.values()}
    said = capsys.readouterr().err
    for planned in sweep.plan.runs.values():
        assert planned.name in said
    assert said.count("test/accuracy") == len(sweep.plan.runs)


def test_the_table_is_written_while_it_runs_and_not_too_often(sweep, monkeypatch) -> None:
    now, written, took = [0.0], [], 0.0
    monkeypatch.setattr("kdtune.report.observer.time.monotonic", lambda: now[0])

    def write(states: Any) -> None:
        written.append(now[0])
        now[0] += took

    table = Table(Dispatch(sweep.plan, Standing(sweep.store, sweep.plan.evaluators)), write)
    for now[0] in (30.0, 61.0):
        table.tick()
    assert not written, "nothing is new"
    table.ended("x", "done")
    for now[0] in (62.0, 63.0, 130.0):
        table.tick()
    assert written == [62.0], "once for what is new"
    took = 10.0
    for now[0] in (140.0, 300.0, 640.0, 700.0):
        table.ended("x", "done")
        table.tick()
    assert written == [62.0, 140.0, 700.0], "at most a fiftieth of the time"
    now[0], took = 2000.0, 0.0
    table.ended("x", "done")
    table.write = lambda states: (_ for _ in ()).throw(StorageError("away"))
    table.tick()


def test_quiet_is_quiet(sweep, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = Store(tmp_path)
    observer, _, _ = observed(sweep.plan, store, verbosity=-1)
    id = next(iter(sweep.plan.runs))
    observer.started(id)
    observer.ended(id, "done")
    observer.close()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_failure_is_told_with_its_reason_even_if_quiet(sweep, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    observer, dispatch, view = observed(sweep.plan, Store(tmp_path), verbosity=-1)
    id, planned = next(iter(sweep.plan.runs.items()))
    observer.started(id)
    observer.rows(id, stored.history(sweep.store, id)[:1])
    dispatch.started(id)
    assert dispatch.ended(id, "Traceback:\nValueError: because") == "failed"
    observer.ended(id, "failed")
    said = capsys.readouterr().err
    assert planned.name in said and "ValueError: because" in said
    assert list(scalars(view.local)[planned.name]["train/loss"]) == [1], "what it had stays"
    observer.close()


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_mean_goes_on_without_what_was_stopped_by_hand_and_waits_for_what_was_interrupted(
    sweep, tmp_path: Path, by_hand: bool
) -> None:
    first, second, third = (id for id, place in sweep.plan.runs.items() if place.label == "teacher rate=0")
    store = Store(tmp_path)
    if by_hand:
        stop(store.objects, third)  # before it began
    observer, dispatch, view = observed(sweep.plan, store)
    for id, epochs in ((first, 2), (second, 1)):
        observer.started(id)
        dispatch.started(id)
        observer.rows(id, stored.history(sweep.store, id)[:epochs])
    if by_hand:
        stop(store.objects, second)
        observer.ended(second, dispatch.ended(second))
    dispatch.stop()
    observer.close()
    seeds = scalars(view.local).get("teacher rate=0", {}).get("seeds")
    assert seeds == ({1: 1, 2: 1} if by_hand else None), "else the third has not begun"


def test_a_teacher_of_ones_own_has_no_epochs_to_count(sweep, tmp_path: Path) -> None:
    from kdtune.training import weights
    from kdtune.training.network import load_finished

    teacher = next(iter(sweep.plan.runs))
    (tmp_path / "mine.safetensors").write_bytes(weights.save(load_finished(teacher, sweep.store)))
    text = SMALL.replace("  seeds: 3\n  select: {rule: best, metric: val/accuracy}", "  checkpoint: mine.safetensors")
    text = text.replace("rate: [0.0, 0.2]", "rate: 0.2")
    (tmp_path / "x.yaml").write_text(text)
    plan = build_plan(load_sweep(tmp_path / "x.yaml"), tmp_path)
    observer, dispatch, view = observed(plan, Store(tmp_path / "results"), verbosity=-1)
    launch_here(dispatch, observer, tmp_path, 1e9, Interrupt())
    observer.close()
    assert set(dispatch.states.values()) == {"done"}
    given = next(planned for planned in plan.runs.values() if planned.role == "teacher")
    assert "test/accuracy" in scalars(view.local)[given.name]


def test_tensorboard_shows_headlines_alone(sweep, tmp_path: Path) -> None:
    """Row D7: of what was measured those that stand for a run; HParams calls a run by its name, not by its path."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    standing = Standing(sweep.store, sweep.plan.evaluators)
    view = View(standing, sweep.plan, [str(tmp_path)])
    TensorBoard(Dispatch(sweep.plan, standing), view).close()
    planned = next(iter(sweep.plan.runs.values()))
    finals = scalars(view.local)[planned.name].keys() - stored.history(sweep.store, planned.id)[0].keys()
    assert finals == {"test/accuracy"} and len(standing.measured(planned.id)) > 5
    events = EventAccumulator(str(view.local / "tensorboard" / "runs" / planned.name))
    events.Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    assert metadata.parse_session_start_info_plugin_data(content).group_name == planned.name
