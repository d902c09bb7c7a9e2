"""Figures and claims of learning from wrong labels, on the plans that its sweeps make, and on a sweep that was run."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from analysis.tables import ANALYSIS, finished, mean_and_interval

from kdtune.api import run_sweep
from kdtune.planning.place import Place
from kdtune.report.table import TableError

SWEEPS = ANALYSIS.parent / "sweeps"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ANALYSIS))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


def module(name: str) -> Any:
    return importlib.import_module(name)


def scatter(place: Place) -> float:
    """A run's own share of chance, from -1 to 1."""
    return int(place.id[:6], 16) / 0x800000 - 1


def of_errors(place: Place) -> dict[str, float]:
    """As the text has it, and as it should be if images teach: permuted answers are at chance."""
    point = place.point
    if place.role == "teacher":
        return {"test/accuracy": 63 + scatter(place), "fit/images": 50_000.0}
    level = 10.0 if point["shuffle"] else 50.0
    level = {"correct": 60.0, None: 62.0}.get(point["only"], level) if not point["perturbed"] else 30.0
    noise = bool(point["perturbed"]) and point["perturbed"].get("noise", False)
    found = {"test/accuracy": (11.0 if noise else level) + scatter(place), "fit/images": 18_000.0}
    return found | {"teacher/agreement": level + 5 + scatter(place)}


def of_digits(place: Place) -> dict[str, float]:
    if place.role == "teacher":
        return {"test/accuracy": 99 + scatter(place) / 10}
    plain = not place.point["moments"] and not place.point.get("normalization")
    return {"test/accuracy": (91.5 if plain else 95.0) + scatter(place) / 2, "teacher/agreement": 92.0}


def of_points(place: Place) -> dict[str, float]:
    if place.role == "teacher":
        return {"test/accuracy": 100.0, "fit/images": 32.0}
    arm = str(place.point["labels"])
    level = 20 if "teacher" in arm else 16 if "corruption" in arm else 11
    return {"test/accuracy": 100 * (level + round(4 * scatter(place))) / 32}


VALUES = {"errors": of_errors, "cross_domain": of_digits, "two_dimensional": of_points}


def read(tmp_path: Path, name: str, profile: str) -> Any:
    return module("figure").read_table(finished(tmp_path, SWEEPS / f"{name}.yaml", profile, VALUES[name]))


@pytest.mark.parametrize("profile", ["paper", "quick", "laptop"])
def test_every_figure_is_drawn(tmp_path: Path, profile: str) -> None:
    errors, cross, figures = module("errors"), module("cross_domain"), module("figure").figures
    table = read(tmp_path, "errors", profile)
    (make,) = figures(lambda table: errors.errors(errors.prepared(table)))
    drawn = [
        make(table, tmp_path / "f"),
        errors.controls(table, tmp_path / "f"),
        errors.differences(table, tmp_path / "f"),
    ]
    table = read(tmp_path, "cross_domain", profile)
    drawn += [cross.levels_of(table, tmp_path / "f"), cross.differences(table, tmp_path / "f")]
    assert [len(paths) for paths in drawn] == [4] * 5
    for name in ("errors", "errors-controls", "errors-differences", "cross_domain", "cross_domain-differences"):
        assert list(csv.DictReader((tmp_path / "f" / f"{name}.csv").open()))
        assert "| metric |" in (tmp_path / "f" / f"{name}.md").read_text()


def test_levels_are_means_over_the_runs_of_an_arm(tmp_path: Path) -> None:
    table = read(tmp_path, "errors", "paper")
    module("errors").controls(table, tmp_path / "f")
    rows = list(csv.DictReader((tmp_path / "f/errors-controls.csv").open()))
    here = [
        row for row in rows if row["question"] == "Teacher of 2 epochs" and row["setting"] == "its errors, as answered"
    ]
    runs = [float(row["value"]) for row in here if row["mark"] == "run" and row["metric"] == "test/accuracy"]
    (mean,) = [row for row in here if row["mark"] == "mean" and row["metric"] == "test/accuracy"]
    asked = table[(table["role"] == "student") & (table["first"] == 2) & (table["only"] == "errors")]
    asked = asked[asked["shuffle"].isna() & (asked["model"] == "resnet-18")]
    assert sorted(runs) == sorted(asked["test/accuracy"]) and len(runs) == 5
    expected = mean_and_interval(runs)
    assert [float(mean[name]) for name in ("value", "low", "high")] == pytest.approx(expected, abs=1e-3)
    words = (tmp_path / "f/errors-controls.md").read_text()
    assert "Dashed: paper, first network, 63.1." in words and "chance, 10" in words
    questions = {row["setting"] for row in rows if row["question"] == "Teacher of 200 epochs"}
    assert len([setting for setting in questions if setting.startswith("moved")]) == 6, "four sets and two nulls"
    teachers = [row for row in rows if row["setting"] == "the teacher" and row["metric"] == "teacher/agreement"]
    assert {row["n"] for row in teachers} == {"0"} and {row["planned"] for row in teachers} == {"0"}, (
        "it has none to miss"
    )


def test_levels_of_another_data_set_have_no_stated_values(tmp_path: Path) -> None:
    module("errors").controls(read(tmp_path, "errors", "laptop"), tmp_path / "f")
    words = (tmp_path / "f/errors-controls.md").read_text()
    assert "Dashed: chance, 10." in words and "Dashed: paper" not in words


@pytest.mark.parametrize(
    ("name", "profile", "expected"),
    [
        ("errors", "paper", {"B1": "reproduced", "B4": "reproduced"}),
        ("errors", "laptop", {"B1": "reproduced", "B4": "reproduced"}),
        ("cross_domain", "paper", {"B3": "reproduced"}),
        ("two_dimensional", "paper", {"B2": "reproduced"}),
    ],
)
def test_claims_are_judged(tmp_path: Path, name: str, profile: str, expected: dict[str, str]) -> None:
    table = read(tmp_path, name, profile)
    found = module("judging").judged(table)
    assert {each.claim.id: str(each.verdict) for each in found} == expected
    assert module("stated").scope(table)[0] == ("replication" if profile == "paper" else "direction")


def test_a_null_that_does_as_well_bears_nothing_out(tmp_path: Path) -> None:
    def alike(place: Place) -> dict[str, float]:
        return of_points(place) | ({} if place.role == "teacher" else {"test/accuracy": 62.5 + 10 * scatter(place)})

    place = finished(tmp_path, SWEEPS / "two_dimensional.yaml", "laptop", alike)
    (claim,) = module("judging").judged(module("figure").read_table(place))
    over_half, over_null = claim.answers
    assert str(over_half.verdict) == "reproduced" and str(over_null.verdict) != "reproduced"
    assert claim.verdict != over_half.verdict
    assert over_null.found[0].cell.pairs.n == 40, "paired by data set"


def test_both_texts_stand_in_one_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in VALUES:
        finished(tmp_path, SWEEPS / f"{name}.yaml", "laptop", VALUES[name])
    assert module("claims").command([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert [id for id in ("B1", "B2", "B3", "B4") if f"\n  {id}" in said] == ["B1", "B2", "B3", "B4"]
    assert "# Claims of Wallace" in (tmp_path / "figures/claims.md").read_text()


def test_the_plane_is_drawn_from_what_was_measured(write_sweep: Any, tmp_path: Path) -> None:
    """A real sweep of three data sets: the caption's counts against the networks' own accuracy."""
    text = yaml.safe_load((SWEEPS / "two_dimensional.yaml").read_text())
    text["grid"]["draw"] = {"range": 3}
    text["dataset"]["repeat"] = 40
    file = write_sweep(yaml.safe_dump(text, sort_keys=False), "two_dimensional.yaml")
    assert run_sweep(file, profile="paper", here=True, results=str(tmp_path / "r"), data=str(tmp_path)) == 0
    figure, script = module("figure"), module("two_dimensional")
    table = figure.read_table(tmp_path / "r/two_dimensional")
    assert len(script.two_dimensional(table, tmp_path / "f")) == 4
    words = " ".join((tmp_path / "f/two_dimensional.md").read_text().split())
    student = script.prepared(table).query("arm == 'teacher' and draw == 0").iloc[0]
    assert f"of which it gets {round(student['test/accuracy'] * 32 / 100)} right" in words
    assert f"the {student['fit/images']:g} that it moved over" in words
    assert "| the teacher's answers |" in words and "n 3" in words
    arrays = module("outputs").arrays_of(table, "plane/answers")
    assert set(arrays) == set(table["id"])
    with pytest.raises(TableError, match="no axis"):
        script.two_dimensional(table.drop(columns="draw"), tmp_path / "f")


def test_without_what_was_measured_the_panels_say_how_to_get_it(tmp_path: Path) -> None:
    module("two_dimensional").two_dimensional(read(tmp_path, "two_dimensional", "laptop"), tmp_path / "f")
    assert "are not measured: `kdtune evaluate`" in " ".join((tmp_path / "f/two_dimensional.md").read_text().split())
