"""Scripts on tables of the plans that the sweep files really make, with made-up numbers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from analysis.tables import ANALYSIS

import kdtune
from kdtune.report import table
from kdtune.store.state import State

SWEEPS = ANALYSIS.parent / "sweeps"
METRICS = ("test/accuracy", "robust/pgd20", "corruption/mca")


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ANALYSIS))


def finished(folder: Path, file: Path, profile: str) -> Path:
    """The folder of a sweep whose runs are all done, each pool's first teacher chosen."""
    plan, name = kdtune.plan(file, profile), file.stem

    def look(id: str) -> SimpleNamespace:
        teachers = plan.runs[id].waits_for
        chosen = {"teacher": {"id": teachers[0], "metric": "val/x"}} if teachers else {}
        return SimpleNamespace(provenance=chosen, done=None)

    def measured(id: str, late: Any) -> dict[str, float]:
        return {metric: 50 + int(id[:6], 16) % 1000 / 100 for metric in METRICS}

    standing: Any = SimpleNamespace(look=look, measured=measured)
    rows = table.rows(plan, standing, dict.fromkeys(plan.runs, State.DONE))
    place = folder / name / profile
    place.mkdir(parents=True)
    about = {"sweep": name, "profile": profile, "dataset": plan.dataset, "axes": json.dumps(plan.axes)}
    (place / "results.parquet").write_bytes(table.to_parquet(rows, about | {"headlines": json.dumps(METRICS)}))
    return folder / name


@pytest.mark.parametrize("profile", ["paper", "quick", "laptop"])
def test_every_choice_that_the_paper_leaves_open_is_compared(tmp_path: Path, profile: str) -> None:
    ambiguities, figure, points = map(importlib.import_module, ("ambiguities", "figure", "points"))
    read = ambiguities.with_methods(figure.read_table(finished(tmp_path, SWEEPS / "ambiguities.yaml", profile)))
    found = ambiguities.comparisons(read)
    assert len(found) >= {"paper": 15}.get(profile, 7)
    for comparison in found:
        cells = points.cells(read, comparison.contrast, "test/accuracy")
        assert cells and all(cell.difference is not None for cell in cells), comparison


def test_students_of_another_loss_are_taught_too(write_sweep, small_sweep: str, tmp_path: Path) -> None:
    dkd = "loss: {dkd: {alpha: 1, beta: 8, temperature: 4}}"
    file = write_sweep(small_sweep.replace("distillation: {alpha: 0.9, temperature: 4}", dkd))
    read = importlib.import_module("figure").read_table(finished(tmp_path / "results", file, "paper"))
    assert set(read[read["taught"]]["role"]) == {"student"} and set(read[~read["taught"]]["role"]) == {"teacher"}
