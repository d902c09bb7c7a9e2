"""Double descent over epochs: at a constant rate, does robust error fall, rise and fall again? (Dong et al. 2022)

    python analysis/double_descent.py results/double_descent [--profile laptop] [--output DIR]

double_descent: accuracy over the epochs, under PGD on test and held-out images, and as shown on training images;
double_descent-moves: how far it fell from its first peak, and rose again.

The rule of claim D3, fixed before any run. It looks at accuracy under PGD of all test images, right or wrong when
clean, which is watched while runs train and chooses nothing.
- Smoothed: at every watched epoch e the mean over those from e / 1.2 to 1.2 e, as wide at any place of a log axis; at
  the end that is the last sixth of the run.
- Peak and trough: the two epochs, in this order, between which the smoothed curve falls most. For each seed they are
  those of the mean curve of the *other* seeds of its setting: a trough that is looked for in a curve is too low by that
  curve's own fluctuation, and every curve would rise from it. So one seed alone has no value.
- `robust/fall`: smoothed accuracy of that seed at the peak less that at the trough. `robust/rise`: at the end less at
  the trough. `robust/double_descent`: the lesser of both, for a rise alone may be the first one. In points.
D3 needs an interval over seeds above 0 for the fall and for the lesser of both, in any setting (share of wrong labels).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from figure import command, key, save
from forest import Arm, levels
from histories import curve, histories_of
from metrics import DOUBLE_DESCENT, FALL, RISE
from panels import Panel
from points import need, refuse_mixtures
from robust_overfitting import unconditional
from style import GREY, HINTON, PAGE, STUDENT, TEACHER
from words import heading, page, remarks

from kdtune.report.table import TableError, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Sheet

WIDTH = 1.2  # a ratio of epochs
Curve = Mapping[int, float]  # percent, by epoch
Histories = Mapping[str, list[dict[str, Any]]]  # by id


def smoothed(watched: Curve) -> dict[int, float]:
    """At every epoch the mean over those from epoch / WIDTH to epoch * WIDTH."""
    return {
        at: fmean(value for epoch, value in watched.items() if epoch * WIDTH >= at and epoch <= at * WIDTH)
        for at in sorted(watched)
    }


def turns(curve: Curve) -> tuple[int, int]:
    """Peak and trough: the two epochs, in this order, between which a curve falls most, or rises least."""
    epochs = sorted(curve)
    pairs = [(peak, trough) for at, peak in enumerate(epochs) for trough in epochs[at + 1 :]]
    return max(pairs, key=lambda pair: curve[pair[0]] - curve[pair[1]])


def mean_curve(curves: Sequence[Curve]) -> dict[int, float]:
    """At the epochs that all have."""
    common = set.intersection(*(set(each) for each in curves)) if curves else set()
    return {epoch: fmean(each[epoch] for each in curves) for epoch in sorted(common)}


def moves(curves: Mapping[str, Curve]) -> dict[str, dict[str, float]]:
    """Fall, rise and the lesser of both, of runs that differ in their seed alone: watched curves in, by id.

    Empty for fewer than two runs, and where they have not two epochs in common.
    """
    smooth = {id: smoothed(each) for id, each in curves.items()}
    found = {}
    for id, own in smooth.items():
        others = mean_curve([each for other, each in smooth.items() if other != id])
        common = {epoch: value for epoch, value in others.items() if epoch in own}
        if len(common) < 2:
            continue
        peak, trough = turns(common)
        fall, rise = own[peak] - own[trough], own[max(common)] - own[trough]
        found[id] = {FALL: fall, RISE: rise, DOUBLE_DESCENT: min(fall, rise)}
    return found


def turns_of(curves: Mapping[str, Curve]) -> tuple[int, int]:
    """Of the mean of several smoothed curves."""
    return turns(mean_curve([smoothed(each) for each in curves.values()]))


def watched(histories: Histories, name: str) -> dict[str, dict[int, float]]:
    """The curves of one metric, by id, of the runs that were watched by it, twice or more often."""
    found = {id: {int(row["epoch"]): float(row[name]) for row in rows if name in row} for id, rows in histories.items()}
    return {id: each for id, each in found.items() if len(each) > 1}


def settings(table: pd.DataFrame) -> list[tuple[Any, list[str]]]:
    """Ids of the finished students by setting, whatever the grid varies."""
    done = table[(table["state"] == "done") & (table["role"] == "student")].drop_duplicates("id")
    return [(place, [*rows["id"]]) for place, rows in done.groupby(axes(table), dropna=False)]


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """With `robust/fall`, `robust/rise` and `robust/double_descent`, in points; not a number where there is none."""
    need(table, "c")
    curves = watched(histories_of(table), unconditional(table))
    found: dict[str, dict[str, float]] = {}
    for _, ids in settings(table):
        found |= moves({id: curves[id] for id in ids if id in curves})
    columns = {
        name: [found.get(id, {}).get(name, float("nan")) for id in table["id"]] for name in (FALL, RISE, DOUBLE_DESCENT)
    }
    return table.assign(**columns)


def arms(table: pd.DataFrame) -> list[Arm]:
    shares = sorted(map(float, table.loc[table["role"] == "student", "c"].dropna().unique()))
    return [Arm(f"{100 * c:g} % of the labels drawn anew", "", f"role == 'student' and c == {c!r}") for c in shares]


def double_descent(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Lines over epochs on a log axis: means over seeds with 95 % intervals."""
    need(table, "c")
    histories, robust = histories_of(table), unconditional(table)
    there: dict[Arm, Histories] = {}
    for arm in arms(table):
        runs = table.query(arm.runs)
        refuse_mixtures(runs)
        found = {id: histories[id] for id in runs["id"].unique() if id in histories}
        if watched(found, robust):
            there[arm] = found
    if not there:
        raise TableError("double_descent: no finished run was watched twice while it trained")
    sheet, rows = drawn(there, robust)
    about = (
        "Means over seeds, bands: 95 % Student-t intervals; as watched, not smoothed. Above: of all images; it chooses"
        " nothing, and labels of images held out are as wrong as those trained on. Below: against the labels that were"
        " given. Dotted: first peak and trough of the mean over seeds, smoothed. Double descent: the line of test"
        " images falls after its first peak, and rises again from the trough to the end."
    )
    paragraphs = [heading(table), about, " ".join(remarks(table, [robust]))]
    told = ["| setting | first peak, epoch | trough, epoch |", "|---|---|---|"]
    for arm, each in there.items():
        peak, trough = turns_of(watched(each, robust))
        told.append(f"| {arm.question} | {peak} | {trough} |")
    return save(sheet, rows, page("Double descent over epochs", *paragraphs, lines=told), folder, "double_descent")


def drawn(there: Mapping[Arm, Histories], robust: str) -> tuple[Sheet, list[dict[str, Any]]]:
    """The sheet, and what is on it as rows of the CSV."""
    lines = {
        robust: ("under PGD, test images", STUDENT, 0),
        f"val/{robust}": ("under PGD, held out", TEACHER, 0),
        "train/accuracy": ("as shown, training images", HINTON, 1),
    }
    sheet, grid = plt.subplots(
        2, len(there), figsize=(PAGE, 4.4), squeeze=False, sharex=True, sharey="row", layout="constrained"
    )
    rows: list[dict[str, Any]] = []
    for column, (arm, histories) in enumerate(there.items()):
        for name, (_, look, line) in lines.items():
            place = {"at": arm.question, "metric": name}
            rows += curve(grid[line][column], [*histories.values()], name, look, place)
        for axes_ in grid[:, column]:
            for epoch in turns_of(watched(histories, robust)):
                axes_.axvline(epoch, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        grid[0][column].set_title(arm.question)
        grid[1][column].set(xscale="log", xlabel="epoch")
    grid[0][0].set_ylabel("Accuracy under PGD, %")
    grid[1][0].set_ylabel("Training accuracy, %")
    handles = [key(words, look, mark=False) for words, look, _ in lines.values()]
    sheet.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return sheet, rows


def how_far(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    about = (
        "Of all test images under PGD, smoothed over a ratio of epochs of 1.2 to either side. Fall: from the first peak"
        " to the trough; rise: from there to the end; both at epochs that the other seeds say, so that neither is above"
        " 0 because it was looked for. Double descent: the lesser of both."
    )
    panels = [Panel(FALL, ""), Panel(RISE, ""), Panel(DOUBLE_DESCENT, ""), Panel(unconditional(table), "")]
    title = "How far robust accuracy fell, and rose again"
    return levels(table, "double_descent-moves", title, arms(table), panels, about, folder, {"no change": 0.0})


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [double_descent, how_far]))
