"""Figure scripts as a user runs them, on tables that are unlike those they were written for."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from analysis.tables import ANALYSIS, PLACES, SCRIPTS, Row, csv_of, md_of, mean_and_interval, sweep, unfinish, write

Run = Callable[..., int]
CORRUPTIONS = ("gaussian_noise", "fog", "brightness", "jpeg_compression")


@pytest.fixture(autouse=True)
def _flat_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by bare names."""
    monkeypatch.syspath_prepend(str(ANALYSIS))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """matplotlib's figures by name, as they came to be saved; none is rendered, for speed."""
    kept: dict[str, Any] = {}
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda sheet, path, **_: kept.setdefault(path.stem, sheet))
    yield kept
    sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, pictures: dict[str, Any]) -> Run:
    """`run("fickle", folder)`: the exit status of a script."""

    def command(script: str, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ANALYSIS / f"{script}.py"), run_name="__main__")
        return int(left.value.code or 0)

    return command


def without(rows: list[Row], *beginnings: str) -> list[Row]:
    return [{name: value for name, value in row.items() if not name.startswith(beginnings)} for row in rows]


def small(name: str, seeds: int = 3) -> list[Row]:
    """A sweep with accuracy and accuracy under PGD alone, which is drawn the sooner."""
    return without(sweep(name, seeds), "corruption/", "shift/", "test/ece")


def students(rows: list[Row], **place: Any) -> dict[int, Row]:
    found = [row for row in rows if row["role"] == "student" and "distillation.alpha" in row]
    return {row["seed"]: row for row in found if all(row[axis] == value for axis, value in place.items())}


def refused(said: str) -> list[str]:
    """The lines on what was not drawn, when there is nothing else."""
    lines = said.strip().splitlines()
    assert lines and all(line.startswith("not drawn: ") for line in lines), said
    return lines


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_table_without_the_axes_is_refused_in_a_line_each(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str
) -> None:
    axes = {axis for place in PLACES[script] for axis in place}
    bare = [{name: value for name, value in row.items() if name not in axes} for row in small(script)]
    assert run(script, write(tmp_path, "baseline", bare)) == 2
    refused(capsys.readouterr().err)
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(("script", "other"), [*pairwise(SCRIPTS), ("signal_noise", "fickle"), ("softrand", "swap")])
def test_the_table_of_another_sweep_ends_in_no_traceback(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, other: str
) -> None:
    assert run(script, write(tmp_path, other, small(other))) == 2
    refused(capsys.readouterr().err)


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_was_not_drawn_is_said_with_its_name_and_what_lacks(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str
) -> None:
    rows = without(small(script), "robust/")
    for row in rows:
        unfinish(row)
    assert run(script, write(tmp_path, script, rows)) == 2
    for line in refused(capsys.readouterr().err):
        assert line.startswith("not drawn: figure") and not line.endswith(" has ") and not line.endswith(" has")


@pytest.mark.parametrize("families", [0, 1, 3])
def test_few_corruptions_are_drawn(run: Run, tmp_path: Path, pictures: dict[str, Any], families: int) -> None:
    lost = [f"corruption/{name}" for name in CORRUPTIONS[families:]]
    rows = without(sweep("signal_noise", 2), *lost, "shift/", "robust/")
    assert run("signal_noise", write(tmp_path, "signal_noise", rows)) == 0
    assert len([axes for axes in pictures["figure12"].axes if axes.axison]) == 1 + families


def test_no_kind_of_swapping_is_left_out_in_silence(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [*product(("top2", "all"), (0.1, 0.2, 0.3, 0.4, 0.5))]
    places = [{"rate": rate, "pairs": pairs, "threshold": at} for rate, (pairs, at) in product((0.1, 0.5), kinds)]
    monkeypatch.setitem(PLACES, "swap", [PLACES["swap"][0], *places])
    status = run("swap", write(tmp_path, "swap", without(small("swap", 2), "robust/")))
    if status == 2:
        assert "threshold" in capsys.readouterr().err
        return
    lines = {row["series"] for row in csv_of(tmp_path, "figure13")} - {"Hinton"}
    assert status == 0 and len(lines) == len(kinds)


def test_without_hinton_nothing_is_called_not_a_number(run: Run, tmp_path: Path, pictures: dict[str, Any]) -> None:
    rows = [row for row in small("fickle") if row["dropout"] > 0]
    assert run("fickle", write(tmp_path, "fickle", rows)) == 0
    keys = [text.get_text() for text in pictures["figure1"].legends[0].get_texts()]
    assert not [key for key in keys if "nan" in key.split()] and " nan " not in md_of(tmp_path, "figure1")
    differences = [row for row in csv_of(tmp_path, "figure1") if row["kind"] == "difference"]
    assert all((row["n"], row["value"], row["low"]) == ("0", "", "") for row in differences)


def test_fickle_gains_by_hand_and_nothing_but_rates_at_a_rate(run: Run, tmp_path: Path) -> None:
    rows = small("fickle", 5)
    assert run("fickle", write(tmp_path, "fickle", rows)) == 0
    data = csv_of(tmp_path, "figure1")
    assert {float(row["dropout"]) for row in data} == {0.0, 0.1, 0.2, 0.4}
    assert {float(row["recipe.epochs"]) for row in csv_of(tmp_path, "figure1-lengths")} == {200, 250, 350}
    for metric, (rate, length) in product(("test/accuracy", "robust/pgd20"), ((0.1, 250), (0.2, 250), (0.4, 350))):
        found = [row for row in data if (row["metric"], row["kind"]) == (metric, "difference")]
        means = [row for row in found if row["mark"] == "mean" and float(row["dropout"]) == rate]
        for series, against in (("students", length), ("students, over Hinton of 200 epochs", 200)):
            ours, hinton = students(rows, dropout=rate), students(rows, dropout=0.0, epochs=against)
            expected = mean_and_interval([ours[seed][metric] - hinton[seed][metric] for seed in range(5)])
            (mean,) = [row for row in means if row["series"] == series]
            assert [float(mean[name]) for name in ("value", "low", "high")] == pytest.approx(expected, abs=1e-4)


def test_seeds_that_one_arm_alone_has_are_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    rows = [row for row in small("signal_noise", 5) if row["role"] == "teacher" or row["sigma"] or row["seed"] != 3]
    lost = students(rows, sigma=0.5)[0]
    unfinish(lost, "diverged")
    assert run("signal_noise", write(tmp_path, "signal_noise", rows)) == 0
    found = [row for row in csv_of(tmp_path, "figure11") if row["metric"] == "test/accuracy" and row["mark"] == "mean"]
    counts = {(row["kind"], float(row["sigma"])): (int(row["n"]), int(row["planned"])) for row in found}
    assert counts["level", 0.0] == (4, 5) and counts["level", 0.1] == (5, 5) and counts["level", 0.5] == (4, 5)
    assert counts["difference", 0.1] == (4, 5) and counts["difference", 0.5] == (3, 5)
    (mean,) = [row for row in found if (row["kind"], float(row["sigma"])) == ("difference", 0.5)]
    noisy, plain = students(rows, sigma=0.5), students(rows, sigma=0.0)
    expected = mean_and_interval([noisy[seed]["test/accuracy"] - plain[seed]["test/accuracy"] for seed in (1, 2, 4)])
    assert [float(mean[name]) for name in ("value", "low", "high")] == pytest.approx(expected, abs=1e-4)


def test_a_teacher_that_was_given_is_a_single_mark(run: Run, tmp_path: Path) -> None:
    rows = [row for row in small("fickle") if row["role"] == "student" or row["seed"] == 1]
    given = [row | {"seed": None} if row["role"] == "teacher" else row for row in rows]
    assert run("fickle", write(tmp_path, "fickle", given)) == 0
    teachers = [row for row in csv_of(tmp_path, "figure1") if row["series"].startswith("teacher")]
    for row in teachers:
        assert row["mark"] == "run" or (row["n"], row["planned"], row["low"], row["high"]) == ("1", "1", "", "")
    assert teachers


def test_a_gain_that_is_the_same_for_all_seeds_takes_no_ten_thousand(run: Run, tmp_path: Path) -> None:
    rows = without(small("signal_noise", 5), "robust/")
    for row in rows:
        if row["role"] == "student":  # equal but for the last digits of a float
            row["test/accuracy"] = round(90 + 0.1 * row["seed"] + row["sigma"], 2)
    assert run("signal_noise", write(tmp_path, "signal_noise", rows)) == 0
    for sigma in ("0.1", "0.5"):
        assert f"| {sigma} | +{sigma}0 ± 0.00 | 5/5 | 0.00 | 2 |" in md_of(tmp_path, "figure11")


def test_each_run_is_compared_with_the_baseline_that_agrees_with_itself() -> None:
    """Not with one that agrees with another run of its cell."""
    import pandas as pd
    import points

    table = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "role": "student",
            "seed": [0, 1, 0, 1],
            "state": "done",
            "on": [1, 1, 0, 0],
            "length": [200, 250, 250, 200],
            "m": [10.0, 20.0, 1.0, 2.0],
        }
    )
    (cell,) = points.cells(table, points.Contrast("on == 1", "on == 0", same=("length",)), "m")
    assert cell.difference is None and cell.pairs.n == 0


def test_a_figure_that_is_refused_halfway_leaves_no_sheet_open(run: Run, tmp_path: Path) -> None:
    rows = small("signal_noise")
    again = [row | {"id": f"{row['id'][:-1]}x", "tau": 8} for row in rows if row["role"] == "student"]
    assert run("signal_noise", write(tmp_path, "signal_noise", [row | {"tau": 4} for row in rows] + again)) == 2
    assert sys.modules["matplotlib.pyplot"].get_fignums() == []


@pytest.mark.parametrize("script", ["fickle", "signal_noise", "swap"])
def test_nothing_that_is_written_lies_on_something_else(
    run: Run, tmp_path: Path, pictures: dict[str, Any], script: str
) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from style import LOOK

    place = write(tmp_path, script, without(sweep(script, 2), "corruption/"))
    assert run(script, place) == 0
    for name, sheet in pictures.items():
        FigureCanvasAgg(sheet)
        with plt.rc_context(LOOK):  # ticks are made as they are drawn
            sheet.draw_without_rendering()
        shown = [axes for axes in sheet.axes if axes.axison]
        titles = [axes._left_title for axes in shown]
        written = [*titles, *(label for axes in shown for label in (axes.xaxis.label, axes.yaxis.label))]
        boxes = [(text.get_text(), text.get_window_extent()) for text in written if text.get_text()]
        boxes += [("legend", legend.get_window_extent()) for legend in sheet.legends]
        boxes += [("data", axes.get_window_extent()) for axes in shown]
        for i, (words, box) in enumerate(boxes):
            assert box.x0 > -1 and box.x1 < sheet.bbox.width + 1 and box.y0 > -1, (name, words, "leaves the sheet")
            for others, other in boxes[i + 1 :]:
                apart = box.x1 < other.x0 + 1 or other.x1 < box.x0 + 1 or box.y1 < other.y0 + 1 or other.y1 < box.y0 + 1
                assert apart, (name, words, others)


METHODS = {"Teacher WRN-40-2": "teacher", "WRN-16-2 alone": "wrn-16-2", "Hinton KD (MC r=0)": "r 0"}
SETS = {"CIFAR-10": "test/accuracy", "CINIC-10 (ImageNet part)": "shift/cinic"}


def test_the_numbers_of_the_paper_are_those_that_were_read_from_it() -> None:
    """By a second reading of the paper, where that is at hand."""
    reading = ANALYSIS.parent.parent / "shared/paper_numbers.yaml"
    if not reading.is_file():
        pytest.skip(f"no second reading at {reading}")
    read = [each for each in yaml.safe_load(reading.read_text(encoding="utf-8")) if each["source"] == "arani2019_v1"]
    paper = yaml.safe_load((ANALYSIS / "paper.yaml").read_text(encoding="utf-8"))
    table = paper["label_noise"]
    cells = [
        each for each in read if each["figure_or_table"] == "Fig 10 (table)" and each["metric"] == "test_accuracy_pct"
    ]
    assert len(cells) == 80
    for each in cells:
        row = METHODS.get(each["method"], each["method"].replace("MC r=", "r "))
        at = table["corruption"].index(each["value_of_parameter"])
        assert table[SETS[each["dataset"]]][row][at] == each["value"], each
    stated = {
        (
            each["method"].split()[0].lower(),
            "test/accuracy" if each["metric"] == "test_accuracy_pct" else "robust/pgd20",
            each["value"],
        )
        for each in read
        if each["figure_or_table"].startswith("text sec 1")
        and each["metric"].endswith(("_pct", "correct", "not_stated"))
    }
    methods = {"augmentation": "gaussian"}  # else a value's name begins as the method's does
    printed_there = [(name, each) for name, each in paper["values"].items() if "sweep" not in each]  # in A
    ours = [(name.partition("/")[0], each) for name, each in printed_there if each["certainty"] == "paper"]
    assert {(methods.get(of, of), each["metric"], each["value"]) for of, each in ours} == stated
    assert len(ours) == len(stated)
    counts = {name: each["value"] for name, each in paper["counts"].items()}
    printed = {(each["method"], each["metric"]): each["value"] for each in read}
    assert counts["teacher parameters"] == printed["teacher WRN-40-2", "parameters_millions"] * 1e6
    assert counts["student parameters"] == printed["student WRN-16-2", "parameters_millions"] * 1e6
    sizes = {each["parameter"]: each["value"] for each in read if each["metric"] == "count"}
    assert counts["cinic images per class"] == sizes["images_per_class"]
    assert counts["cinic images"] == sizes["images_total"]
