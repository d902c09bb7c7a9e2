"""Seconds by part of training, and a trace of ten steps."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
import stored
import torch

from kdtune.cli.options import Options
from kdtune.cli.run import run_single
from kdtune.store.store import Store
from kdtune.training.pulse import traced
from kdtune.training.stopwatch import Stopwatch


def test_a_stopwatch_adds_up_and_begins_anew() -> None:
    watch = Stopwatch("cpu")
    for _ in range(2):
        with watch:
            time.sleep(0.02)
        time.sleep(0.02)
    assert 0.04 <= watch.seconds() < 0.06 + 0.04  # machines are shared
    assert watch.seconds() == 0


def test_the_parts_of_an_epoch_are_the_epoch(write_sweep, small_sweep: str, tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    options = Options(write_sweep(small_sweep.replace("epochs: 3", "epochs: 6")), results=str(tmp_path / "r"))
    assert run_single(options, "rate=0.2,seed=0", None, False, traces) == 0
    store, names = Store(tmp_path / "r"), {path.name.partition(".")[0] for path in traces.iterdir()}
    for id in names:
        for row in stored.history(store, id):
            parts = [row.get(f"time/{part}", 0.0) for part in ("data", "teacher", "student")]
            assert sum(parts) == pytest.approx(row["time/epoch"]) and all(part >= 0 for part in parts)
        record = stored.provenance(store, id)
        assert ("time/teacher" in stored.history(store, id)[0]) == ("teacher" in record)
        assert set(record["evaluation_seconds"]) == {"accuracy"}
        assert 0 < record["evaluation_seconds"]["accuracy"] <= record["seconds"]
        events = json.loads((traces / f"{id}.pt.trace.json").read_text())["traceEvents"]
        steps = {event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep")}
        taken = [event for event in events if str(event.get("name")).startswith("Optimizer.step")]
        assert len(steps) == 10 and 9 <= len(taken) <= 10
    assert len(names) == 4, "the run and the three teachers that it chooses from"


def test_too_few_steps_leave_no_trace_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weights], 0.1)
    with caplog.at_level(logging.WARNING), traced(tmp_path / "x.pt.trace.json"):
        for _ in range(4):
            weights.sum().backward()
            optimizer.step()
    assert not list(tmp_path.iterdir())
    assert "no trace of 4 steps; it takes 18" in caplog.text


def test_a_trace_needs_a_folder(write_sweep, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    options = Options(write_sweep(), results=str(tmp_path / "r"))
    assert run_single(options, "rate=0.2,seed=0", None, False, tmp_path / "file" / "x") == 2
    assert "no folder can be made there" in capsys.readouterr().err
