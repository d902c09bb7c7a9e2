"""The scripts on specialisation, on real runs that are small."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from analysis.tables import ANALYSIS, drawn
from scipy.stats import spearmanr

import kdtune

ROOT = ANALYSIS.parent
WIDTH, FEW = {"mlp": {"hidden": ["$width"]}}, {"pca": 5}
LINF = {"oracle": {"norm": "linf", "eps": 0.1, "images": 20}, "label": "linf"}
ARMS = {"standard", "usual", "noise", "kept", "oracle", "labels", "ccat", "robust"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The laptop profiles with few points, one epoch of large batches, two seeds."""
    results = tmp_path_factory.mktemp("results")
    small = {"seeds": 2, "recipe.epochs": 2, "recipe.batch_size": 50}
    nodes = {"specialization": {"subspace": "data"}, "every": 1}
    overrides = small | {"dataset.gaussian.count": 100}
    overrides["evaluation"] = ["accuracy", nodes, {"oracle": {"subspace": "data", "images": 40}}]
    asked = {"profile": "laptop", "results": str(results), "here": True}
    assert kdtune.run_sweep(ROOT / "sweeps/specialization.yaml", overrides, **asked) == 0
    overrides = small | {"dataset.train_size": 60, "teacher.model": {"cnn": {"width": 4}}, "student.model": WIDTH}
    overrides |= {"source.model": WIDTH, "evaluation": ["accuracy", "agreement", {"specialization": {"subspace": FEW}}]}
    overrides["evaluation"] += [{"oracle": {"subspace": FEW, "images": 20}}, LINF]
    assert kdtune.run_sweep(ROOT / "sweeps/specialization_images.yaml", overrides, **asked) == 0
    return results


def students(results: Path) -> pd.DataFrame:
    table = kdtune.table(results / "specialization")
    assert isinstance(table, pd.DataFrame)
    return table[table["role"] == "student"].drop_duplicates("id").set_index("id")


def test_every_arm_is_drawn_and_all_six_pairs_stand_together(results: Path, tmp_path: Path) -> None:
    found = drawn("specialization", results / "specialization", tmp_path)
    assert set(found) == {f"specialization{name}" for name in ("", "-arms", "-robust", "-noise")}
    table = students(results)
    marks = found["specialization-robust"]
    pairs = {(row["measure"], row["rule"]) for row in marks}
    assert len(pairs) == 6 and len({row["arm"] for row in marks}) == len(ARMS)
    low = table[table["rank"] == 20]
    for measure, rule in pairs:
        rows = [row for row in marks if (row["measure"], row["rule"]) == (measure, rule)]
        assert {row["id"] for row in rows} == set(low.index)
        for row in rows:
            assert float(row["x"]) == pytest.approx(low.loc[row["id"], measure])
            assert float(row["y"]) == pytest.approx(low.loc[row["id"], rule])
    words = (tmp_path / "specialization-robust.md").read_text()
    for measure, rule in pairs:
        expected = spearmanr(low[measure], low[rule]).statistic
        assert f"| {expected:.2f} |" in words
    assert words.count("| the oracle's answer there |") == words.count("| its answer before |") == 3
    nodes = found["specialization"]
    assert {row["node"] for row in nodes} == {str(number) for number in range(1, 11)}
    assert {row["at"] for row in nodes} == {"rank 20, width 50", "rank 100, width 50"}
    assert {row["sigma"] for row in found["specialization-noise"]} == {"0.0", "0.1", "0.3", "1.0"}


def test_one_student_is_the_widest_of_the_first_seed(results: Path, tmp_path: Path) -> None:
    found = drawn("specialization_run", results / "specialization", tmp_path)["specialization-run"]
    words = (tmp_path / "specialization-run.md").read_text()
    table = students(results)
    standard = table[(table["rank"] == 20) & (table["sigma"] == 0) & (table["eps"] == 0) & (table["lr"] == 0.01)]
    (row,) = standard[(standard["init"] < 0.01) & (standard["width"] == 50) & (standard["seed"] == 0)].to_dict(
        "records"
    )
    attack = {each["name"]: float(each["value"]) for each in found if each["panel"] == "attack"}
    assert attack == {name: pytest.approx(row[name]) for name in attack} and len(attack) == 7  # clean is of both rules
    assert "seed 0, 50 nodes" in words
    cosines = [float(each["value"]) for each in found if each["name"] == "cos_in" and each["value"]]
    assert sum(cosines) / len(cosines) == pytest.approx(row["specialization/cos_in"])


def test_images_have_two_measures(results: Path, tmp_path: Path) -> None:
    found = drawn("specialization_images", results / "specialization_images", tmp_path)
    assert set(found) == {"specialization_images", "specialization_images-robust"}
    assert len({(row["measure"], row["rule"]) for row in found["specialization_images-robust"]}) == 4
    assert len({row["arm"] for row in found["specialization_images-robust"]}) == 5
    assert "noise on the images" in {row["question"] for row in found["specialization_images"]}


def test_claims_of_it_are_judged(results: Path, tmp_path: Path) -> None:
    asked = [sys.executable, ANALYSIS / "claims.py", results, "--output", tmp_path]
    done = subprocess.run(list(map(str, asked)), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = [*csv.DictReader((tmp_path / "claims.csv").open(newline=""))]
    assert {row["claim"] for row in found} == {"C1", "C2", "C3", "C4", "C5", "D5"}
    assert {row["scope"] for row in found} == {"direction"}
    ranks = {row["metric"]: row for row in found if row["claim"] == "C4"}
    assert len(ranks) == 6
    table = students(results)
    low = table[table["rank"] == 20]
    seeds = [spearmanr(of["specialization/best"], of["oracle/pgd20/label"]).statistic for _, of in low.groupby("seed")]
    assert float(ranks["spearman/best/label"]["difference"]) == pytest.approx(sum(seeds) / len(seeds))
