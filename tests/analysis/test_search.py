"""Figures of a search, from one that was run: numbers drawn are those of its runs; what is not there is said."""

from __future__ import annotations

import csv
import importlib
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from analysis.tables import ANALYSIS
from conftest import ROOT, SEARCH

from kdtune.cli.sweep import Options, run
from kdtune.evaluation.evaluation import declared
from kdtune.planning.front import hypervolume
from kdtune.sweepfile.load import load_sweep

TWO = SEARCH.replace("{val/accuracy: max}", "{val/accuracy: max, val/nll: min}").replace(
    "trials: 6", "trials: 14\n  constraints: {val/ece: {max: 8.0}}"
)
KINDS = ("history", "front", "slices", "importance")


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ANALYSIS))


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by two objectives, done."""
    root = tmp_path_factory.mktemp("search")
    path = root / "small.yaml"
    path.write_text(TWO)
    options = Options(path, profile="paper", results=str(root / "results"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    return root / "results" / "small"


@pytest.fixture(scope="module")
def drawn(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ANALYSIS))
        output = tmp_path_factory.mktemp("figures")
        search = module("search")
        makers = [getattr(search, kind) for kind in KINDS]
        assert module("figure").command("", makers, [str(folder), "--output", str(output)]) == 0
    return output


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_is_there_with_its_words_and_numbers(drawn: Path) -> None:
    names = {f"search-{kind}.{end}" for kind in KINDS for end in ("png", "pdf", "csv", "md")}
    assert {path.name for path in drawn.iterdir()} == names
    for kind in KINDS:
        said = (drawn / f"search-{kind}.md").read_text()
        assert "2 student seeds, 3 that confirm" in " ".join(said.split())
        assert "14 of 14 proposals are known" in said and "val/accuracy (max), val/nll (min)" in said


def test_the_history_is_that_of_search_csv(drawn: Path, folder: Path) -> None:
    known, found = rows(folder / "paper" / "search.csv"), rows(drawn / "search-history.csv")
    proposals = [row for row in known if row["feasible"] == "True"]
    assert 0 < len(proposals) < len(known), "some break the constraint"
    assert [float(row["val/nll"]) for row in found] == [float(row["val/nll"]) for row in proposals]
    values = [(float(row["val/accuracy"]), float(row["val/nll"])) for row in proposals]
    areas = [hypervolume(values, ["max", "min"], range(place + 1)) for place in range(len(values))]
    assert [float(row["best so far"]) for row in found] == pytest.approx(areas)


def test_the_front_has_intervals_and_what_was_confirmed(drawn: Path, folder: Path) -> None:
    proposals = {row["number"]: row for row in rows(folder / "paper" / "search.csv")}
    found = rows(drawn / "search-front.csv")
    assert {row["proposal"] for row in found} == {number for number, row in proposals.items() if row["front"] == "True"}
    for row in found:
        for name in ("val/accuracy", "val/accuracy.low", "val/nll.high", "confirmed/val/nll"):
            assert row[name] == proposals[row["proposal"]][name]


def test_slices_show_every_proposal_over_every_knob(drawn: Path) -> None:
    found = rows(drawn / "search-slices.csv")
    assert len(found) == 14 and set(found[0]) >= {"sigma", "alpha", "temperature", "width", "rate", "val/nll"}


def test_importances_are_shares(drawn: Path) -> None:
    found = rows(drawn / "search-importance.csv")
    for name in ("val/accuracy", "val/nll"):
        mine = [row for row in found if row["objective"] == name]
        assert [row["knob"] for row in mine] == ["sigma", "alpha", "temperature", "width", "rate"]
        assert sum(float(row["share"]) for row in mine) == pytest.approx(100)
        assert all(0 <= float(row["low"]) <= float(row["high"]) <= 100 for row in mine)


def test_a_forest_finds_the_knob_that_matters() -> None:
    """Of a function of one knob alone nearly all is that knob's, whatever the others were."""
    import pandas as pd

    search, draws = module("search"), random.Random(0)
    space = {"a": {"uniform": {"lower": 0.0, "upper": 1.0}}, "b": {"choice": {"values": [None, 0.5]}}}
    records = [{"a": draws.random(), "b": draws.choice([None, 0.5]), "state": "known"} for _ in range(60)]
    proposals = pd.DataFrame([{**each, "goal": (each["a"] - 0.5) ** 2} for each in records])
    shares = search.importances(SimpleNamespace(space=space, known=proposals), "goal")
    assert shares["a"][1] > 90 and shares["b"][0] < 5


def test_by_one_objective_there_is_a_best_so_far_and_no_front(folder: Path, tmp_path: Path, capsys: Any) -> None:
    """The same runs, asked for one objective."""
    root = folder.parent.parent
    path = tmp_path / "one.yaml"
    text = TWO.replace(", val/nll: min", "").replace("name: small", "name: one").replace("trials: 14", "trials: 5")
    path.write_text(text)
    options = Options(path, profile="paper", results=str(root / "results"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    makers = [getattr(module("search"), kind) for kind in KINDS]
    assert module("figure").command("", makers, [str(root / "results" / "one"), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "a best point and no front" in said
    assert "4 known proposals lie in the space; 8 or more say something" in said, "sigma 0 was listed, and lies outside"
    best = [float(row["best so far"]) for row in rows(tmp_path / "out" / "search-history.csv")]
    assert best == sorted(best) and len(best) == 5


def test_what_is_no_search_is_said(folder: Path, tmp_path: Path, small_sweep: str, capsys: Any) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(small_sweep)
    options = Options(path, profile="paper", results=str(tmp_path), data=str(tmp_path), here=True, verbosity=-1)
    assert run(options) == 0
    assert module("figure").command("", [module("search").history], [str(tmp_path / "small")]) == 2
    assert "this is no search; analysis/generic.py draws any sweep" in capsys.readouterr().err


def test_a_search_csv_that_is_gone_is_said(folder: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "small"
    shutil.copytree(folder, copy)
    (copy / "paper" / "search.csv").unlink()
    assert module("figure").command("", [module("search").history], [str(copy)]) == 2
    assert "search.csv cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("sweep", ["search", "robust_overfitting", "soft_robustness", "specialization"])
def test_figures_show_metrics_in_the_units_that_evaluators_declare(sweep: str) -> None:
    first = load_sweep(ROOT / "sweeps" / f"{sweep}.yaml")
    of = (first.points or first.ends)[0].sweep
    measured = declared(of.evaluation, of.dataset_of(of.student))
    units = {"%": ("%",), "nats": ("nats",), "percentage points": ("points",), "pixel units": ("pixel units",)}
    units |= {"images": ("images",), "probability": ("probability",)}
    shown = {name: units[metric.unit] for name, (_, metric) in measured.items() if metric.unit in units}
    assert len(shown) > 8
    wrong = {name: module("metrics").scale(name).unit for name in shown}
    assert {name: unit for name, unit in wrong.items() if unit not in shown[name]} == {}
