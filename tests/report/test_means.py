"""Means over seeds as TensorBoard reads them: against numbers worked out by hand, live, resumed, with seeds missing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kdtune.planning.plan import Plan, build_plan
from kdtune.report.sessions import settings
from kdtune.report.tensorboard import Events
from kdtune.store.encoding import digest, to_lines
from kdtune.sweepfile.load import load_sweep

TEACHER = "teacher rate=0"  # three seeds
STUDENT = "student rate=0.2"  # two


@pytest.fixture
def plan(write_sweep, tmp_path) -> Plan:
    """Two settings of three teachers, two of two students."""
    return build_plan(load_sweep(write_sweep()), tmp_path)


def of(plan: Plan, label: str) -> list[str]:
    return [id for id, place in plan.runs.items() if place.label == label]


def history(seed: int, epochs: int = 3) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "lr": 0.1, "train/loss": (seed + 1) / n, "val/accuracy": 10.0 * n + seed, "time/epoch": 1.0,
         "noise/teacher.dropout": 0.2, "time/images_per_second": 5.0}
        for n in range(1, epochs + 1)
    ]  # fmt: skip


def final(seed: int) -> dict[str, float]:
    return {"test/accuracy": 90.0 + seed, "val/accuracy": 30.0 + seed}


def rebuild(events: Events, histories: dict, metrics: dict, states: dict) -> list[str]:
    """As from a store that has these histories of runs that are over; the ids of those that were read."""
    asked: list[str] = []

    def read(ids: Iterable[str]) -> dict:
        asked.extend(id for id in ids if id in histories)
        return {id: histories.get(id, []) for id in ids}

    over = {id: digest(to_lines(rows)) for id, rows in histories.items() if states.get(id) in ("done", "diverged")}
    events.rebuild(read, over, metrics, states)
    return asked


def finished(plan: Plan) -> tuple[dict, dict, dict]:
    seeds = {id: place.run.seed for id, place in plan.runs.items()}
    return (
        {id: history(seed) for id, seed in seeds.items()},
        {id: final(seed) for id, seed in seeds.items()},
        dict.fromkeys(seeds, "done"),
    )


def means(folder: Path) -> set[str]:
    return {path.name for path in (folder / "tensorboard" / "means").glob("*/")}


def curves(folder: Path, name: str) -> dict[str, dict[int, float]]:
    """Values by tag and step, no point twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard" / "means" / name)).Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        found[tag] = {point.step: pytest.approx(point.value) for point in points}
        assert len(found[tag]) == len(points)
    return found


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


WHOLE = {  # of seeds 0, 1, 2: loss (1 + 2 + 3) / 3 = 2 over the epoch, accuracy 10 n + 1
    "seeds": {1: 3, 2: 3, 3: 3},
    "train/loss": {1: 2.0, 2: 1.0, 3: 2 / 3},
    "val/accuracy": {1: 11.0, 2: 21.0, 3: 31.0},
    "test/accuracy": {3: 91.0},
}


def test_a_mean_is_that_of_its_seeds_epoch_by_epoch(plan, tmp_path) -> None:
    rebuild(Events(tmp_path, plan), *finished(plan))
    assert means(tmp_path) == {"teacher rate=0", "teacher rate=0.2", "student rate=0", "student rate=0.2"}
    assert curves(tmp_path, TEACHER) == WHOLE
    assert curves(tmp_path, STUDENT)["train/loss"] == {1: 1.5, 2: 0.75, 3: 0.5}
    assert curves(tmp_path, STUDENT)["seeds"] == {1: 2, 2: 2, 3: 2}


def test_means_that_are_there_are_left_alone_and_nothing_is_read(plan, tmp_path) -> None:
    rebuild(Events(tmp_path, plan), *finished(plan))
    before = stamps(tmp_path)
    assert rebuild(Events(tmp_path, plan), *finished(plan)) == []
    assert stamps(tmp_path) == before


def test_an_epoch_is_there_once_all_seeds_have_reached_it(plan, tmp_path) -> None:
    events = Events(tmp_path, plan)
    rebuild(events, {}, {}, {})
    first, second, third = of(plan, TEACHER)
    for id, seed, epochs in [(first, 0, 3), (second, 1, 2)]:
        events.append(id, [])
        events.append(id, history(seed, epochs))
    assert means(tmp_path) == set(), "the third has not begun"
    events.append(third, history(2, 1))
    assert curves(tmp_path, TEACHER) == {tag: {1: WHOLE[tag][1]} for tag in ("seeds", "train/loss", "val/accuracy")}
    (file,) = (tmp_path / "tensorboard" / "means" / TEACHER).glob("events.*")
    events.append(third, history(2, 3))
    assert list(curves(tmp_path, TEACHER)["seeds"]) == [1, 2], "the second has two"
    events.append(second, history(1, 3))
    events.finish(first, final(0))
    events.finish(second, final(1))
    assert "test/accuracy" not in curves(tmp_path, TEACHER)
    events.finish(third, final(2))
    assert curves(tmp_path, TEACHER) == WHOLE
    assert list(file.parent.glob("events.*")) == [file], "it was only added to"
    events.close()
    before = stamps(tmp_path / "tensorboard" / "means")
    histories, metrics, states = ({id: each[id] for id in of(plan, TEACHER)} for each in finished(plan))
    assert rebuild(Events(tmp_path, plan), histories, metrics, states) == []
    assert stamps(tmp_path / "tensorboard" / "means") == before


def test_a_resumed_mean_is_whole(plan, tmp_path) -> None:
    """One seed was done by an earlier command, one was cut off after an epoch, one is new."""
    first, second, third = of(plan, TEACHER)
    events = Events(tmp_path, plan)
    rebuild(events, {}, {}, {})
    events.append(first, history(0))
    events.finish(first, final(0))
    events.append(second, history(1, 1))
    events.close()
    again = Events(tmp_path, plan)
    known = {first: history(0)}, {first: final(0)}
    assert rebuild(again, *known, {first: "done", second: "partial", third: "new"}) == [first]
    for id, seed in [(second, 1), (third, 2)]:
        again.append(id, [])
        again.append(id, history(seed, 1))  # a run that goes on says first what its checkpoint has
        again.append(id, history(seed)[1:])
        again.finish(id, final(seed))
    assert curves(tmp_path, TEACHER) == WHOLE
    before = stamps(tmp_path / "tensorboard" / "means")
    rebuild(again, *({id: each[id] for id in of(plan, TEACHER)} for each in finished(plan)))
    assert stamps(tmp_path / "tensorboard" / "means") == before


def test_an_epoch_that_the_driver_was_not_told_of_is_not_made_up(plan, tmp_path) -> None:
    first, second = of(plan, STUDENT)
    events = Events(tmp_path, plan)
    rebuild(events, {}, {}, {})
    events.append(first, history(0))
    events.append(second, history(1)[1:])
    assert list(curves(tmp_path, STUDENT)["train/loss"]) == [2, 3]
    events.finish(first, final(0))
    events.finish(second, final(1))
    rebuild(events, *({id: each[id] for id in of(plan, STUDENT)} for each in finished(plan)))
    assert list(curves(tmp_path, STUDENT)["train/loss"]) == [1, 2, 3]


def test_a_mean_that_stays_unfinished_is_written_once(plan, tmp_path) -> None:
    first, second, third = of(plan, TEACHER)
    known = {id: history(seed) for seed, id in enumerate((first, second, third))}
    states = {first: "done", second: "done", third: "partial"}
    finals = {first: final(0), second: final(1)}
    events = Events(tmp_path, plan)
    events.append(third, history(2, 2))
    live = {first: known[first], second: known[second]}
    rebuild(events, live, finals, states)
    assert curves(tmp_path, TEACHER) == {tag: {n: WHOLE[tag][n] for n in (1, 2)} for tag in WHOLE if "test" not in tag}
    before = stamps(tmp_path / "tensorboard" / "means")
    rebuild(events, live, finals, states)
    assert stamps(tmp_path / "tensorboard" / "means") == before


@pytest.mark.parametrize("state", ["diverged", "failed", "skipped", "stopped"])
def test_a_seed_without_a_result_is_left_out_of_the_whole_curve(plan, tmp_path, state) -> None:
    """As in the table; the mean does not jump where it ended."""
    wanted = {
        "seeds": {1: 2, 2: 2, 3: 2},
        "train/loss": {1: 1.5, 2: 0.75, 3: 0.5},
        "val/accuracy": {1: 10.5, 2: 20.5, 3: 30.5},
        "test/accuracy": {3: 90.5},
    }
    first, second, third = of(plan, TEACHER)
    events = Events(tmp_path, plan)
    rebuild(events, {}, {}, {})
    for seed, id in enumerate((first, second, third)):
        events.append(id, history(seed, 2))
    assert curves(tmp_path, TEACHER)["seeds"] == {1: 3, 2: 3}
    if state != "skipped":  # of those nobody is told
        events.finish(third, {}, state)
        assert curves(tmp_path, TEACHER)["seeds"] == {1: 2, 2: 2}
    for seed, id in enumerate((first, second)):
        events.append(id, history(seed))
        events.finish(id, final(seed))
    histories, metrics, states = ({id: each[id] for id in (first, second)} for each in finished(plan))
    if state != "skipped":
        assert curves(tmp_path, TEACHER) == wanted
    rebuild(events, histories, metrics, states | {third: state})
    assert curves(tmp_path, TEACHER) == wanted
    shutil.rmtree(tmp_path / "tensorboard")
    rebuild(Events(tmp_path, plan), histories, metrics, states | {third: state})
    assert curves(tmp_path, TEACHER) == wanted


def test_a_failed_seed_that_is_tried_again_is_waited_for(plan, tmp_path) -> None:
    first, second = of(plan, STUDENT)
    events = Events(tmp_path, plan)
    rebuild(events, {}, {}, {})
    events.append(first, history(0))
    events.finish(first, final(0))
    events.append(second, history(1, 1))
    events.finish(second, {}, "failed")
    assert curves(tmp_path, STUDENT)["seeds"] == {1: 1, 2: 1, 3: 1}
    events.append(second, history(1, 2))
    assert curves(tmp_path, STUDENT)["seeds"] == {1: 2, 2: 2}
    events.append(second, history(1))
    events.finish(second, final(1))
    assert curves(tmp_path, STUDENT)["test/accuracy"] == {3: 90.5}
    assert curves(tmp_path, STUDENT)["seeds"] == {1: 2, 2: 2, 3: 2}


def test_where_all_diverged_there_is_no_mean(plan, tmp_path) -> None:
    histories, metrics, states = finished(plan)
    rebuild(Events(tmp_path, plan), histories, metrics, states)
    for id in of(plan, STUDENT):
        states[id], metrics[id] = "diverged", {}
    rebuild(Events(tmp_path, plan), histories, metrics, states)
    assert means(tmp_path) == {"teacher rate=0", "teacher rate=0.2", "student rate=0"}


def test_a_value_that_one_seed_lacks_has_no_mean_there(plan, tmp_path) -> None:
    histories, metrics, states = finished(plan)
    first, second, third = of(plan, TEACHER)
    histories[first][0]["train/loss"] = math.nan
    histories[second][1]["val/accuracy"] = None
    histories[first][2]["val/accuracy"], histories[third][2]["val/accuracy"] = math.inf, -math.inf
    del metrics[third]["test/accuracy"], metrics[third]["val/accuracy"]
    rebuild(Events(tmp_path, plan), histories, metrics, states)
    found = curves(tmp_path, TEACHER)
    assert list(found["train/loss"]) == [2, 3] and list(found["val/accuracy"]) == [1]
    assert "test/accuracy" not in found and list(found["seeds"]) == [1, 2, 3]


def test_where_every_setting_has_one_seed_there_are_no_means(write_sweep, small_sweep, tmp_path) -> None:
    one = build_plan(
        load_sweep(write_sweep(small_sweep.replace("seeds: 3", "seeds: 1")), overrides=["seeds=1"]), tmp_path
    )
    rebuild(Events(tmp_path, one), *finished(one))
    assert settings(one) == {}
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["runs"]
    some = build_plan(load_sweep(write_sweep(), overrides=["seeds=1"]), tmp_path)
    rebuild(Events(tmp_path, some), *finished(some))
    assert means(tmp_path) == {"teacher rate=0", "teacher rate=0.2", "student rate=0", "student rate=0.2"}
    assert curves(tmp_path, STUDENT)["seeds"] == {1: 1, 2: 1, 3: 1}, "or the curves beside them would be missed"


def test_runs_at_two_places_are_in_the_means_of_both(write_sweep, small_sweep, tmp_path) -> None:
    text = small_sweep.replace("rate: [0.0, 0.2]", "d: [{alpha: 0.9, temperature: 4}, null]")
    text = text.replace("[8], dropout: $rate", "[8]").replace("tion: {alpha: 0.9, temperature: 4}", "tion: $d")
    text = text.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", "")
    plan = build_plan(load_sweep(write_sweep(text)), tmp_path)
    rebuild(Events(tmp_path, plan), *finished(plan))
    assert curves(tmp_path, "teacher") == WHOLE
    assert curves(tmp_path, "student d=null")["val/accuracy"] == {1: 10.5, 2: 20.5, 3: 30.5}


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_mean_that_is_deleted_while_runs_train_comes_back(plan, tmp_path, what) -> None:
    events = Events(tmp_path, plan)
    rebuild(events, {}, {}, {})
    for seed, id in enumerate(of(plan, TEACHER)):
        events.append(id, history(seed, 2))
    folder = tmp_path / "tensorboard" / "means" / TEACHER
    next(folder.glob("events.*")).unlink() if what == "file" else shutil.rmtree(tmp_path / "tensorboard")
    for seed, id in enumerate(of(plan, TEACHER)):
        events.append(id, history(seed))
        events.finish(id, final(seed))
    assert curves(tmp_path, TEACHER) == WHOLE


def test_means_of_settings_that_left_the_plan_go(plan, tmp_path) -> None:
    rebuild(Events(tmp_path, plan), *finished(plan))
    fewer = plan.only({"rate": 0.2})
    rebuild(Events(tmp_path, fewer), *finished(fewer))
    assert means(tmp_path) == {"teacher rate=0.2", "student rate=0.2"}
