"""Event files as TensorBoard's own code reads them, and what is left alone when they are derived anew."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.doctor import machine
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.report import eventfile, summary, table
from kdtune.report.eventfolder import EventFolders
from kdtune.report.folder import View
from kdtune.report.sessions import LONGEST, names, parameters
from kdtune.report.tensorboard import Events
from kdtune.store.encoding import digest, to_lines
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

EPOCHS = 5


@pytest.fixture
def plan(write_sweep, tmp_path) -> Plan:
    """6 teachers and 4 students."""
    return build_plan(load_sweep(write_sweep()), tmp_path)


def history(id: str, epochs: int = EPOCHS) -> list[dict]:
    return [
        {"epoch": n, "lr": 0.1, "train/loss": int(id[:4], 16) / n, "val/accuracy": 50.0 + n,
         "noise/teacher.dropout": math.nan if n == 2 else 0.2, "time/epoch": 3.0}
        for n in range(1, epochs + 1)
    ]  # fmt: skip


FINAL = {"test/accuracy": 91.5, "val/accuracy": 50.0 + EPOCHS, "robust/pgd20@0.06": 12.0, "shift/none": None}


def everything(plan: Plan) -> tuple[dict, dict, dict]:
    return {id: history(id) for id in plan.runs}, dict.fromkeys(plan.runs, FINAL), dict.fromkeys(plan.runs, "done")


def rebuild(events: Events, histories: dict, metrics: dict, states: dict) -> list[str]:
    """As from a store that has these histories; the ids of those that were read."""
    read = []

    def histories_of(ids):
        read.extend(id for id in ids if id in histories)
        return {id: histories.get(id, []) for id in ids}

    over = {id: digest(to_lines(rows)) for id, rows in histories.items() if states.get(id) in ("done", "diverged")}
    events.rebuild(histories_of, over, metrics, states)
    return read


def read(folder: Path):
    """All runs below a folder, loaded by TensorBoard."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    return multiplexer


def curve(folder: Path, name: str, tag: str) -> list[tuple[int, float]]:
    from tensorboard.util.tensor_util import make_ndarray

    points = read(folder / "tensorboard" / "runs" / name).Tensors(".", tag)
    return [(point.step, float(make_ndarray(point.tensor_proto))) for point in points]


def sessions(folder: Path):
    """The HParams tab: the plugin's answers to the browser, the experiment and the sessions by name."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    provider = MultiplexerDataProvider(read(folder), str(folder))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[status for _, status in api_pb2.Status.items()], slice_size=1000
    )
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    tags = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, tags, [])
    return experiment, {group.name.removeprefix("tensorboard/"): group for group in groups}


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.*"))


def test_a_run_has_its_rows_under_their_own_names_with_the_epoch_as_step(plan, tmp_path):
    rebuild(Events(tmp_path, plan), *everything(plan))
    id, name = next(iter(names(plan).items()))
    loss = history(id)[0]["train/loss"]
    assert curve(tmp_path, name, "train/loss") == [(n, pytest.approx(loss / n)) for n in range(1, EPOCHS + 1)]
    assert [step for step, _ in curve(tmp_path, name, "noise/teacher.dropout")] == [1, 3, 4, 5], "NaN is left out"
    assert curve(tmp_path, name, "test/accuracy") == [(EPOCHS, 91.5)]
    assert curve(tmp_path, name, "robust/pgd20@0.06") == [(EPOCHS, 12.0)]
    assert [step for step, _ in curve(tmp_path, name, "val/accuracy")] == [1, 2, 3, 4, 5], "no point twice"
    tags = set(read(tmp_path / "tensorboard" / "runs" / name).Runs()["."]["tensors"])
    assert "shift/none" not in tags
    assert "epoch" not in tags


def test_rows_of_the_past_lie_as_far_apart_as_they_took(plan, tmp_path):
    rebuild(Events(tmp_path, plan), *everything(plan))
    name = next(iter(names(plan).values()))
    times = [point.wall_time for point in read(tmp_path / "tensorboard" / "runs" / name).Tensors(".", "lr")]
    assert [round(b - a, 3) for a, b in pairwise(times)] == [3.0] * (EPOCHS - 1)
    assert times[-1] <= time.time()


def test_the_hparams_tab_is_filled(plan, tmp_path):
    from tensorboard.plugins.hparams import api_pb2

    histories, metrics, states = everything(plan)
    running, diverged, waiting = list(plan.runs)[-3:]
    states |= {running: "running", diverged: "diverged", waiting: "new"}
    histories[running] = []
    del metrics[running], metrics[diverged], metrics[waiting], histories[waiting]
    rebuild(Events(tmp_path, plan), histories, metrics, states)

    experiment, groups = sessions(tmp_path)
    called = names(plan)
    assert set(groups) == set(called.values()) - {called[waiting]}
    status = {name: group.sessions[0].status for name, group in groups.items()}
    assert status[called[running]] == api_pb2.STATUS_UNKNOWN, "begun, and not over"
    assert status[called[diverged]] == api_pb2.STATUS_FAILURE
    assert Counter(status.values())[api_pb2.STATUS_SUCCESS] == len(plan.runs) - 3

    student = next(id for id, run in plan.runs.items() if run.role == "student" and run.parameters["rate"] == 0.2)
    stated = groups[called[student]].hparams.items()
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in stated} == {
        "dataset": plan.dataset, "model": "MLP-8", "role": "student", "seed": plan.runs[student].run.seed,
        "rate": 0.2, "teacher.rate": 0.2, "noise.teacher.dropout.rate": 0.2,
    }  # fmt: skip
    done = next(iter(called.values()))
    measured = {value.name.tag: (value.value, value.training_step) for value in groups[done].metric_values}
    assert measured == {name: (value, EPOCHS) for name, value in FINAL.items() if value is not None}
    assert [info.name.tag for info in experiment.metric_infos] == ["test/accuracy", "val/accuracy", "robust/pgd20@0.06"]
    differ = {info.name: info.differs for info in experiment.hparam_infos}
    assert differ == {"rate": True, "role": True, "seed": True, "teacher.rate": True, "dataset": False, "model": False,
                      "noise.teacher.dropout.rate": True}  # fmt: skip


def test_while_no_metric_is_known_tensorboard_finds_the_columns_itself(plan, tmp_path):
    events = Events(tmp_path, plan)
    rebuild(events, {}, {}, dict.fromkeys(plan.runs, "new"))
    id = next(iter(plan.runs))
    events.append(id, history(id, 2))
    experiment, groups = sessions(tmp_path)
    assert list(groups) == [names(plan)[id]]
    assert "train/loss" in {info.name.tag for info in experiment.metric_infos}
    events.finish(id, FINAL)
    experiment, _ = sessions(tmp_path)
    assert [info.name.tag for info in experiment.metric_infos] == ["test/accuracy", "val/accuracy", "robust/pgd20@0.06"]


def test_what_is_unchanged_is_not_written_again(plan, tmp_path, monkeypatch):
    rebuild(Events(tmp_path, plan), *everything(plan))
    before = stamps(tmp_path / "tensorboard")
    monkeypatch.setattr(eventfile, "records", lambda *args, **kwargs: pytest.fail("something was written"))
    assert rebuild(Events(tmp_path, plan), *everything(plan)) == [], "and no history is read"
    assert stamps(tmp_path / "tensorboard") == before


def test_forty_five_finished_runs_of_sixty_epochs_are_looked_through_in_no_time(write_sweep, tmp_path):
    plan = build_plan(load_sweep(write_sweep(), overrides=["seeds=20"]), tmp_path)
    assert len(plan.runs) >= 45
    contents = {id: history(id, 60) for id in plan.runs}, *everything(plan)[1:]
    rebuild(Events(tmp_path, plan), *contents)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        rebuild(Events(tmp_path, plan), *contents)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.3


def test_a_changed_run_is_replaced_as_a_whole_and_no_other(plan, tmp_path):
    histories, metrics, states = everything(plan)
    rebuild(Events(tmp_path, plan), histories, metrics, states)
    before = stamps(tmp_path / "tensorboard")
    id = list(plan.runs)[3]
    folder = tmp_path / "tensorboard" / "runs" / names(plan)[id]
    (old,) = event_files(folder)
    histories[id] = [{**row, "train/loss": 7.0} for row in history(id, 3)]
    rebuild(Events(tmp_path, plan), histories, metrics, states)
    assert curve(tmp_path, folder.name, "train/loss") == [(1, 7.0), (2, 7.0), (3, 7.0)]
    (new,) = event_files(folder)
    assert new.name > old.name, "TensorBoard reads on in the order of names"
    changed = {path for path, stamp in stamps(tmp_path / "tensorboard").items() if before.get(path) != stamp}
    mean = tmp_path / "tensorboard" / "means" / plan.runs[id].label
    assert {path.parent for path in changed} == {folder, mean}


def test_the_old_file_stays_until_the_new_one_is_written(plan, tmp_path, monkeypatch):
    histories, metrics, states = everything(plan)
    rebuild(Events(tmp_path, plan), histories, metrics, states)
    id, name = next(iter(names(plan).items()))
    (old,) = event_files(tmp_path / "tensorboard" / "runs" / name)
    seen = []

    def full(self, path, data, mode):
        if path.parent == old.parent:
            seen.append(old.exists())
        return False

    monkeypatch.setattr(EventFolders, "_written", full)
    histories[id] = history(id, 2)
    rebuild(Events(tmp_path, plan), histories, metrics, states)
    assert seen == [True]
    assert old.exists()


@pytest.mark.parametrize("damage", ["cut", "grown", "gone", "doubled", "note"])
def test_files_that_are_not_as_they_were_written_are_written_again(plan, tmp_path, damage):
    rebuild(Events(tmp_path, plan), *everything(plan))
    name = list(names(plan).values())[2]
    folder = tmp_path / "tensorboard" / "runs" / name
    (path,) = event_files(folder)
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[:-7])
        case "grown":
            path.write_bytes(data + data)
        case "gone":
            path.unlink()
        case "doubled":
            (folder / "events.out.tfevents.1.other").write_bytes(data)
        case "note":
            (folder / "holds.json").write_text("{")
    rebuild(Events(tmp_path, plan), *everything(plan))
    assert len(event_files(folder)) == 1
    assert [step for step, _ in curve(tmp_path, name, "lr")] == [1, 2, 3, 4, 5]


def test_runs_that_left_the_plan_go_and_what_others_put_there_stays(plan, tmp_path):
    rebuild(Events(tmp_path, plan), *everything(plan))
    fewer = plan.only({"seed": 0, "rate": 0.2})
    gone = sorted(set(names(plan).values()) - set(names(fewer).values()))
    note = tmp_path / "tensorboard" / "runs" / gone[0] / "note.txt"
    note.write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "events.out.tfevents.1.x").write_text("")
    (tmp_path / "tensorboard" / "runs" / "link").symlink_to(elsewhere)
    rebuild(Events(tmp_path, fewer), *everything(fewer))
    left = {path.name for path in (tmp_path / "tensorboard" / "runs").iterdir() if path.is_dir()}
    assert left == set(names(fewer).values()) | {gone[0], "link"}
    assert [path.name for path in note.parent.iterdir()] == ["note.txt"]
    assert list(elsewhere.iterdir()), "links are not followed"


def test_rows_are_appended_once_as_they_come(plan, tmp_path):
    id, name = next(iter(names(plan).items()))
    events = Events(tmp_path, plan)
    rebuild(events, {id: history(id, 2)}, {}, {id: "partial"})
    events.append(id, history(id, 2))
    events.append(id, history(id, 4))
    events.append(id, history(id, 4)[1:3])
    assert [step for step, _ in curve(tmp_path, name, "lr")] == [1, 2, 3, 4]
    events.append(id, history(id)[4:])
    assert curve(tmp_path, name, "train/loss")[-1] == (5, pytest.approx(history(id)[4]["train/loss"]))
    assert len(event_files(tmp_path / "tensorboard" / "runs" / name)) == 1


def test_a_run_that_was_followed_live_needs_no_rewriting(plan, tmp_path):
    id, name = next(iter(names(plan).items()))
    events = Events(tmp_path, plan)
    events.append(id, [])
    assert list(sessions(tmp_path)[1]) == [name], "shown before its first epoch"
    events.append(id, history(id, 3))
    events.append(id, history(id))
    events.finish(id, FINAL)
    events.close()
    before = stamps(tmp_path / "tensorboard")
    # as the store gives it back: NaN is null, and numbers come through JSON
    stored = json.loads(json.dumps([{k: None if v != v else v for k, v in row.items()} for row in history(id)]))
    rebuild(Events(tmp_path, plan), {id: stored}, {id: FINAL}, {id: "done"})
    assert stamps(tmp_path / "tensorboard") == before
    assert curve(tmp_path, name, "test/accuracy") == [(EPOCHS, 91.5)]


@pytest.mark.parametrize(("state", "ended"), [("done", "STATUS_SUCCESS"), ("failed", "STATUS_FAILURE")])
def test_a_session_ends_as_its_run_does(plan, tmp_path, state, ended):
    from tensorboard.plugins.hparams import api_pb2

    id, name = next(iter(names(plan).items()))
    events = Events(tmp_path, plan)
    events.append(id, history(id, 1))
    events.finish(id, {}, state)
    assert sessions(tmp_path)[1][name].sessions[0].status == api_pb2.Status.Value(ended)


def test_a_run_without_epochs_has_its_metrics_at_step_0(plan, tmp_path):
    id, name = next(iter(names(plan).items()))
    Events(tmp_path, plan).finish(id, FINAL)
    assert curve(tmp_path, name, "test/accuracy") == [(0, 91.5)]


def test_a_folder_that_cannot_be_written_is_one_warning(plan, tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    events = Events(tmp_path, plan)
    with caplog.at_level(logging.WARNING):
        rebuild(events, *everything(plan))
        id = next(iter(plan.runs))
        events.append(id, history(id))
        events.finish(id, FINAL)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path / "tensorboard") in caplog.text


def test_runs_of_one_name_are_told_apart_by_their_ids(plan):
    places = [replace(place, parameters={"rate": "A" if n else "a"}) for n, place in enumerate(plan.places)]
    twins = [place.id for place in places if place.role == "student" and place.run.seed == 0]
    called = names(replace(plan, places=tuple(places)))
    assert [called[id] for id in twins] == [f"student rate=A seed=0 {id}" for id in twins]
    assert names(plan)[next(iter(plan.runs))] == "teacher rate=0 seed=0"


@given(st.lists(st.text(max_size=150), min_size=10, max_size=10))
def test_folder_names_are_safe_and_distinct(small_plan, texts):
    named = zip(small_plan.places, texts, strict=True)
    places = tuple(replace(place, parameters={"x": text}) for place, text in named)
    called = list(names(replace(small_plan, places=places)).values())
    assert len({name.casefold() for name in called}) == len(called)
    for name in called:
        assert Path(name).name == name and name.isascii() and name.isprintable()
        assert not set(name) & set('/\\:*?"<>|') and name == name.strip(" .")
        assert len(name) <= LONGEST


@pytest.fixture(scope="module")
def small_plan(tmp_path_factory) -> Plan:
    from conftest import SMALL

    folder = tmp_path_factory.mktemp("plan")
    (folder / "small.yaml").write_text(SMALL)
    return build_plan(load_sweep(folder / "small.yaml"), folder)


def test_a_hyperparameter_is_of_one_kind_throughout(plan):
    values = [1, 2.5, "all", True, None, [1, 2]]
    places = tuple(
        replace(place, parameters={"mixed": value, "whole": 3})
        for place, value in zip(plan.places, values, strict=False)
    )
    taken = parameters(replace(plan, places=places))
    assert [columns.get("mixed") for columns in taken.values()] == ["1.0", "2.5", "all", "True", None, "[1, 2]"]
    assert {type(columns["whole"]) for columns in taken.values()} == {float}


def test_importing_loads_neither_tensorboard_nor_torch_nor_pandas():
    code = "import sys, kdtune.report.tensorboard; print({'tensorboard', 'torch', 'pandas', 'ray'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


@pytest.fixture
def two_places(write_sweep, small_sweep, tmp_path) -> Plan:
    """3 teachers and 3 students alone that are the same 3 runs; 3 students that are taught (row A5)."""
    text = small_sweep.replace("rate: [0.0, 0.2]", "d: [{alpha: 0.9, temperature: 4}, null]").replace(
        "seeds: 2", "seeds: 3"
    )
    text = text.replace("[8], dropout: $rate", "[8]").replace("tion: {alpha: 0.9, temperature: 4}", "tion: $d")
    return build_plan(
        load_sweep(write_sweep(text.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""))), tmp_path
    )


def test_a_run_of_two_places_has_a_session_at_each_and_its_curves_once(two_places, tmp_path):
    from tensorboard.plugins.hparams import api_pb2

    rebuild(Events(tmp_path, two_places), *everything(two_places))
    _, groups = sessions(tmp_path)
    assert set(groups) == {place.name for place in two_places.places} and len(groups) == 9
    for name in ("teacher seed=1", "student d=null seed=1"):
        group = groups[name]
        assert group.sessions[0].status == api_pb2.STATUS_SUCCESS
        assert {value.name.tag: value.value for value in group.metric_values}["test/accuracy"] == 91.5
        assert group.hparams["role"].string_value == name.split()[0]
    assert len(curve(tmp_path, "teacher seed=1", "train/loss")) == EPOCHS
    again = read(tmp_path / "tensorboard" / "runs" / "student d=null seed=1").Runs()["."]["tensors"]
    scalars = {name for name in again if not name.startswith("_hparams_")}
    assert scalars == {name for name, value in FINAL.items() if value is not None}, "no curves twice"


def test_further_sessions_begin_and_end_with_the_run_and_are_left_alone_then(two_places, tmp_path):
    from tensorboard.plugins.hparams import api_pb2

    events = Events(tmp_path, two_places)
    id = next(iter(two_places.runs))
    events.append(id, [])
    assert {group.sessions[0].status for group in sessions(tmp_path)[1].values()} == {api_pb2.STATUS_UNKNOWN}
    for row in history(id):
        events.append(id, [row])
    events.finish(id, FINAL)
    _, groups = sessions(tmp_path)
    assert set(groups) == {"teacher seed=0", "student d=null seed=0"}
    assert {group.sessions[0].status for group in groups.values()} == {api_pb2.STATUS_SUCCESS}
    before = stamps(tmp_path)
    again = rebuild(Events(tmp_path, two_places), {id: history(id)}, {id: FINAL}, {id: "done"})
    assert again == [id], "its setting's mean waits for the other seeds"
    assert stamps(tmp_path) == before, "what is there is not written again"
    further = tmp_path / "tensorboard" / "runs" / "student d=null seed=0"
    for path in further.iterdir():
        path.unlink()
    rebuild(Events(tmp_path, two_places), {id: history(id)}, {id: FINAL}, {id: "done"})
    assert event_files(further), "and what is gone comes back"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_deleted_while_a_run_trains_is_whole_again_with_the_next_command(plan, tmp_path, what):
    """faults 39: rm in flight."""
    events = Events(tmp_path, plan)
    id, name = next(iter(names(plan).items()))
    events.append(id, history(id, 2))
    if what == "file":
        event_files(tmp_path / "tensorboard" / "runs" / name)[0].unlink()
    else:
        shutil.rmtree(tmp_path / "tensorboard")
    events.append(id, history(id))
    events.finish(id, FINAL)
    rebuild(Events(tmp_path, plan), {id: history(id)}, {id: FINAL}, {id: "done"})
    assert [step for step, _ in curve(tmp_path, name, "lr")] == [1, 2, 3, 4, 5]


def test_the_command_that_is_printed_shows_them_to_this_machine_alone(plan, tmp_path):
    standing = Standing(Store(tmp_path / "results"), plan.evaluators)
    dispatch = Dispatch(plan, standing)
    rows = table.rows(plan, standing, dispatch.states)
    said = summary.closing(plan, dispatch, View(standing, plan), rows, 1.0, "python -m kdtune.sweep")
    (words,) = [shlex.split(line)[1:] for line in said if line.startswith("TensorBoard ")]
    assert words[0] == "tensorboard"
    shown = [sys.executable, "-m", "tensorboard.main", *words[1:], "--port", "0"]
    with subprocess.Popen(shown, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stderr)
            port = next(int(found[1]) for line in lines if (found := re.search(r" at \S+:(\d+)/", line)))
            assert port not in machine.open_ports()
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        finally:
            server.kill()
