"""Figures from tables alone: the numbers drawn against hand computations, and what incomplete tables make them say."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from kdtune.report.table import TableError

ANALYSIS = Path(__file__).parents[2] / "analysis"
T = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764}  # Student's t, 97.5 %, for n values: from printed tables
SWEEPS = ("fickle", "softrand", "messy", "signal_noise", "swap", "fixed_label_corruption")
Row = dict[str, Any]


@pytest.fixture
def fast(builder: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Figures are drawn, but not to pixels."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    return builder


class Complete:
    """All figures of all sweeps from whole tables: their folders, and their sheets by name."""

    def __init__(self, builder: Any, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.sheets: dict[str, Any] = {}

        def keep(sheet: Any, path: Path, **_: Any) -> None:
            if path.stem not in self.sheets:
                for axes in sheet.axes:  # their labels exist from here on
                    axes.get_xticklabels(), axes.get_yticklabels()
                self.sheets[path.stem] = sheet

        patch.setattr("matplotlib.figure.Figure.savefig", lambda s, p, **k: keep(s, p) if p.suffix == ".png" else None)
        self.rows = {sweep: builder.rows(sweep) for sweep in SWEEPS}
        self.status = {}
        for sweep, rows in self.rows.items():
            shuffled = random.Random(1).sample(rows, len(rows))  # the order of rows means nothing
            place = builder.write(folder, sweep, shuffled)
            self.status[sweep] = builder.draw(sweep, place)
        self.folder = folder


@pytest.fixture(scope="module")
def complete(builder: Any, tmp_path_factory: pytest.TempPathFactory) -> Complete:
    with pytest.MonkeyPatch.context() as patch:
        drawn = Complete(builder, tmp_path_factory.mktemp("complete"), patch)
    return drawn


def texts(sheet: Any) -> list[Any]:
    """Everything that is written in a figure."""
    found = sheet.findobj(lambda artist: hasattr(artist, "get_fontsize") and hasattr(artist, "get_text"))
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def few_rows(**columns: Any) -> Any:
    """Rows of students, one for each value given."""
    length = max(len(values) for values in columns.values())
    usual = {"role": ["student"] * length, "state": ["done"] * length, "id": [f"i{i}" for i in range(length)]}
    return pd.DataFrame(usual | columns)


# --- points ---


def test_a_point_is_the_mean_and_its_interval(builder: Any) -> None:
    values = [94.1, 94.5, 93.9, 94.8, 94.3]
    point = builder.module("points").point(few_rows(seed=[4, 0, 2, 1, 3], m=values), "m")
    reach = T[5] * statistics.stdev(values) / math.sqrt(5)
    assert point.mean == pytest.approx(94.32) and point.n == point.planned == 5
    assert point.interval == pytest.approx((94.32 - reach, 94.32 + reach), abs=1e-4)
    assert {run.seed: run.value for run in point.runs} == {4: 94.1, 0: 94.5, 2: 93.9, 1: 94.8, 3: 94.3}


def test_one_run_has_no_interval_and_none_has_no_mean(builder: Any) -> None:
    points = builder.module("points")
    one = points.point(few_rows(seed=[0], m=[94.0]), "m")
    assert one.mean == 94 and one.interval is None and one.text() == "94.00"
    none = points.point(few_rows(seed=[0], m=[float("nan")]), "m")
    assert math.isnan(none.mean) and none.interval is None and (none.n, none.planned) == (0, 1)
    assert points.point(few_rows(seed=[0, 1]), "m").planned == 2


def test_runs_that_are_not_done_or_not_measured_only_count_as_planned(builder: Any) -> None:
    rows = few_rows(seed=[0, 1, 2, 3], state=["done", "failed", "diverged", "done"], m=[1.0, 50.0, 60.0, None])
    point = builder.module("points").point(rows, "m")
    assert (point.n, point.planned, point.mean) == (1, 4, 1.0)


def test_a_run_that_has_several_rows_is_counted_once(builder: Any) -> None:
    points = builder.module("points")
    once = few_rows(seed=[0, 1], x=[0.0, 0.0], m=[1.0, 2.0])
    twice = pd.concat([once, once.assign(other=1)])
    points.refuse_mixtures(twice, "x")
    assert points.point(twice, "m") == points.point(once, "m") and points.point(twice, "m").planned == 2
    assert "2 of 2 runs" in builder.module("words").heading(twice)


def test_a_mixture_is_refused_by_the_name_of_its_axis(builder: Any) -> None:
    points = builder.module("points")
    rows = few_rows(seed=[0, 1, 0, 1], x=[0.5] * 4, tau=[4, 4, 8, 8], **{"test/m": [1.0, 2.0, 3.0, 4.0]})
    with pytest.raises(TableError, match=r"x 0.5: several runs of one seed, which differ in tau;"):
        points.points(rows, "x", "test/m")


def paired_rows() -> Any:
    """Treated (on) and plain runs at two lengths; the order of seeds differs, and one plain run is missing."""
    return few_rows(
        seed=[0, 1, 2, 2, 1, 0, 1, 0, 2, 0, 1, 2],
        on=[1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        length=[200] * 6 + [250] * 6,
        m=[10.0, 20.0, 30.0, 3.0, 2.0, 1.0, 200.0, 100.0, 300.0, 7.0, 8.0, 9.0],
        state=["done"] * 11 + ["failed"],
    )


def test_differences_are_paired_by_seed_with_the_baseline_that_agrees(builder: Any) -> None:
    points = builder.module("points")
    for order in range(5):
        table = paired_rows().sample(frac=1, random_state=order)
        first, second = points.cells(table, points.Contrast("on == 1", "on == 0", ("length",), ("length",)), "m")
        assert {run.seed: run.value for run in first.pairs.runs} == {0: 9, 1: 18, 2: 27}
        assert {run.seed: run.value for run in second.pairs.runs} == {0: 93, 1: 192}
        assert first.place == {"length": 200} and (first.pairs.n, first.planned) == (3, 3)
        assert (second.pairs.n, second.planned) == (2, 3) and second.difference.unpaired == (2,)
        assert first.difference.mean == pytest.approx(18) == first.pairs.mean
        assert first.pairs.interval == pytest.approx((first.difference.low, first.difference.high))


def test_without_a_common_seed_there_is_no_difference(builder: Any) -> None:
    points = builder.module("points")
    table = few_rows(seed=[0, 1], on=[1, 0], m=[1.0, 2.0])
    (cell,) = points.cells(table, points.Contrast("on == 1", "on == 0"), "m")
    assert cell.difference is None and cell.pairs.n == 0


def test_a_run_is_not_compared_with_itself(builder: Any) -> None:
    points = builder.module("points")
    table = few_rows(seed=[0, 1, 0, 1], x=[0, 0, 1, 1], m=[1.0, 2.0, 4.0, 8.0])
    found = points.cells(table, points.Contrast("x >= 0", "x == 0", by=("x",)), "m")
    assert [cell.place for cell in found] == [{"x": 1}] and found[0].difference.mean == 4.5


def test_a_student_is_compared_with_the_teacher_that_taught_it(builder: Any) -> None:
    points = builder.module("points")
    table = few_rows(
        id=["t0", "t1", "s0", "s1", "s2"],
        role=["teacher"] * 2 + ["student"] * 3,
        seed=[0, 1, 0, 1, 2],
        m=[50.0, 60.0, 51.0, 52.0, 63.0],
        **{"teacher.id": [None, None, "t0", "t0", "t1"]},
    )
    (cell,) = points.cells(table, points.Contrast("role == 'student'", points.TEACHER), "m")
    assert {run.seed: run.value for run in cell.pairs.runs} == {0: 1, 1: 2, 2: 3} and cell.teachers == 2


@pytest.mark.parametrize("side", [0, 1])
def test_the_flags_of_either_side_carry_over(builder: Any, side: int) -> None:
    points = builder.module("points")
    table = few_rows(seed=[0, 0], on=[1, 0], **{"robust/pgd20": [9.0, 1.0], "test/accuracy": [9.0, 1.0]})
    table["flags/zero_gradient"] = [float(side == 0), float(side == 1)]
    contrast = points.Contrast("on == 1", "on == 0")
    (robust,), (clean,) = points.cells(table, contrast, "robust/pgd20"), points.cells(table, contrast, "test/accuracy")
    assert robust.pairs.runs[0].flags == ("zero_gradient",) and not clean.pairs.flagged


# --- panels ---


def series_of(builder: Any) -> Any:
    return builder.module("panels").Series("a", "role == 'student'", builder.module("style").STUDENT, ("length",))


def drawn_axes(builder: Any, table: Any) -> tuple[Any, list[list[float]]]:
    import matplotlib.pyplot as plt

    panels = builder.module("panels")
    series = series_of(builder)
    at = panels.values(table, series, "x", panels.Panel("m", ""))
    lines = panels.segments(table, series, "x", at)
    sheet, axes = plt.subplots()
    panels.draw_series(axes, at, series.look, lines)
    plt.close(sheet)
    return axes, lines


def line_rows(**changed: Any) -> Any:
    x = [0.0, 0.0, 0.01, 0.01, 0.05, 0.05, 0.5, 0.5, 0.6, 0.6]
    rows = few_rows(seed=[0, 1] * 5, x=x, length=[200] * 10, m=[float(i * i) for i in range(10)])
    return rows.assign(**changed)


def test_a_line_breaks_where_its_runs_do_not_agree_are_missing_or_single(builder: Any) -> None:
    _, whole = drawn_axes(builder, line_rows())
    assert whole == [[0.0, 0.01, 0.05, 0.5, 0.6]]
    _, lengths = drawn_axes(builder, line_rows(length=[200] * 4 + [250] * 6))
    assert lengths == [[0.0, 0.01], [0.05, 0.5, 0.6]]
    done = ["done"] * 10
    _, missing = drawn_axes(builder, line_rows(state=[*done[:4], "failed", "failed", *done[6:]]))
    _, single = drawn_axes(builder, line_rows(state=[*done[:4], "failed", *done[5:]]))
    assert missing == single == [[0.0, 0.01], [0.5, 0.6]]


def test_marks_stand_at_their_true_place(builder: Any) -> None:
    axes, _ = drawn_axes(builder, line_rows())
    marks = {(float(c[0].get_xdata()[0]), float(c[0].get_ydata()[0])) for c in axes.containers}
    assert marks == {(0.0, 0.5), (0.01, 6.5), (0.05, 20.5), (0.5, 42.5), (0.6, 72.5)}
    (line,) = [line for line in axes.lines if line.get_linestyle() != "None"]
    assert list(line.get_xdata()) == [0.0, 0.01, 0.05, 0.5, 0.6]
    low, high = axes.containers[0][2][0].get_segments()[0][:, 1]
    reach = T[2] * statistics.stdev([0, 1]) / math.sqrt(2)
    assert (low, high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-4)


def test_a_flagged_mark_is_hollow_a_single_one_has_no_bar_and_a_missing_one_is_a_cross(builder: Any) -> None:
    table = line_rows(state=["done", "done", "done", "done", "done", "failed", "failed", "failed", "done", "done"])
    table = table.rename(columns={"m": "robust/pgd20"}).assign(**{"flags/dynamic": [0.0, 1.0] + [0.0] * 8})
    import matplotlib.pyplot as plt

    panels = builder.module("panels")
    series = series_of(builder)
    sheet, axes = plt.subplots()
    at = panels.values(table, series, "x", panels.Panel("robust/pgd20", ""))
    panels.draw_series(axes, at, series.look, [])
    plt.close(sheet)
    faces = {float(bar[0].get_xdata()[0]): bar[0].get_markerfacecolor() for bar in axes.containers}
    assert faces == {0.0: "white", 0.01: series.look.colour, 0.6: series.look.colour}
    alone = [line for line in axes.lines if line not in [bar[0] for bar in axes.containers] and len(line.get_xdata())]
    found = {(float(line.get_xdata()[0]), line.get_marker()) for line in alone if line.get_marker() in ("o", "x")}
    assert found == {(0.05, "o"), (0.5, "x")}


# --- what all figures have in common ---


def test_every_script_draws_all_its_figures(complete: Complete) -> None:
    assert set(complete.status.values()) == {0}
    assert set(complete.sheets) == {
        *("figure1", "figure1-lengths", "figure2", "figure4", "figure5", "figure15", "figure6", "figure7"),
        "figure8-sureness",
        *("figure16", "figure11", "figure12", "figure13", "figure14", "figure17", "figure18"),
    }


def test_type_and_width_are_for_print(complete: Complete) -> None:
    for name, sheet in complete.sheets.items():
        assert sheet.get_figwidth() in (3.4, 7.0), name
        assert {
            text.get_text(): text.get_fontsize() for text in texts(sheet) if not 7 <= text.get_fontsize() <= 9
        } == {}


def test_no_two_series_of_a_figure_differ_by_colour_alone(complete: Complete) -> None:
    for name, sheet in complete.sheets.items():
        keys = sheet.legends[0].get_lines()
        looks = [(key.get_marker(), str(key._unscaled_dash_pattern)) for key in keys]
        for (one, other), labels in zip(itertools.combinations(looks, 2), itertools.combinations(keys, 2), strict=True):
            assert one != other, (name, [key.get_label() for key in labels])
        assert len({marker for marker, _ in looks if marker != "None"}) == len([m for m, _ in looks if m != "None"])


def test_no_words_of_the_caption_are_in_the_picture(complete: Complete) -> None:
    for name, sheet in complete.sheets.items():
        written = "\n".join(text.get_text() for text in texts(sheet))
        assert len(written) < 2500 and sheet._suptitle is None, name
        for words in ("Scope", "Teacher chosen", "The paper:", "Marks:", "runs", "sweep", "paired by seed"):
            assert words not in written.replace("student runs", ""), (name, words)


def test_no_interval_comes_from_less_than_two_runs(complete: Complete, builder: Any) -> None:
    for path in complete.folder.rglob("*.csv"):
        honest(builder.csv(path.parent, path.stem))


def honest(data: list[dict[str, str]]) -> None:
    for row in data:
        if row.get("mark") == "mean":
            n, planned = int(row["n"]), int(row["planned"])
            assert bool(row["low"]) == bool(row["high"]) == (n > 1) and bool(row["value"]) == (n > 0) and n <= planned


def of(row: Row, **wanted: Any) -> bool:
    return all(row.get(name.replace("__", "."), None) == value for name, value in wanted.items())


def arms(rows: list[Row], metric: str, taught: bool = True, **wanted: Any) -> dict[int, float]:
    """The values by seed of the students of one setting."""
    return {
        row["seed"]: row[metric]
        for row in rows
        if row["role"] == "student" and of(row, **wanted) and taught == ("distillation.alpha" in row)
    }


Expected = dict[tuple[str, float], tuple[dict[str, Any], dict[str, Any]]]
COMPARED: dict[tuple[str, str], Expected] = {
    ("fickle", "figure1"): {
        ("students", 0.2): ({"dropout": 0.2}, {"dropout": 0.0, "epochs": 250}),
        ("students", 0.3): ({"dropout": 0.3}, {"dropout": 0.0, "epochs": 250}),
        ("students", 0.4): ({"dropout": 0.4}, {"dropout": 0.0, "epochs": 300}),
        ("students", 0.5): ({"dropout": 0.5}, {"dropout": 0.0, "epochs": 300}),
        ("students, over Hinton of 200 epochs", 0.2): ({"dropout": 0.2}, {"dropout": 0.0, "epochs": 200}),
        ("students, over Hinton of 200 epochs", 0.5): ({"dropout": 0.5}, {"dropout": 0.0, "epochs": 200}),
    },
    ("fickle", "figure2"): {
        ("Fickle Teacher, over Hinton as long", 0.4): ({"dropout": 0.4}, {"dropout": 0.0, "epochs": 300}),
    },
    ("softrand", "figure4"): {
        ("Soft Randomization (0: Hinton)", x): ({"sigma": x}, {"sigma": x, "taught": False})
        for x in (0.0, 0.02, 0.05, 0.2, 0.5)
    },
    ("softrand", "figure5"): {
        ("Soft Randomization, over Hinton", x): ({"sigma": x}, {"sigma": 0.0}) for x in (0.02, 0.5)
    },
    ("messy", "figure6"): {
        ("MC-S (student)", 0.5): (
            {"r_student": 0.5, "teacher__r_teacher": 0.0},
            {"r_student": 0.0, "teacher__r_teacher": 0.0},
        ),
        ("MC-T (teacher)", 0.5): (
            {"r_student": 0.0, "teacher__r_teacher": 0.5},
            {"r_student": 0.0, "teacher__r_teacher": 0.0},
        ),
        ("MC-TS (both)", 0.1): (
            {"r_student": 0.1, "teacher__r_teacher": 0.1},
            {"r_student": 0.0, "teacher__r_teacher": 0.0},
        ),
    },
    ("signal_noise", "figure11"): {("students (0: Hinton)", 0.3): ({"sigma": 0.3}, {"sigma": 0.0})},
    ("swap", "figure13"): {
        ("the two largest, threshold 0.3", 0.5): ({"rate": 0.5, "pairs": "top2", "threshold": 0.3}, {"rate": 0.0}),
        ("all neighbours, threshold 0.1", 0.1): ({"rate": 0.1, "pairs": "all"}, {"rate": 0.0}),
    },
    ("fixed_label_corruption", "figure17"): {
        ("fixed, FLC_TS", 0.5): ({"c": 0.5, "r": 0.0}, {"c": 0.0, "r": 0.0}),
        ("redrawn, MC-TS", 0.1): ({"c": 0.0, "r": 0.1}, {"c": 0.0, "r": 0.0}),
    },
}


@pytest.mark.parametrize(("sweep", "name"), COMPARED)
def test_differences_are_those_of_a_hand_computation(complete: Complete, builder: Any, sweep: str, name: str) -> None:
    data, rows = builder.csv(complete.folder / sweep, name), complete.rows[sweep]
    metrics = {row["metric"] for row in data if row["kind"] == "difference"}
    assert metrics
    for ((series, x), (ours, theirs)), metric in itertools.product(COMPARED[sweep, name].items(), sorted(metrics)):
        a, b = arms(rows, metric, **ours), arms(rows, metric, **theirs)
        assert set(a) == set(b) == {0, 1, 2}
        gains = [a[seed] - b[seed] for seed in range(3)]
        reach = T[3] * statistics.stdev(gains) / math.sqrt(3)
        others = ("metric", "kind", "series", "mark", "n", "planned", "value")
        axis = next(key for key in data[0] if key not in others)
        found = [
            row
            for row in data
            if (row["metric"], row["kind"], row["series"]) == (metric, "difference", series) and float(row[axis]) == x
        ]
        means, singles = [row for row in found if row["mark"] == "mean"], [r for r in found if r["mark"] == "run"]
        assert means
        for mean in means:  # a place may stand in two panels
            numbers = [float(mean[key]) for key in ("value", "low", "high")]
            assert numbers == pytest.approx(
                [statistics.mean(gains), *(statistics.mean(gains) + s * reach for s in (-1, 1))], abs=1e-3
            )
            assert (mean["n"], mean["planned"]) == ("3", "3")
        assert {int(row["seed"]): float(row["value"]) for row in singles} == pytest.approx(dict(enumerate(gains)))


def test_no_place_is_compared_with_itself(complete: Complete, builder: Any) -> None:
    for (sweep, name), x in {
        ("fickle", "figure1"): "dropout",
        ("signal_noise", "figure11"): "sigma",
        ("messy", "figure6"): "rate",
        ("swap", "figure13"): "rate",
        ("fixed_label_corruption", "figure17"): "rate",
    }.items():
        differences = [r for r in builder.csv(complete.folder / sweep, name) if r["kind"] == "difference"]
        assert differences and all(float(row[x]) > 0 for row in differences)


def test_levels_are_means_over_the_runs_of_their_place(complete: Complete, builder: Any) -> None:
    data, rows = builder.csv(complete.folder / "softrand", "figure4"), complete.rows["softrand"]
    for taught, series in ((True, "Soft Randomization (0: Hinton)"), (False, "Gaussian augmentation (0: alone)")):
        for sigma in (0.0, 0.05, 0.5):
            values = [*arms(rows, "robust/pgd20", taught, sigma=sigma).values()]
            found = [r for r in data if (r["metric"], r["kind"], r["series"]) == ("robust/pgd20", "level", series)]
            means = [r for r in found if r["mark"] == "mean" and float(r["sigma"]) == sigma]
            assert [float(r["value"]) for r in means] == pytest.approx([statistics.mean(values)] * len(means))
            assert len(means) == (2 if sigma == 0.05 else 1)  # both panels end there


def test_a_run_at_several_places_of_the_grid_is_one_run(complete: Complete, builder: Any) -> None:
    hinton = [r for r in builder.csv(complete.folder / "swap", "figure13") if r["series"] == "Hinton"]
    assert {(r["n"], r["planned"]) for r in hinton if r["mark"] == "mean"} == {("3", "3")}


# --- tables that are not whole ---


def half_done(rows: list[Row]) -> list[Row]:
    draw = random.Random(5)
    lost = {row["id"]: draw.choice(["diverged", "failed", "new"]) for row in rows if draw.random() < 0.5}
    return [row | {"state": lost.get(row["id"], "done")} for row in rows]


def without(rows: list[Row], kind: str) -> list[Row]:
    return [{k: v for k, v in row.items() if not k.startswith(kind)} for row in rows]


KINDS: dict[str, Callable[[list[Row]], list[Row]]] = {
    "half": half_done,
    "one seed": lambda rows: [row for row in rows if row["seed"] == 1],
    "nothing done": lambda rows: [row | {"state": "new"} for row in rows],
    "students only": lambda rows: [row for row in rows if row["role"] == "student"],
    "teachers only": lambda rows: [row for row in rows if row["role"] == "teacher"],
    "no Hinton": lambda rows: [r for r in rows if any(r.get(k) for k in ("dropout", "sigma", "rate", "c", "r"))],
    "not measured": lambda rows: [{k: v for k, v in row.items() if "/" not in k} for row in rows],
}


@pytest.mark.parametrize(
    ("sweep", "kind"),
    [
        *((sweep, kind) for sweep in SWEEPS for kind in ("half", "nothing done", "not measured")),
        *((sweep, "one seed") for sweep in ("softrand", "signal_noise")),
        *(("fickle", kind) for kind in ("students only", "teachers only", "no Hinton")),
        *(("fixed_label_corruption", kind) for kind in ("teachers only", "no Hinton")),
    ],
)
def test_incomplete_tables_never_end_in_a_traceback_or_a_false_interval(
    fast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], sweep: str, kind: str
) -> None:
    unneeded = ("test/ece", "shift/cinic", "robust/pgd10")
    rows = [{k: v for k, v in row.items() if k not in unneeded} for row in fast.rows(sweep)]
    place = fast.write(tmp_path, sweep, KINDS[kind](rows))
    status = fast.draw(sweep, place)
    said = capsys.readouterr()
    written = list(place.rglob("*.csv"))
    assert status == (0 if written else 2) and ("not drawn: " in said.err or written)
    for path in written:
        honest(fast.csv(path.parent, path.stem))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_further_axis_is_refused_not_averaged_over(
    fast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], sweep: str
) -> None:
    rows = [row | {"tau": 4} for row in fast.rows(sweep)]
    other = [row | {"id": f"{row['id'][:-2]}ff", "tau": 8} for row in rows]
    place = fast.write(tmp_path, sweep, rows + other)
    assert fast.draw(sweep, place) == 2
    assert "several runs of one seed, which differ in" in (error := capsys.readouterr().err) and "tau" in error
    assert list(place.rglob("*.csv")) == []


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_table_of_another_sweep_is_refused(
    fast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], sweep: str
) -> None:
    other = "softrand" if sweep in ("fickle", "messy", "swap", "fixed_label_corruption") else "messy"
    assert fast.draw(sweep, fast.write(tmp_path, other, fast.rows(other))) == 2
    error = capsys.readouterr().err
    assert "its table has no" in error and "Traceback" not in error


@pytest.mark.parametrize(("sweep", "lacking"), [("softrand", "corruption/"), ("signal_noise", "robust/")])
def test_a_missing_metric_leaves_the_other_figures(
    fast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], sweep: str, lacking: str
) -> None:
    place = fast.write(tmp_path, sweep, without(fast.rows(sweep), lacking))
    assert fast.draw(sweep, place) == 0
    written = [row for path in place.rglob("*.csv") for row in fast.csv(path.parent, path.stem)]
    assert written and not any(row["metric"].startswith(lacking) for row in written)
    assert ("not drawn: figure5" in capsys.readouterr().err) is (lacking == "corruption/")


def test_a_ninth_kind_of_swapping_is_not_left_out_in_silence(fast: Any, tmp_path: Path) -> None:
    rows = fast.rows("swap")
    more = [
        row | {"id": f"{row['id'][:-2]}{i:02}", "threshold": 0.4 + i / 100}
        for i in range(7)
        for row in rows
        if (row.get("rate"), row.get("pairs"), row.get("threshold")) == (0.1, "top2", 0.1)
    ]
    table = fast.table(fast.write(tmp_path, "swap", rows + more))
    with contextlib.suppress(TableError):  # said, not drawn
        assert len(fast.module("swap").methods(table)) == 10


def test_no_run_of_a_cell_is_compared_with_itself(builder: Any) -> None:
    points = builder.module("points")
    table = few_rows(seed=[0, 1, 0, 1], x=[0, 1, 1, 0], m=[5.0, 7.0, 6.0, 1.0]).iloc[:2]
    assert [cell.pairs.n for cell in points.cells(table, points.Contrast("m > 0", "x == 0"), "m")] == [0]


@pytest.mark.parametrize("families", [1, 3])
def test_few_corruptions_leave_places_of_their_row_empty(fast: Any, tmp_path: Path, families: int) -> None:
    names = ["corruption/fog", "corruption/contrast", "corruption/glass_blur", "corruption/gaussian_noise"][families:]
    rows = [{k: v for k, v in row.items() if k not in names} for row in fast.rows("signal_noise")]
    place = fast.write(tmp_path, "signal_noise", rows)
    fast.one("signal_noise", "figure12", place)
    assert len({row["metric"] for row in fast.csv(place, "figure12")}) == families + 1


# --- what is said beside a figure ---


def words_of(fast: Any, folder: Path, sweep: str, rows: list[Row], name: str, **about: str) -> str:
    place = fast.write(folder, sweep, rows, **about)
    fast.one(sweep, name, place)
    return " ".join(next(place.rglob(f"{name}.md")).read_text(encoding="utf-8").split())


def test_who_chose_the_teacher_is_said(fast: Any, tmp_path: Path) -> None:
    rows = fast.rows("signal_noise")
    assert "Teacher chosen on held-out data (val/accuracy)" in words_of(
        fast, tmp_path / "a", "signal_noise", rows, "figure11"
    )
    chosen = [row | {"teacher.metric": "test/accuracy"} if "teacher.id" in row else row for row in rows]
    assert "Teacher chosen on test data (test/accuracy)" in words_of(
        fast, tmp_path / "b", "signal_noise", chosen, "figure11"
    )


def test_one_teacher_for_all_seeds_is_said(fast: Any, tmp_path: Path) -> None:
    rows = fast.rows("signal_noise")
    assert "share one teacher" in words_of(fast, tmp_path / "a", "signal_noise", rows, "figure11")
    own = [row | {"teacher.id": f"teacher{row['seed']}"} if "teacher.id" in row else row for row in rows]
    assert "share one teacher" not in words_of(fast, tmp_path / "b", "signal_noise", own, "figure11")


def test_flags_and_missing_runs_are_said(fast: Any, tmp_path: Path) -> None:
    rows = fast.rows("signal_noise")
    whole = words_of(fast, tmp_path / "a", "signal_noise", rows, "figure11")
    assert "Flagged" not in whole and "Fractions" not in whole and "12 of 12 runs, 3 student seeds" in whole
    rows[-1]["flags/zero_gradient"] = 1.0
    rows[-2]["state"], rows[0]["state"] = "diverged", "failed"
    said = words_of(fast, tmp_path / "b", "signal_noise", rows, "figure11")
    assert "10 of 12 runs (1 diverged, 1 failed)" in said and "Flagged: 1 run (zero_gradient)" in said
    assert "| 2/3 |" in said and "Hollow marks" in said and "Fractions above a panel" in said


def test_the_smallest_visible_difference_is_said(fast: Any, tmp_path: Path) -> None:
    rows = fast.rows("signal_noise", seeds=5)
    said = words_of(fast, tmp_path, "signal_noise", rows, "figure11")
    a, b = (arms(rows, "test/accuracy", sigma=sigma) for sigma in (0.3, 0.0))
    sd = statistics.stdev([a[seed] - b[seed] for seed in range(5)])
    (line,) = [
        each for each in said.split(" | test/accuracy, difference |") if each.startswith(" students (0: Hinton) | 0.3")
    ]
    # Five pairs see 1.681997 standard deviations in four trials of five.
    assert f"| 5/5 | {1.681997 * sd:.2f} |" in line


@pytest.mark.parametrize(
    ("dataset", "scope", "stated"),
    [
        ("CIFAR-10", "the paper's networks, recipe and data", True),
        ("CIFAR-10 (JPEG q75)", "a replication on CIFAR-10 (JPEG q75)", False),
    ],
)
def test_the_papers_levels_stand_only_on_the_papers_data(
    builder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: str, scope: str, stated: bool
) -> None:
    sheets: dict[str, Any] = {}
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda s, p, **_: sheets.update({p.stem: s}))
    said = words_of(builder, tmp_path, "softrand", builder.rows("softrand"), "figure4", dataset=dataset)
    assert f"Scope: {scope}" in said or scope in said
    assert ("stated in the paper" in said) is stated
    levels = {
        float(line.get_ydata()[0]) for axes in sheets["figure4"].axes for line in axes.lines if len(line.get_ydata())
    }
    assert ({92.57, 16.75, 92.14, 0.41} <= levels) is stated
    written = "\n".join(text.get_text() for text in texts(sheets["figure4"]))
    assert all((f"{level:g}" in written) is stated for level in (92.57, 16.75, 92.14, 0.41))


@pytest.mark.parametrize("dataset", ["digits (8 x 8, scikit-learn)", "CIFAR-100", ""])
def test_other_data_gives_no_verdict(builder: Any, tmp_path: Path, dataset: str) -> None:
    table = builder.table(builder.write(tmp_path, "softrand", builder.rows("softrand"), dataset=dataset))
    panels, stated = builder.module("panels"), builder.module("stated")
    kind, words = stated.scope(table)
    assert kind == "direction" and "no verdict on the paper comes from it" in words
    assert list(stated.stated(table, panels.Panel("test/accuracy", "", paper=("soft/accuracy",)))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"recipe.batch_size": 32},
        {"recipe.precision": "bfloat16"},
        {"recipe.schedule.step.factor": None},
        {"recipe.epochs": 20},
        {"recipe.optimizer.sgd.momentum": 0.99},
        {"distillation.temperature": 10.0},
        {"dataset.train_size": 500},
        {"dataset.validation": 0.1},
    ],
)
def test_other_training_than_the_papers_gives_no_verdict(fast: Any, tmp_path: Path, change: Row) -> None:
    rows = [row | change for row in fast.rows("signal_noise")]
    assert "no verdict on the paper" in words_of(fast, tmp_path, "signal_noise", rows, "figure11")


# --- the command line ---


def test_each_figure_comes_in_four_files_and_equal_tables_give_equal_ones(
    builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(builder.module("figure").LOOK, "savefig.dpi", 40)
    place = builder.write(tmp_path, "signal_noise", without(builder.rows("signal_noise"), "corruption/"))
    for name in ("a", "b"):
        assert builder.draw("signal_noise", place, "--output", str(tmp_path / name)) == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("figure11",) for kind in ("png", "pdf", "csv", "md")}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_last_bits_of_a_layout_are_not_in_its_files(builder: Any) -> None:
    import matplotlib.pyplot as plt

    found = []
    for shift in (0, 1e-12):  # the solver's own come once in some dozens of times
        sheet, axes = plt.subplots()
        axes.set_position([0.1 + shift, 0.1, 0.8 - shift, 0.8])
        builder.module("figure").settle(sheet)
        found.append(axes.get_position().bounds)
        plt.close(sheet)
    assert found[0] == found[1]


def test_the_script_runs_alone(tmp_path: Path, builder: Any) -> None:
    from matplotlib.image import imread

    place = builder.write(tmp_path, "signal_noise", without(builder.rows("signal_noise"), "corruption/"))
    done = subprocess.run(
        [sys.executable, ANALYSIS / "signal_noise.py", place],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ANALYSIS.parent)},
    )
    assert done.returncode == 0 and done.stderr.startswith("not drawn: figure12"), done.stderr
    image = imread(place / "paper/figures/figure11.png")[..., :3]
    assert image.shape[1] == 2100 and np.mean(image.min(axis=2) < 0.9) > 0.01 and len(np.unique(image)) > 50
    assert (place / "paper/figures/figure11.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("case", ["nowhere", "damaged", "several", "another"])
def test_no_table_is_one_line_and_status_2(
    fast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    place, more = tmp_path / "fickle", ()
    if case != "nowhere":
        fast.write(tmp_path, "fickle", fast.rows("fickle", 1))
    if case == "damaged":
        (place / "paper/results.parquet").write_bytes(b"PAR1 damaged")
    if case == "several":
        fast.write(tmp_path, "fickle", fast.rows("fickle", 1), profile="laptop")
    if case == "another":
        more = ("--profile", "quick")
    assert fast.draw("fickle", place, *more) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not list(tmp_path.rglob("*.png"))


def test_a_table_of_an_earlier_kdtune_is_refused(fast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It does not say its axes: students' rows lacked their teachers' values, and lines were left out in silence."""
    place = fast.write(tmp_path, "messy", fast.rows("messy"))
    parquet = place / "paper/results.parquet"
    data = pq.read_table(parquet)
    about = {key: value for key, value in data.schema.metadata.items() if key != b"axes"}
    pq.write_table(data.replace_schema_metadata(about), parquet)
    assert fast.draw("messy", place) == 2
    assert "earlier kdtune" in capsys.readouterr().err and not list(tmp_path.rglob("*.csv"))


def test_figures_are_not_written_through_a_link(fast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, outside = fast.write(tmp_path, "signal_noise", fast.rows("signal_noise")), tmp_path / "outside"
    outside.mkdir()
    (place / "paper/figures").symlink_to(outside)
    assert fast.draw("signal_noise", place) == 2
    assert "figures is a link" in capsys.readouterr().err and list(outside.iterdir()) == []
    assert fast.draw("signal_noise", place, "--output", str(outside)) == 0 and list(outside.iterdir())


# --- what the paper states ---


def test_the_numbers_of_paper_yaml_are_whole() -> None:
    paper = yaml.safe_load((ANALYSIS / "paper.yaml").read_text(encoding="utf-8"))
    for value in (*paper["values"].values(), *paper["counts"].values()):
        assert isinstance(value["value"], float | int) and value["origin"]
        assert value["certainty"] in ("paper", "inferred", "third-hand")
    table = paper["label_noise"]
    for metric in ("test/accuracy", "shift/cinic"):
        assert len(table[metric]) == 8
        assert all(len(cells) == len(table["corruption"]) for cells in table[metric].values())
    accuracy = {name: np.array(cells) for name, cells in table["test/accuracy"].items()}
    gains = [accuracy[f"r {r}"] - accuracy["r 0"] for r in (0.05, 0.1, 0.15, 0.25, 0.5)]
    # Sums of the printed table, known from its reading: a slip in any cell of these rows shows.
    assert np.mean(gains) == pytest.approx(0.11, abs=0.005) and int((np.array(gains) > 0).sum()) == 18
    assert (accuracy["r 0"] - accuracy["teacher"]).round(2).tolist() == [-0.05, 1.34, 2.82, 6.38, 12.44]
    assert (accuracy["r 0"] - accuracy["wrn-16-2"]).round(2).tolist() == [2.05, 3.80, 5.87, 9.25, 11.36]


def test_a_distance_is_no_percentage(builder: Any) -> None:
    """Of any sweep whose headline it is; a span of a percent point would make its curves flat."""
    import generic
    import metrics

    table = pd.DataFrame({"role": ["student"] * 2, "rate": [0.0, 0.3], "seed": [0, 0], "distance/median": [0.03, 0.05]})
    names = ["test/accuracy", "distance/median", "distance/median/unconditional"]
    table = table.assign(**{"test/accuracy": 90.0, names[2]: 0.02})
    table.attrs = {"axes": json.dumps(["rate"]), "headlines": json.dumps(names), "sweep": "own"}
    (panels,) = generic.generic(table).panels
    scales = [(panel.metric, metrics.scale(panel.metric)) for panel in panels]
    assert [(metric, of.unit, of.least, of.digits) for metric, of in scales] == [
        ("test/accuracy", "%", 1.0, 2),
        ("distance/median", "pixel units", 0.01, 4),
    ]
    assert metrics.scale("distance/median/unconditional") == metrics.scale("distance/median@eps=0.08") == scales[1][1]
    assert panels[1].title == "Distance to another answer, median"


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_a_title_ends_where_its_panel_does_or_before_the_next_one(builder: Any, columns: int) -> None:
    """The last of four ran off the page."""
    import figure
    import matplotlib.pyplot as plt
    import panels
    import style

    line = {"role": "student", "rate": 0.0, "seed": 0, "id": "s", "state": "done", "distance/median": 0.03}
    table = pd.DataFrame([line, line | {"rate": 0.3, "id": "t"}])
    words = "Distance to another answer, median: gain"
    rows = [[panels.Panel("distance/median", words) for _ in range(columns)]]
    series = [panels.Series("students", "role == 'student'", style.STUDENT)]
    with plt.rc_context(style.LOOK):
        sheet, _ = figure.draw(figure.Figure(table, "f", "f", "rate", "rate", series, rows), rows)
        sheet.draw_without_rendering()
        titles = [axes._left_title.get_window_extent() for axes in sheet.axes]
        plt.close(sheet)
    assert len(titles) == columns and all(title.width > 0 for title in titles)
    limits = [*(title.x0 for title in titles[1:]), sheet.bbox.x1]
    assert all(title.x1 < limit for title, limit in zip(titles, limits, strict=True))
