"""`--gpus-per-run auto`: who is tried out, through Ray, and what becomes of it. How fast a GPU is only a GPU says."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from kdtune.launch import packing, resources
from kdtune.launch.guard import with_ray
from kdtune.launch.resources import Resources
from kdtune.planning.devices import AUTO
from kdtune.planning.plan import Plan, build_plan
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


def test_each_role_gets_the_share_that_was_measured_for_its_heaviest_run(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts: list[Part] = []

    def measured(part: Part, booked: Any, stop: Any) -> Together:
        parts.append(part)
        assert booked == {"CPU": 1, "GPU": 1}
        return Together({1: 10.0, 2: 18.0, 4: 32.0} if len(parts) == 2 else {1: 10.0, 2: 10.5}, alike=True)

    monkeypatch.setattr(packing, "measured", measured)
    found = packing.packed(ASKED, [*plan.runs.values()], plan.runs, threading.Event())
    assert found == Resources({"CPU": 1, "GPU": 1.0}, {"CPU": 1, "GPU": 0.25})
    assert all('"hidden":[16]' in part.run and part.device == "cuda" for part in parts)
    assert [part.teacher is None for part in parts] == [True, False]
    assert "10 images a second alone; together 2 1.80 x, 4 3.20 x: 4 at a time on a GPU" in caplog.text


@pytest.mark.parametrize(("asked", "left"), [(Resources({"CPU": 1}, {"CPU": 1}), "all"), (ASKED, "none")])
def test_where_there_is_no_gpu_or_nothing_to_train_nothing_is_tried(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, asked: Resources, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packing, "measured", lambda *_: pytest.fail("tried"))
    assert (
        packing.packed(asked, [*plan.runs.values()][: None if left == "all" else 0], plan.runs, threading.Event())
        == asked
    )
    assert ("nothing to choose" in caplog.text) is (left == "all")


def test_what_cannot_be_measured_leaves_shares_as_they_are(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "measured", lambda *_: None)
    assert packing.packed(ASKED, [*plan.runs.values()], plan.runs, threading.Event()) == ASKED


@pytest.mark.timeout(300)
def test_through_ray(plan: Plan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On CPU cores, which two processes share: one that is measured, one that fails, one that takes too long, one that
    somebody does not wait for."""
    *_, student = plan.runs.values()
    part, found = packing.part_of(student, plan.runs, "cpu"), dict[str, Together | None]()
    core = {"CPU": 1}

    def work(stop: threading.Event) -> None:
        found["measured"] = packing.measured(part, core, stop)
        found["failed"] = packing.measured(Part("{}", None, "cpu"), core, stop)
        monkeypatch.setattr(packing, "LONGEST_S", 0.1)
        found["late"] = packing.measured(part, core, stop)
        monkeypatch.undo()
        never = threading.Event()
        never.set()
        caplog.clear()
        found["stopped"] = packing.measured(part, core, never)
        assert not caplog.text

    with tempfile.TemporaryDirectory(prefix="kdt", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with_ray(None, folder, work, lambda: False)
    told = found["measured"]
    assert told is not None and told.alike and set(told.rates) == {1, 2} and told.rates[1] > 0
    assert found["failed"] is found["late"] is found["stopped"] is None


def test_auto_begins_as_if_nothing_had_been_asked() -> None:
    assert resources.choose("paper", AUTO, on_cluster=True) == resources.choose("paper", None, on_cluster=True) == ASKED
    assert resources.choose("laptop", AUTO, on_cluster=True) == Resources({"CPU": 1}, {"CPU": 1})
