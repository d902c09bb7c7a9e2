"""The best setting is the one with the best mean, whichever way is better; the best run stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kdtune
from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    from conftest import SMALL

    root = tmp_path_factory.mktemp("best")
    (root / "small.yaml").write_text(SMALL)
    options = Options(root / "small.yaml", results=str(root / "r"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    return str(root / "r/small")


def said(folder: str, *words: str) -> list[str]:
    done = CliRunner().invoke(main, ["best", folder, *words])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


@pytest.mark.parametrize(("metric", "lowest"), [("val/accuracy", False), ("val/nll", True), ("test/nll", True)])
def test_settings_by_their_mean_and_the_best_run(folder: str, metric: str, lowest: bool) -> None:
    students = kdtune.table(folder)[lambda table: table["role"] == "student"]
    means = students.groupby("rate")[metric].mean().sort_values(ascending=lowest, kind="stable")
    lines = said(folder, "--by", metric)
    assert lines[0].startswith(f"by {metric}, {'lowest' if lowest else 'highest'}")
    shown = [float(line.split()[2]) for line in lines[1:3]]
    assert shown == pytest.approx([*means], abs=0.006)
    small = [line.split()[2] for line in lines[1:3] if float(line.split()[2]) < 2]
    assert all(len(said.partition(".")[2]) == 4 for said in small), "of a distance two digits would say nothing"
    best = students.loc[students[metric].idxmin() if lowest else students[metric].idxmax()]
    assert lines[3].endswith(best["id"]) and f"seed={best['seed']:g}" in lines[3]
    assert ("chosen by test data" in lines[-1]) == (not metric.startswith("val/"))


def test_of_some_runs_alone(folder: str) -> None:
    lines = said(folder, "--only", "role=teacher,rate=0.2")
    assert len(lines) == 3 and lines[1].split()[:2] == ["teacher", "rate=0.2"] and "n = 3" in lines[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--by", "val/acc"), "nothing has val/acc; there is val/accuracy"),
        (("--by", "robust/pgd20"), "there is none of that kind"),
        (("--only", "sigma=1"), "no axis 'sigma'; its axes: rate"),
        (("--only", "rate=0.7"), "nothing has val/accuracy"),
    ],
)
def test_what_is_not_there(folder: str, words: tuple[str, ...], told: str) -> None:
    done: Any = CliRunner().invoke(main, ["best", folder, *words])
    assert done.exit_code == 2 and told in done.output and Path(folder).is_dir()
