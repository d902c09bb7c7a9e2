"""Errors in the plane: one drawing of the text's experiment (Wallace, Distill 2019), and what one drawing cannot show.

    python analysis/two_dimensional.py results/two_dimensional [--profile laptop] [--output DIR]

two_dimensional: above, for the first data set drawn, its points, their adversarial examples, and the decision
boundaries of both networks; below, over all data sets, how many points students get right, and the two nulls.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from figure import command, save
from matplotlib.patches import Rectangle
from metrics import ACCURACY
from outputs import arrays_of
from points import need, point, select
from stated import paper
from style import BLACK, BLUE, GREY, PAGE, VERMILLION
from words import heading, page, remarks

from kdtune.report.table import TableError
from kdtune.statistics import mean_interval, paired_difference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

REACH = (-0.25, 1.25)  # of the grid that the evaluator `plane` asks
SHOWN = (-0.15, 1.15)  # of it what a panel shows
COLOURS = (BLUE, VERMILLION)  # of the classes
MARKERS = ("o", "s")
ARMS = {  # students, by what labels the moved points have
    "teacher": "the teacher's answers",
    "random": "random labels",
    "true": "their true labels",
}
LOOKS = {"teacher": BLUE, "random": GREY, "true": VERMILLION}


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """With `arm`, and with the data set's number in the place of the seed: it is what differences are paired by."""
    need(table, "draw", "labels")
    asked = table["labels"].astype(str)
    kinds = np.select([asked.str.contains("teacher"), asked.str.contains("corruption")], ["teacher", "random"], "true")
    return table.assign(arm=np.where(table["role"] == "student", kinds, ""), seed=table["draw"])


def two_dimensional(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    values = {arm: point(select(table, f"arm == '{arm}'"), ACCURACY) for arm in ARMS}
    if not values["teacher"].n:
        raise TableError("two_dimensional: no student of the teacher's answers is finished")
    drawn = arrays_of(table, "plane/answers")
    sheet = plt.figure(figsize=(PAGE, 4.4), layout="constrained")
    above, below = sheet.subfigures(2, 1, height_ratios=(1.15, 1))
    first = panels(above.subplots(1, 4), table, drawn)
    count = histograms(below.subplots(1, 3, sharey=True), values, table)
    stated = paper()["values"]["points/student"]["value"] * count / 100
    title = f"Learning from adversarial examples of {count} points with random labels"
    below = (
        f"Below: the number of the {count} points that a student gets right, over all data sets; dashed, {stated:g} of"
        f" {count} (the text's one drawing); dotted, one half."
    )
    lines = numbers(table, values, count, stated)
    text = page(title, heading(table), first, below, " ".join(remarks(table, [])), lines=lines)
    rows: list[dict[str, Any]] = []
    for arm, of in values.items():
        rows += [{"arm": arm, "draw": run.seed, "value": run.value, "id": run.id} for run in of.runs]
    return save(sheet, rows, text, folder, "two_dimensional")


def panels(axes: Any, table: pd.DataFrame, drawn: dict[str, dict[str, np.ndarray]]) -> str:
    """The four panels of the first data set of which both networks are drawn; their words."""
    for number in sorted(table["seed"].dropna().unique()):
        here = table[(table["seed"] == number) & table["id"].isin(drawn)]
        teachers, students = here[here["role"] == "teacher"], here[here["arm"] == "teacher"]
        if len(teachers) and len(students):
            break
    else:
        for each in axes:
            each.set_axis_off()
        return "The decision boundaries are not measured: `kdtune evaluate` the sweep with `plane`."
    teacher, student = (drawn[rows["id"].iloc[0]] for rows in (teachers, students))
    own, labels = teacher["plane/test"], teacher["plane/test_labels"]
    moved, wrong = student["plane/train"], student["plane/train_labels"]
    eps = float(students["dataset.perturbed.eps"].iloc[0])
    right = student["plane/answers"], own, labels
    for each, (title, answers, points, classes) in zip(
        axes,
        (
            ("points, first network", teacher["plane/answers"], own, labels),
            ("adversarial examples", teacher["plane/answers"], moved, wrong),
            ("second network, its points", student["plane/answers"], moved, wrong),
            ("second network, first points", *right),
        ),
        strict=True,
    ):
        plane(each, title, answers, points, classes)
    for x, y in own:
        axes[0].add_patch(Rectangle((x - eps, y - eps), 2 * eps, 2 * eps, fill=False, linewidth=0.3, color=GREY))
    correct = round(float(students[ACCURACY].iloc[0]) * len(own) / 100)
    return (
        f"Above, data set {number:g}: the points and how far an attack may move each (boxes, eps {eps:g}); the"
        f" {len(moved)} that it moved over the first network's boundary, with that network's answers; the second"
        f" network, trained on these alone; and the same with the first points, of which it gets {correct} right."
    )


def plane(axes: Axes, title: str, answers: np.ndarray, points: np.ndarray, classes: np.ndarray) -> None:
    along = np.linspace(*REACH, len(answers))
    axes.contourf(along, along, answers, levels=[-0.5, 0.5, 1.5], colors=COLOURS, alpha=0.18)
    for label, (colour, marker) in enumerate(zip(COLOURS, MARKERS, strict=True)):
        x, y = points[classes == label].T
        axes.plot(x, y, marker, color=colour, markersize=3, markeredgecolor="white", markeredgewidth=0.4)
    axes.set(xlim=SHOWN, ylim=SHOWN, xticks=[0, 1], yticks=[0, 1], aspect="equal", title=title)
    axes.grid(visible=False)


def histograms(axes: Any, values: dict[str, Any], table: pd.DataFrame) -> int:
    """One for each arm, all with the text's number marked; how many points a data set has."""
    images = table.reindex(columns=["fit/images"]).loc[table["role"] == "teacher", "fit/images"].dropna()
    count = int(images.iloc[0]) if len(images) else 32
    stated = paper()["values"]["points/student"]["value"] * count / 100
    for each, (arm, of) in zip(axes, values.items(), strict=True):
        right = [run.value * count / 100 for run in of.runs]
        each.hist(right, np.arange(-0.5, count + 1), color=LOOKS[arm], alpha=0.8)
        each.axvline(stated, color=BLACK, linewidth=0.8, linestyle=(0, (8, 4)))
        each.axvline(count / 2, color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)))
        each.set(title=ARMS[arm], xlabel=f"of {count} points right", xlim=(0, count))
    axes[0].set_ylabel("data sets")
    return count


def numbers(table: pd.DataFrame, values: dict[str, Any], count: int, stated: float) -> list[str]:
    lines = [f"| labels of the moved points | points right, % | data sets | with {stated:g} of {count} or more |"]
    lines.append("|---|---|---|---|")
    for arm, of in values.items():
        if of.n:
            share = 100 * np.mean([run.value * count / 100 >= stated - 1e-6 for run in of.runs])
            lines.append(f"| {ARMS[arm]} | {of.text()} | {of.n}/{of.planned} | {share:.1f} % |")
    answers, null = ({run.seed: run.value for run in values[arm].runs} for arm in ("teacher", "random"))
    if (gain := paired_difference(answers, null)) is not None and gain.low is not None and gain.high is not None:
        half = (gain.high - gain.low) / 2
        lines += [
            "",
            f"Answers over random labels, paired by data set: {gain.mean:+.1f} ± {half:.1f} points (n {gain.n}).",
        ]
    fits = [run.value for run in point(table[table["role"] == "teacher"], ACCURACY).runs]
    if fits:
        whole = 100 * np.mean([value == 100 for value in fits])
        lines += [
            "",
            f"First networks: {mean_interval(fits).mean:.1f} % of their points fit; all of them in {whole:.1f} %.",
        ]
    return lines


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [two_dimensional]))
