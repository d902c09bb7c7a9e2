"""`--gpus-per-run auto`: who is tried out, through Ray, and what becomes of it. How fast a GPU is only a GPU says."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import SEARCH

from kdtune.launch import packing, resources
from kdtune.launch.guard import with_ray
from kdtune.launch.resources import Resources
from kdtune.planning.devices import AUTO
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.searching import Searching
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.together import Part, Together

ASKED = Resources({"CPU": 1, "GPU": 1.0}, {"CPU": 1, "GPU": 0.25})


@pytest.fixture
def plan(write_sweep: Any, small_sweep: str, tmp_path: Path) -> Plan:
    """Teachers of two widths, and one of the students that learn from each."""
    text = small_sweep.replace("{rate: [0.0, 0.2]}", "{rate: 0.2, width: [8, 16]}").replace(
        "hidden: [8]", "hidden: [$width]"
    )
    return build_plan(load_sweep(write_sweep(text)), tmp_path)


def dispatch_of(plan: Plan, folder: Path) -> Dispatch:
    return Dispatch(plan, Standing(Store(folder / "results"), plan.evaluators))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Part, int]]:
    """What is measured, of whom at most how many; four students share a GPU well, and no teachers."""
    parts: list[tuple[Part, int]] = []

    def measured(part: Part, most: int, booked: Any, stop: Any) -> Together | None:
        parts.append((part, most))
        assert booked == {"CPU": 1, "GPU": 1}
        return Together({1: 10.0, 2: 18.0, 4: 32.0} if part.teachers else {1: 10.0, 2: 10.5}, alike=True)

    monkeypatch.setattr(packing, "measured", measured)
    return parts


def test_each_role_gets_the_share_that_was_measured_for_its_heaviest_run(
    plan: Plan, tmp_path: Path, tried: list[tuple[Part, int]], caplog: pytest.LogCaptureFixture
) -> None:
    asked = Resources({"CPU": 1, "GPU": 0.5}, {"CPU": 1, "GPU": 1.0})
    found = packing.packed(asked, dispatch_of(plan, tmp_path), None, threading.Event())
    assert found == ASKED
    assert all('"hidden":[16]' in part.run and part.device == "cuda" for part, _ in tried)
    assert [(len(part.teachers), most) for part, most in tried] == [(0, 6), (1, 4)], "as many as there are"
    assert "10 images a second alone; together 2 1.80 x, 4 3.20 x: 4 at a time on a GPU" in caplog.text


@pytest.mark.parametrize("why", ["no GPU", "finished", "one at a time", "stopped"])
def test_where_there_is_nothing_to_choose_nothing_is_tried(
    plan: Plan, tmp_path: Path, tried: list[tuple[Part, int]], caplog: pytest.LogCaptureFixture, why: str
) -> None:
    dispatch, stop = dispatch_of(plan, tmp_path), threading.Event()
    asked = Resources({"CPU": 1}, {"CPU": 1}) if why == "no GPU" else ASKED
    if why == "finished":
        dispatch.stop("enough")
    if why == "stopped":
        stop.set()
    assert packing.packed(asked, dispatch, 1 if why == "one at a time" else None, stop) == asked
    assert not tried and ("nothing to choose" in caplog.text) is (why == "no GPU")


def test_what_cannot_be_measured_leaves_shares_as_they_are(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "measured", lambda *_: None)
    assert packing.packed(ASKED, dispatch_of(plan, tmp_path), None, threading.Event()) == ASKED


def test_of_a_search_it_is_what_will_be_proposed(
    write_sweep: Any, tmp_path: Path, tried: list[tuple[Part, int]]
) -> None:
    """Before its first proposal its plan has no run."""
    file = load_sweep(write_sweep(SEARCH))
    plan = build_plan(file, tmp_path)
    standing = Standing(Store(tmp_path / "results"), plan.evaluators)
    search = Searching(file, plan, tmp_path, standing)
    packing.packed(ASKED, Dispatch(search.plan, standing, search), None, threading.Event())
    assert [len(part.teachers) for part, _ in tried] == [0, 1]


def test_all_of_a_pool_that_answers_as_one_are_asked(write_sweep: Any, small_sweep: str, tmp_path: Path) -> None:
    text = small_sweep.replace("{rule: best, metric: val/accuracy}", "{rule: average}").replace(
        "noise: {teacher: {dropout: {rate: $rate}}}", "noise: {}"
    )
    plan = build_plan(load_sweep(write_sweep(text)), tmp_path)
    student = next(place for place in plan.places if place.role == "student")
    assert len(packing.part_of(student, plan.runs, "cpu").teachers) == 3


@pytest.mark.timeout(300)
def test_through_ray(plan: Plan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On CPU cores, of which there are two here: one that is measured, one that fails, one for which there is no GPU,
    until somebody ends it."""
    *_, student = plan.runs.values()
    part, found = packing.part_of(student, plan.runs, "cpu"), dict[str, Together | None]()
    core = {"CPU": 1}

    def work(stop: threading.Event) -> None:
        found["measured"] = packing.measured(part, 8, core, stop)
        found["failed"] = packing.measured(Part("{}", (), "cpu"), 2, core, stop)
        assert "validation errors for Run): runs share a GPU as they do without" in caplog.text
        monkeypatch.setattr(packing, "REMIND_S", 0.1)
        ended = threading.Event()
        threading.Timer(3.0, ended.set).start()
        found["waited for"] = packing.measured(part, 2, {"CPU": 1, "GPU": 1}, ended)

    with tempfile.TemporaryDirectory(prefix="kdt", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with_ray(None, folder, work, lambda: False)
    told = found["measured"]
    assert told is not None and told.alike and set(told.rates) == {1, 2} and told.rates[1] > 0
    assert found["failed"] is found["waited for"] is None
    assert "waiting for 1 CPU, 1 GPU to try it out on" in caplog.text


def test_auto_begins_as_if_nothing_had_been_asked() -> None:
    assert resources.choose("paper", AUTO, on_cluster=True) == resources.choose("paper", None, on_cluster=True) == ASKED
    assert resources.choose("laptop", AUTO, on_cluster=True) == Resources({"CPU": 1}, {"CPU": 1})
