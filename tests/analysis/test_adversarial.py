"""The scripts on adversarial training, on real runs that are small."""

from __future__ import annotations

import csv
import importlib
import json
import math
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis.tables import ANALYSIS, drawn

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


# --- double descent ---


@pytest.fixture(scope="module")
def descent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The laptop profile of double_descent with a smaller network, for 15 epochs."""
    results = tmp_path_factory.mktemp("results")
    overrides = {"recipe.epochs": 15, "student.model": SMALL}
    file = ROOT / "sweeps/double_descent.yaml"
    assert kdtune.run_sweep(file, overrides, profile="laptop", results=str(results), here=True) == 0
    return results / "double_descent"


def test_curves_and_moves_are_those_of_the_histories(descent: Path, tmp_path: Path) -> None:
    found = drawn("double_descent", descent, tmp_path)
    assert set(found) == {"double_descent", "double_descent-moves"}
    robust = "robust/pgd10/unconditional"
    curves: dict[str, dict[int, float]] = {}  # of the histories themselves, by id
    for path in descent.parent.glob("runs/*/*/history.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        curves[path.parts[-3]] = {int(row["epoch"]): row[robust] for row in rows if robust in row}
    assert len(curves) == 6 and all(set(each) == {5, 10, 15} for each in curves.values())
    table = kdtune.table(descent)
    assert isinstance(table, pd.DataFrame)
    lines = found["double_descent"]
    assert {row["metric"] for row in lines} == {robust, f"val/{robust}", "train/accuracy"}
    wrong = "40 % of the labels drawn anew"
    ids = set(table.loc[table["c"] == 0.4, "id"])
    (at_10,) = [row for row in lines if (row["metric"], row["at"], row["epoch"]) == (robust, wrong, "10")]
    assert float(at_10["mean"]) == pytest.approx(sum(curves[id][10] for id in ids) / 3) and at_10["n"] == "3"
    moves = [row for row in found["double_descent-moves"] if row["mark"] == "run"]
    told = {(row["id"], row["metric"]): float(row["value"]) for row in moves}
    for id, own in curves.items():  # a ratio of 1.2 smooths nothing at 5, 10 and 15
        alike = ids if id in ids else set(curves) - ids
        mean = {epoch: sum(curves[other][epoch] for other in alike - {id}) / 2 for epoch in own}
        fall = max(mean[peak] - mean[trough] for peak, trough in ((5, 10), (5, 15), (10, 15)))
        there = [pair for pair in ((5, 10), (5, 15), (10, 15)) if mean[pair[0]] - mean[pair[1]] == fall]
        peak, trough = there[0]
        assert told[id, "robust/fall"] == pytest.approx(own[peak] - own[trough])
        assert told[id, "robust/rise"] == pytest.approx(own[15] - own[trough])
        assert told[id, "robust/double_descent"] == min(told[id, "robust/fall"], told[id, "robust/rise"])


def test_d3_is_judged_on_them(descent: Path, tmp_path: Path) -> None:
    asked = [sys.executable, str(ANALYSIS / "claims.py"), str(descent), "--output", str(tmp_path)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [*csv.DictReader((tmp_path / "claims.csv").open(newline=""))]
    assert {row["claim"] for row in rows} == {"D3"}
    assert {row["metric"] for row in rows} == {"robust/fall", "robust/double_descent"}
    assert {row["pairs"] for row in rows} == {"3"} and not any(row["lacks"] for row in rows)


EPOCHS = range(10, 1001, 10)


def piecewise(*corners: tuple[float, float]) -> dict[int, float]:
    """A curve through (epoch, percent), straight in between on a log axis."""
    found = {}
    for epoch in EPOCHS:
        for (left, low), (right, high) in pairwise(corners):
            if left <= epoch <= right:
                found[epoch] = low + (high - low) * math.log(epoch / left) / math.log(right / left)
    return found


TWICE = piecewise((10, 40), (30, 50), (200, 35), (700, 46), (1000, 46))
ONCE = piecewise((10, 40), (30, 50), (200, 35), (1000, 35))  # falls, and stays there
FALLING = piecewise((10, 50), (1000, 30))
RISING = piecewise((10, 30), (1000, 50))


def seeds(curve: dict[int, float], noise: float, count: int = 5, seed: int = 0) -> dict[str, dict[int, float]]:
    """As several seeds would have it watched, with a fluctuation from epoch to epoch, in points."""
    random_ = random.Random(seed)
    return {f"{i}": {epoch: value + random_.gauss(0, noise) for epoch, value in curve.items()} for i in range(count)}


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ANALYSIS))
    return importlib.import_module("double_descent")


def test_smoothed_is_the_mean_over_a_ratio_of_epochs(rule: Any) -> None:
    curve = {10: 1.0, 20: 2.0, 24: 6.0, 100: 4.0, 119: 8.0, 121: 100.0}
    assert rule.smoothed(curve) == {
        10: 1.0,
        20: 4.0,
        24: 4.0,
        100: 6.0,
        119: pytest.approx(112 / 3),
        121: 54.0,
    }
    assert rule.smoothed(TWICE)[1000] == pytest.approx(46)  # of 840 to 1000


def test_peak_and_trough_are_where_a_curve_falls_most(rule: Any) -> None:
    assert rule.turns({1: 5.0, 2: 9.0, 3: 6.0, 4: 8.0, 5: 2.0, 6: 10.0}) == (2, 5)
    assert rule.turns({1: 5.0, 2: 6.0, 3: 8.0}) == (1, 2)  # rises least
    assert rule.turns({1: 5.0, 2: 5.0, 3: 5.0}) == (1, 2)


@pytest.mark.parametrize(
    ("curve", "fall", "rise", "both"),
    [(TWICE, 15, 11, 11), (ONCE, 15, 0, 0), (FALLING, 20, 0, 0), (RISING, 0, 20, 0)],
    ids=["twice", "once", "falling", "rising"],
)
def test_the_lesser_of_fall_and_rise_tells_two_descents_from_one(
    rule: Any, curve: dict[int, float], fall: float, rise: float, both: float
) -> None:
    """Smoothing takes something off at the corners."""
    for own in rule.moves(dict.fromkeys("abc", curve)).values():
        assert own["robust/fall"] == pytest.approx(fall, abs=1.7)
        assert own["robust/rise"] == pytest.approx(rise, abs=1.7) or curve is RISING
        assert own["robust/double_descent"] == pytest.approx(both, abs=1.7) and own["robust/double_descent"] <= both


@pytest.mark.parametrize("curve", [ONCE, FALLING, RISING], ids=["once", "falling", "rising"])
def test_a_fluctuation_is_no_second_descent(rule: Any, curve: dict[int, float]) -> None:
    """Over 40 sweeps of five seeds: were the trough looked for in the same curve, the rise would always be above 0."""
    found, naive = [], []
    for sweep in range(40):
        curves = seeds(curve, 3.0, seed=sweep)
        found += [each["robust/double_descent"] for each in rule.moves(curves).values()]
        for each in map(rule.smoothed, curves.values()):
            _, trough = rule.turns(each)
            naive.append(each[1000] - each[trough])
    assert sum(found) / len(found) < 0.1
    assert sum(naive) / len(naive) > 0.15 and min(naive) >= 0


def test_a_second_descent_is_seen_through_a_fluctuation(rule: Any) -> None:
    found = [each["robust/double_descent"] for each in rule.moves(seeds(TWICE, 3.0)).values()]
    assert min(found) > 5 and max(found) < 15


def test_one_run_has_no_value_and_shorter_ones_are_read_as_far_as_they_go(rule: Any) -> None:
    assert rule.moves({"a": TWICE}) == {}
    assert rule.moves({"a": {10: 5.0}, "b": {10: 6.0}}) == {}
    short = {epoch: value for epoch, value in TWICE.items() if epoch <= 200}
    assert rule.moves({"a": TWICE, "b": short})["a"]["robust/rise"] == 0
