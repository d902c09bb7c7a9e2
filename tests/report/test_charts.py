"""What TensorBoard shows first, as its own plugin reads it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdtune.planning.plan import Plan, build_plan
from kdtune.report.charts import charts, columns
from kdtune.report.tensorboard import Events
from kdtune.sweepfile.load import load_sweep

PGD = "robust/pgd20@0.06,step=0.03,margin"
FINAL = {"shift/writers": 80.0, "test/accuracy": 91.5, "corruption/mca": 70.0, PGD: 12.0, "logits/margin": 3.0}
ROW = {"epoch": 1, "train/loss": 2.0, "train/accuracy": 40.0, "val/accuracy": 50.0}


@pytest.fixture
def plan(write_sweep, tmp_path) -> Plan:
    return build_plan(load_sweep(write_sweep()), tmp_path)


@pytest.fixture
def board(plan, tmp_path) -> Path:
    """A sweep that is done."""
    events = Events(tmp_path, plan)
    done = dict.fromkeys(plan.runs, "done")
    events.rebuild(lambda ids: {id: [ROW] for id in ids}, {}, dict.fromkeys(plan.runs, FINAL), done)
    return tmp_path / "tensorboard"


def plugin(folder: Path):
    """TensorBoard's Custom Scalars over a folder."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
    from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    scalars = ScalarsPlugin(base_plugin.TBContext(data_provider=provider))
    mapping = {ScalarsPlugin.plugin_name: scalars}
    custom = CustomScalarsPlugin(
        base_plugin.TBContext(data_provider=provider, logdir=str(folder), plugin_name_to_instance=mapping)
    )
    return SimpleNamespace(custom=custom, context=RequestContext(), runs=sorted(multiplexer.Runs()))


def shown(folder: Path) -> dict[str, list[str]]:
    board = plugin(folder)
    layout = json.loads(board.custom.layout_impl(board.context, ""))
    return {each["title"]: [chart["title"] for chart in each["chart"]] for each in layout["category"]}


EXPECTED = {
    "Accuracy": ["test/accuracy", "val/accuracy", "shift/writers", "train/accuracy"],
    "Loss": ["train/loss"],
    "Robustness": [PGD, "corruption/mca"],
    "Other metrics": ["logits/margin"],
}


@pytest.mark.parametrize("place", [".", "means", "runs"])
def test_the_charts_are_there_whichever_folder_tensorboard_is_given(board, place) -> None:
    assert shown(board / place) == EXPECTED


def test_each_chart_draws_its_value_and_no_other(board) -> None:
    here = plugin(board)
    layout = json.loads(here.custom.layout_impl(here.context, ""))
    for chart in (chart for category in layout["category"] for chart in category["chart"]):
        (tag,) = chart["multiline"]["tag"]
        for run in ("means/student rate=0.2", "runs/student rate=0.2 seed=1"):
            found = here.custom.scalars_impl(here.context, run, tag, "")
            assert list(found["tag_to_events"]) == [chart["title"]]


def test_a_word_in_the_run_filter_chooses(board, plan) -> None:
    runs = plugin(board).runs
    chosen = {word: {run for run in runs if word in run} for word in ("means", "runs", "/teacher", "/student")}
    assert chosen["means"] | chosen["runs"] == set(runs) and not chosen["means"] & chosen["runs"]
    assert chosen["/teacher"] | chosen["/student"] == set(runs) - {"means", "runs"}
    assert not chosen["/teacher"] & chosen["/student"]
    assert {run for run in chosen["/teacher"] if "runs" in run} == {
        f"runs/{place.name}" for place in plan.runs.values() if place.role == "teacher"
    }


def test_the_charts_are_there_before_the_first_metric(plan, tmp_path) -> None:
    events = Events(tmp_path, plan)
    events.rebuild(lambda ids: {}, {}, {}, {})
    assert shown(tmp_path / "tensorboard") == {
        "Accuracy": ["test/accuracy", "val/accuracy", "train/accuracy"],
        "Loss": ["train/loss"],
    }


def test_without_a_hold_out_there_is_no_chart_of_it(write_sweep, small_sweep, tmp_path) -> None:
    text = small_sweep.replace(", validation: 0.2", "").replace(
        "select: {rule: best, metric: val/accuracy}", "select: {rule: paired}"
    )
    plan = build_plan(load_sweep(write_sweep(text.replace("seeds: 3", "seeds: 2"))), tmp_path)
    assert charts(plan, FINAL)["Accuracy"] == ["test/accuracy", "shift/writers", "train/accuracy"]


def test_metrics_of_the_hparams_tab_begin_with_accuracy_and_robustness() -> None:
    assert columns(FINAL) == ["test/accuracy", PGD, "corruption/mca", "shift/writers", "logits/margin"]
    assert columns(["corruption/mca", "distance/median", PGD]) == [PGD, "distance/median", "corruption/mca"]


def test_what_an_earlier_version_wrote_goes(board, plan) -> None:
    """Runs stood beside each other, and the columns of HParams in `tensorboard` itself."""
    run = board / "runs" / next(iter(plan.runs.values())).name
    for path in [*run.iterdir(), *(path for path in (board / "runs").iterdir() if path.is_file())]:
        target = board / run.name if path.parent == run else board
        target.mkdir(exist_ok=True)
        (target / path.name).write_bytes(path.read_bytes())
    Events(board.parent, plan).rebuild(lambda ids: {id: [ROW] for id in ids}, {}, {}, {})
    assert sorted(path.name for path in board.iterdir()) == ["means", "runs"]
