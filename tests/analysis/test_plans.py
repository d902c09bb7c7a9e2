"""Scripts on tables of the plans that the sweep files really make, with made-up numbers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from analysis.tables import ANALYSIS, finished

SWEEPS = ANALYSIS.parent / "sweeps"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ANALYSIS))


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
