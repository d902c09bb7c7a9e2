"""Robust overfitting: is it label noise that calibrated labels remove? (Dong et al. 2022, arXiv 2110.03135)

    python analysis/robust_overfitting.py results/robust_overfitting [--profile laptop] [--output DIR]

robust_overfitting: accuracy under PGD over the epochs, of test images and of training images;
robust_overfitting-levels: best, last and mean weights of every arm;
robust_overfitting-gaps: from best to last, arms compared;
robust_overfitting-calibration: temperature and weight; robust_overfitting-surface: what they were chosen by.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from figure import command, key, save
from forest import Arm, Comparison, forest, levels
from histories import curve, histories_of
from metrics import ACCURACY, GAP, attacked
from outputs import arrays_of
from panels import Panel
from points import Contrast, need
from style import ALONE, FURTHER, HINTON, PAGE, STUDENT, TEACHER, VERMILLION
from words import heading, page, remarks

from kdtune.report.table import TableError

if TYPE_CHECKING:
    import pandas as pd

TEMPERATURE, WEIGHT = "calibrated.temperature", "calibrated.alpha"
NLL = "val/calibration/nll"
ABOVE = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)  # nats
LOOKS = {
    "AT": STUDENT,
    "KD-AT": TEACHER,
    "KD-AT-Auto": HINTON,
    "plain": ALONE,
    "TRADES": FURTHER[0],
    "FGSM": FURTHER[1],
}
AT, KD_AT, AUTO = "arm == 'AT'", "arm == 'KD-AT'", "arm == 'KD-AT-Auto'"


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """With `arm`, of students; and with the gap: accuracy under PGD of the best epoch less that of the last."""
    need(table, "eps", "c", "steps")
    best = unconditional(table)
    last = f"last/{best}"
    gap = table[best] - table[last] if best in table and last in table else float("nan")
    return table.assign(arm=[arm_of(row) for row in table.to_dict("records")], **{GAP: gap})


def unconditional(table: pd.DataFrame) -> str:
    """The accuracy under PGD over all images: among those right when clean, best and last are judged on others."""
    return f"{attacked(table)}/unconditional"


def arm_of(row: dict[Any, Any]) -> str:
    def has(name: str) -> bool:
        value = row.get(name)
        return value is not None and value == value and value != ""

    if row["role"] != "student":
        return ""
    if row["taught"]:
        return "KD-AT-Auto" if has("distillation.calibrated") else "KD-AT"
    if not row["eps"] > 0:
        return "plain"
    return "TRADES" if has("loss.trades.beta") else "FGSM" if row["steps"] == 1 else "AT"


def conditions(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What arms are compared at, as a query and in words: shares of labels drawn anew, or radii of several."""
    students = table[table["role"] == "student"]
    shares = sorted(students["c"].dropna().unique())
    at = [(f"c == {c!r}", f"{100 * c:g} % of the labels drawn anew") for c in map(float, shares)]
    radii = sorted(each for each in students.loc[students["c"] == 0, "eps"].dropna().unique() if each > 0)
    if len(radii) > 1:
        others = [(f"c == 0 and eps == {float(eps)!r}", f"eps {eps:g}, true labels") for eps in radii]
        return [*others, *at[1:]]
    return at


def robust_overfitting(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Lines over epochs: means over seeds with 95 % intervals."""
    table = prepared(table)
    histories, metric = histories_of(table), unconditional(table)
    there = [(query, words) for query, words in conditions(table) if len(drawn_at(table, query))]
    if not there or not any(metric in row for rows in histories.values() for row in rows):
        raise TableError("robust_overfitting: no finished run was watched while it trained")
    shown = {metric: "Accuracy under PGD, test", "train/accuracy": "Accuracy as shown, training"}
    sheet, grid = plt.subplots(
        len(shown), len(there), figsize=(PAGE, 4.4), squeeze=False, sharex=True, sharey="row", layout="constrained"
    )
    rows: list[dict[str, Any]] = []
    for column, (query, words) in enumerate(there):
        grid[0][column].set_title(textwrap.fill(words, 28))
        for line, name in enumerate(shown):
            for arm, ids in drawn_at(table, query).items():
                found = [histories[id] for id in ids if id in histories]
                rows += curve(grid[line][column], found, name, LOOKS[arm], {"arm": arm, "at": words, "metric": name})
        grid[-1][column].set_xlabel("epoch")
    for line, words in enumerate(shown.values()):
        grid[line][0].set_ylabel(textwrap.fill(words, 20) + ", %")
    arms = [arm for arm in LOOKS if (table["arm"] == arm).any()]
    handles = [key(arm, LOOKS[arm], mark=False) for arm in arms]
    sheet.legend(handles=handles, loc="outside lower center", ncols=len(arms), frameon=False)
    about = (
        "Means over seeds, bands: 95 % Student-t intervals. Above: of all test images, watched while runs train; it"
        " chooses nothing. Below: of training images as the network was shown them, against the labels it was given."
        " Robust overfitting: the upper line falls while the lower one rises."
    )
    paragraphs = [heading(table), about, " ".join(remarks(table, [metric]))]
    text = page("Robust overfitting over the epochs", *paragraphs)
    return save(sheet, rows, text, folder, "robust_overfitting")


def drawn_at(table: pd.DataFrame, query: str) -> dict[str, list[str]]:
    """Ids of the finished students by arm."""
    here = table[(table["state"] == "done") & (table["role"] == "student")].query(query)
    return {arm: [*here.loc[here["arm"] == arm, "id"]] for arm in LOOKS if (here["arm"] == arm).any()}


def rows_of(table: pd.DataFrame) -> list[Arm]:
    return [
        Arm(words[0].upper() + words[1:], arm, f"({query}) and arm == '{arm}'")
        for query, words in conditions(table)
        for arm in LOOKS
        if len(table.query(f"({query}) and arm == '{arm}'"))
    ]


def best_and_last(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    metric = unconditional(table)
    named = {metric: "best epoch", f"last/{metric}": "last epoch", f"average/{metric}": "mean weights"}
    panels = [Panel(name, f"Under PGD, {words}") for name, words in named.items() if name in table]
    panels += [Panel(GAP, ""), Panel(ACCURACY, "")]
    about = (
        "Of all test images. Best: the epoch with the highest accuracy under PGD on held-out images. Mean weights: over"
        " the second half of the run."
    )
    heading_ = "Robust overfitting: best, last, mean"
    return levels(table, "robust_overfitting-levels", heading_, rows_of(table), panels, about, folder)


def gaps(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    by = ("c", "eps")
    asked = [
        Comparison("AT, over KD-AT", Contrast(AT, KD_AT, by, by)),
        Comparison("KD-AT, over KD-AT-Auto", Contrast(KD_AT, AUTO, by, by)),
        Comparison("AT, over KD-AT-Auto", Contrast(AT, AUTO, by, by)),
    ]
    metric = unconditional(table)
    about = (
        "The text: the gap is largest for AT and near 0 for KD-AT-Auto, mostly because the last epoch is better (there"
        " the difference is below 0), and the best one hardly."
    )
    metrics = [GAP, f"last/{metric}", metric]
    return forest(table, "robust_overfitting-gaps", "From best to last: arms compared", asked, metrics, about, folder)


def calibration(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    need(table, TEMPERATURE, WEIGHT)
    arms = [
        Arm("By share of labels drawn anew", f"{100 * c:g} %", f"{AUTO} and c == {float(c)!r}")
        for c in sorted(table.loc[table["arm"] == "KD-AT-Auto", "c"].unique())
    ]
    about = (
        "What KD-AT-Auto softens its teacher's answers by, and how much they weigh beside the label, as the held-out"
        " images chose. The text: T above 1, weight below 1; 1.47 and 0.8 on CIFAR-10. At 0.2, 16 and 0.01, 1 the"
        " searched grid ends."
    )
    panels = [Panel(TEMPERATURE, ""), Panel(WEIGHT, "")]
    heading_ = "Calibrated labels: temperature and weight"
    return levels(table, "robust_overfitting-calibration", heading_, arms, panels, about, folder)


def surface(table: pd.DataFrame, folder: Path) -> list[Path]:
    """The likelihood over the searched grid, of the teacher of the first seed, at every share of labels drawn anew."""
    table = prepared(table)
    students = table[(table["arm"] == "KD-AT-Auto") & (table["state"] == "done")].sort_values(["c", "seed"])
    arrays = arrays_of(table, NLL)
    first = [row for row in students.drop_duplicates("c").to_dict("records") if row["teacher.id"] in arrays]
    if not first:
        raise TableError("robust_overfitting-surface: no teacher of a finished student has a calibration")
    sheet, grid = plt.subplots(1, len(first), figsize=(PAGE, 2.9), squeeze=False, sharey=True, layout="constrained")
    rows: list[dict[str, Any]] = []
    for axes, row in zip(grid[0], first, strict=True):
        found = arrays[row["teacher.id"]]
        temperatures, weights = found["val/calibration/temperatures"], found["val/calibration/weights"]
        nll = np.where(found["val/calibration/allowed"], found[NLL], np.nan)
        least = np.nanmin(nll)
        drawn = axes.contourf(weights, temperatures, nll - least, levels=ABOVE, cmap="cividis_r", extend="max")
        axes.plot(row[WEIGHT], row[TEMPERATURE], "*", color=VERMILLION, markersize=9, markeredgecolor="white")
        axes.set(yscale="log", title=f"{100 * row['c']:g} % of the labels drawn anew", xlabel="weight of the teacher")
        axes.grid(visible=False)
        place = {"c": row["c"], "seed": row["seed"], "teacher": row["teacher.id"], "nll": least}
        rows.append(place | {"temperature": row[TEMPERATURE], "weight": row[WEIGHT]})
    grid[0][0].set_ylabel("temperature")
    sheet.colorbar(drawn, ax=[*grid[0]], label="nats above the least")
    about = (
        "Mean negative log-likelihood of held-out labels on adversarial images, over temperature and weight, of the"
        " teacher of the first seed; the star is the pair that its student learned with. White: pairs that too many"
        " training images would lose their label by."
    )
    paragraphs = [heading(table), about, " ".join(remarks(table, []))]
    text = page("What calibrates the teacher", *paragraphs)
    return save(sheet, rows, text, folder, "robust_overfitting-surface")


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [robust_overfitting, best_and_last, gaps, calibration, surface]))
