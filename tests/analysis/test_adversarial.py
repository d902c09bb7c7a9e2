"""The scripts on adversarial training, on real runs that are small."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis.tables import ANALYSIS

import kdtune

ROOT = ANALYSIS.parent
SMALL = {"mlp": {"hidden": [16]}}


@pytest.fixture(scope="module")
def overfitting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The laptop profile of robust_overfitting with smaller networks, fewer images, three epochs, two seeds."""
    results = tmp_path_factory.mktemp("results")
    at = {"kd": None, "loss": None, "eps": 0.08, "step": 0.02, "steps": 2, "climbs": "labels", "start": "uniform"}
    fixed = {"alpha": 0.5, "temperature": 2, "teacher_sees": "shown"}
    auto = {"calibrated": "calibration", "teacher_sees": "shown"}
    grid = [at | {"c": [0.0, 0.4]}, at | {"c": 0.4, "kd": [fixed, auto]}, at | {"c": 0.4, "eps": 0.0}]
    overrides = {"seeds": 2, "recipe.epochs": 3, "teacher.model": SMALL, "student.model": SMALL, "grid": grid}
    file = ROOT / "sweeps/robust_overfitting.yaml"
    assert kdtune.run_sweep(file, overrides, profile="laptop", results=str(results), here=True) == 0
    return results / "robust_overfitting"


def drawn(script: str, folder: Path, output: Path) -> dict[str, list[dict[str, str]]]:
    """The CSV of every figure by name."""
    asked = [sys.executable, ANALYSIS / f"{script}.py", folder, "--output", output]
    done = subprocess.run(list(map(str, asked)), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return {path.stem: [*csv.DictReader(path.open(newline=""))] for path in output.glob("*.csv")}


def test_curves_levels_gaps_and_calibration_are_those_of_the_runs(overfitting: Path, tmp_path: Path) -> None:
    found = drawn("robust_overfitting", overfitting, tmp_path)
    names = ("", "-levels", "-gaps", "-calibration", "-surface")
    assert set(found) == {f"robust_overfitting{name}" for name in names}
    curves = found["robust_overfitting"]
    assert {(row["arm"], row["at"][:4]) for row in curves} == {
        ("AT", "0 % "),
        *((arm, "40 %") for arm in ("AT", "KD-AT", "KD-AT-Auto", "plain")),
    }
    assert {row["epoch"] for row in curves} == {"1", "2", "3"} and {row["n"] for row in curves} == {"2"}
    table = kdtune.table(overfitting)
    assert isinstance(table, pd.DataFrame)
    students = table[table["role"] == "student"]
    gaps = [row for row in found["robust_overfitting-levels"] if (row["metric"], row["mark"]) == ("robust/gap", "run")]
    metric = "robust/pgd10/unconditional"
    by_id = students.drop_duplicates("id").set_index("id")
    assert len(gaps) == len(by_id)
    for row in gaps:
        one = by_id.loc[row["id"]]
        assert float(row["value"]) == pytest.approx(one[metric] - one[f"last/{metric}"])
    learned = {str(row["seed"]): row for row in found["robust_overfitting-calibration"] if row["mark"] == "run"}
    assert {row["metric"] for row in found["robust_overfitting-calibration"]} == {
        "calibrated.temperature",
        "calibrated.alpha",
    }
    assert len(learned) == 2
    (star,) = found["robust_overfitting-surface"]
    auto = by_id[by_id["calibrated.temperature"].notna()].sort_values("seed").iloc[0]
    assert float(star["temperature"]) == pytest.approx(auto["calibrated.temperature"])
    assert float(star["nll"]) == pytest.approx(table.set_index("id").loc[auto["teacher.id"], "val/calibration/nll"])


@pytest.mark.parametrize(
    ("row", "arm"),
    [
        ({"role": "teacher", "taught": False, "eps": 0.1, "steps": 10}, ""),
        ({"role": "student", "taught": False, "eps": 0.0, "steps": 10}, "plain"),
        ({"role": "student", "taught": False, "eps": 0.1, "steps": 10}, "AT"),
        ({"role": "student", "taught": False, "eps": 0.1, "steps": 1}, "FGSM"),
        ({"role": "student", "taught": False, "eps": 0.1, "steps": 10, "loss.trades.beta": 6.0}, "TRADES"),
        (
            {"role": "student", "taught": True, "eps": 0.1, "steps": 10, "distillation.calibrated": float("nan")},
            "KD-AT",
        ),
        ({"role": "student", "taught": True, "eps": 0.1, "steps": 10, "distillation.calibrated": "3f"}, "KD-AT-Auto"),
    ],
)
def test_arms_are_told_apart(monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], arm: str) -> None:
    monkeypatch.syspath_prepend(str(ANALYSIS))
    assert importlib.import_module("robust_overfitting").arm_of(row) == arm
