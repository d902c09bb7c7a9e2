"""Two sweeps side by side: what they ask otherwise, what they share, what came out, paired by seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.report.difference import between, said, told
from kdtune.report.table import TableError
from kdtune.statistics import paired_difference

SEEDS = 4


def table(name: str, better: float, **keys: Any) -> pd.DataFrame:
    """Students at two rates; the teacher is the same run in every sweep."""
    noise = np.random.default_rng(len(name)).normal(0, 0.3, 2 * SEEDS)
    rows: list[dict[str, Any]] = [{"role": "teacher", "rate": None, "seed": 0, "id": "t", "test/accuracy": 95.0}]
    for number, rate in enumerate((0.0, 0.2)):
        for seed in reversed(range(SEEDS)):
            accuracy = 80 + seed * 3 + better + noise[number * SEEDS + seed]
            row = {
                "role": "student",
                "rate": rate,
                "seed": seed,
                "id": f"{name}{rate}{seed}",
                "test/accuracy": accuracy,
            }
            rows.append(row | keys)
    frame = pd.DataFrame([{"state": "done", "test/nll": 1.0, **row} for row in rows])
    lists = {"axes": ["rate"], "headlines": ["test/accuracy"]}
    frame.attrs = {"sweep": name, "profile": "paper", "dataset": "digits"}
    frame.attrs |= {key: json.dumps(value) for key, value in lists.items()}
    return frame


def test_differences_are_paired_and_of_the_second_minus_the_first() -> None:
    first, second = table("one", 0.0), table("second", 2.0)
    found = between(first, second)
    assert found.runs == (9, 9) and found.shared == 1 and found.metrics == ["test/accuracy"]
    assert [(line.label, line.pairs) for line in found.lines] == [("student rate=0", 4), ("student rate=0.2", 4)]
    for line, rate in zip(found.lines, (0.0, 0.2), strict=True):
        values = [
            each[each["rate"] == rate].sort_values("seed")["test/accuracy"].to_numpy() for each in (first, second)
        ]
        difference = line.differences["test/accuracy"]
        assert difference is not None and difference.mean == pytest.approx((values[1] - values[0]).mean())
        assert difference.p == pytest.approx(stats.ttest_rel(values[1], values[0]).pvalue)
    text = [*told(found)]
    assert text[1].endswith("9 runs, 1 of them shared") and text[-1].startswith("* the 95 %")
    assert any("student rate=0.2" in line and line.endswith("*") for line in text)


def test_settings_that_differ_and_those_that_one_has_alone() -> None:
    first = table("one", 0.0, **{"recipe.epochs": 10, "loss.kd.alpha": 0.9})
    second = table("second", 0.0, **{"recipe.epochs": 20, "noise.input.gaussian.sigma": 0.1, "loss.kd.alpha": 0.9})
    found = {each.name: (each.role, each.first, each.second) for each in between(first, second).settings}
    assert found == {
        "recipe.epochs": ("student", "10", "20"),
        "noise.input.gaussian.sigma": ("student", "-", "0.1"),
    }


def test_the_same_runs_are_no_difference_and_a_further_axis_has_no_pairs() -> None:
    same = between(table("one", 0.0), table("one", 0.0))
    assert (
        same.shared == 9 and not same.lines and not same.settings and [*told(same)][-1].endswith("nothing to compare")
    )
    further = table("second", 0.0)
    twice = pd.concat([further, further.assign(id=further["id"] + "b")], ignore_index=True)
    twice.attrs = further.attrs
    assert not between(table("one", 0.0), twice).lines


def test_a_metric_that_one_lacks() -> None:
    assert between(table("one", 0.0), table("second", 0.0), ["test/nll"]).metrics == ["test/nll"]
    with pytest.raises(TableError, match="sweep one has no robust/pgd20"):
        between(table("one", 0.0), table("second", 0.0), ["robust/pgd20"])


def test_the_command(write_sweep: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for overrides in ((), ("student.recipe.epochs=6",)):
        options = Options(write_sweep(), overrides, results=str(results), data=str(tmp_path), here=True, verbosity=-1)
        assert run(options) == 0
    one, other = sorted((results / "small").iterdir())
    done = CliRunner().invoke(main, ["diff", str(one), str(other)])
    assert done.exit_code == 0 and "10 runs, 6 of them shared" in done.output
    assert "student recipe.epochs  3 | 6" in done.output and "student rate=0.2" in done.output
    lost = CliRunner().invoke(main, ["diff", str(one), str(tmp_path / "nowhere")])
    assert lost.exit_code == 2 and "no results here" in lost.output


def test_as_many_digits_as_leave_something() -> None:
    """Distances in pixel units are a hundred times smaller than rates in percent."""
    assert said(paired_difference({0: 91.0, 1: 92.5}, {0: 90.0, 1: 90.5})) == "+1.50 +- 6.35"
    assert said(paired_difference({0: 0.061, 1: 0.0625}, {0: 0.060, 1: 0.0605})) == "+0.0015 +- 0.0064"
    assert said(paired_difference({0: 0.25}, {0: 0.25})) == "+0.00" and said(None) == "-"
