"""Is a student robust where its nodes have become its teacher's? (Yang et al. 2021, arXiv 2102.13170)

    python analysis/specialization.py results/specialization [--profile laptop] [--output DIR]

specialization: how each node of the teacher is found, over the epochs;
specialization-arms: correlations, cosines and agreement under attack, every way of training;
specialization-robust: three measures of specialisation against robustness by two rules, all six rank correlations;
specialization-noise: noise off the subspace, what it does there and what to robustness.

Two rules say what is right at an input that an attack has moved: the answer that the oracle gives *there*, or its
answer to the input as it was (`label`). Three measures of specialisation are looked at: best correlation over the data,
over inputs moved off the subspace, and the cosine of matched rows off it. All six pairs are printed wherever one is:
they were fixed before any run.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from figure import command, key, save
from forest import Arm, levels
from histories import curve, histories_of
from matplotlib.colors import to_hex
from metrics import COS_OUT, IN_OVER_OUT, LABEL, MOVED, ORACLE, OUT_GAIN, RANKS, SPECIALIZED, title
from panels import Panel
from points import need, point, refuse_mixtures, select
from style import FURTHER, GREY, HINTON, PAGE, STUDENT, TEACHER, Look
from words import heading, page, remarks

from kdtune.report.table import TableError
from kdtune.statistics import rank_correlation, resampled_rank_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COS_IN = "specialization/cos_in"
RULES = {ORACLE: "the oracle's answer there", LABEL: "its answer before"}
MEASURES = (SPECIALIZED, MOVED, COS_OUT)
ARMS = {  # all but `usual` begin with small weights
    "standard": ("standard", STUDENT),
    "usual": ("standard, usual initial weights", HINTON),
    "noise": ("noise off the subspace, oracle asked", FURTHER[0]),
    "kept": ("adversarial, answer kept", TEACHER),
    "oracle": ("adversarial, oracle asked", FURTHER[1]),
    "labels": ("cross-entropy of its classes", FURTHER[5]),
    "ccat": ("confidence-calibrated (CCAT)", FURTHER[2]),
    "robust": ("robust set", FURTHER[3]),
}


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """With `arm`, of students; how much more agreement an attack within the subspace leaves than one off it; how far
    cosines off the subspace have come from where they began; and for each of the six pairs, at one run of each seed,
    the rank correlation over that seed's runs of low rank."""
    need(table, "eps", "sigma", "climbs", "init", "rank", "loss")
    records = table.to_dict("records")
    low = [low_rank(row, full=float(table["rank"].max())) for row in records]
    table = table.assign(arm=[arm_of(row) for row in records], low=low)
    table["teaching"] = table["teacher.strength"] if "teacher.strength" in table else float("nan")
    differences = {IN_OVER_OUT: (f"{ORACLE}@in", f"{ORACLE}@out"), OUT_GAIN: (COS_OUT, f"{COS_OUT}_initial")}
    for name, (one, other) in differences.items():
        table[name] = table[one] - table[other] if one in table and other in table else float("nan")
    return ranked(table)


def arm_of(row: Mapping[Any, Any]) -> str:
    if row["role"] != "student":
        return ""
    if str(row.get("dataset.robust.steps", "nan")) not in ("nan", "None"):
        return "robust"
    if str(row["loss"]).startswith("ce"):
        return "ccat" if row["eps"] > 0 else "labels"
    if row["eps"] > 0:
        return "oracle" if row["climbs"] == "oracle" else "kept"
    return "noise" if row["sigma"] > 0 else "usual" if row["init"] > 0.01 else "standard"


def low_rank(row: Mapping[Any, Any], full: float) -> bool:
    """Whether something lies off the subspace of a student's data; of one that is not measured, by the largest rank."""
    if row["role"] != "student":
        return False
    if row["state"] != "done":
        return bool(row["rank"] < full)
    value = row.get("specialization/norm_out")
    return value is not None and value == value


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The six columns, at each seed's first student of low rank, which is `ranked`; empty elsewhere."""
    found: dict[str, dict[Any, float]] = {name: {} for name in RANKS}
    groups = [runs for _, runs in table[table["low"]].drop_duplicates("id").groupby("seed")]
    for runs in groups:
        for name, (measure, rule) in RANKS.items():
            if (value := rank_correlation(pairs_of(runs, measure, rule))) is not None:
                found[name][runs.index[0]] = value
    columns: dict[str, Any] = {name: pd.Series(values, dtype=float) for name, values in found.items()}
    return table.assign(ranked=table.index.isin([runs.index[0] for runs in groups]), **columns)


def pairs_of(runs: pd.DataFrame, measure: str, rule: str) -> list[tuple[float, float]]:
    if measure not in runs or rule not in runs:
        return []
    there = runs[[measure, rule]].dropna()
    return [(float(x), float(y)) for x, y in there.itertuples(index=False)]


def nodes(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Best correlation of each of the teacher's nodes over the epochs, the strongest first; means over seeds."""
    table = prepared(table)
    histories = histories_of(table)
    there = {}
    standard = table[table["arm"] == "standard"]
    for rank, runs in standard.groupby("rank", dropna=False):
        runs = runs[(runs["width"] == runs["width"].max()) & (runs["teaching"] == 1.0)]
        refuse_mixtures(runs)
        if found := [histories[id] for id in runs["id"].unique() if id in histories]:
            there[f"rank {rank:g}, width {runs['width'].max():g}"] = found
    names = sorted({name for of in there.values() for rows in of for row in rows for name in row if "/node" in name})
    if not names:
        raise TableError("specialization: no student's nodes were watched while it trained")
    sheet, grid = plt.subplots(1, len(there), figsize=(PAGE, 2.6), squeeze=False, sharey=True, layout="constrained")
    rows: list[dict[str, Any]] = []
    shades = plt.get_cmap("cividis")(np.linspace(0, 0.9, len(names)))  # told apart in grey, too
    looks = [Look(to_hex(shade), "", ("-", (0, (3, 1)))[number % 2]) for number, shade in enumerate(shades)]
    for axes, (words, found) in zip(grid[0], there.items(), strict=True):
        for number, (name, look) in enumerate(zip(names, looks, strict=True)):
            rows += curve(axes, found, name, look, {"at": words, "node": number + 1}, band=False)
        axes.set(xlabel="epoch", title=words, ylim=(-0.02, 1.04))
    grid[0][0].set_ylabel("Best correlation")
    handles = [key(f"node {number + 1}", look, mark=False) for number, look in enumerate(looks)]
    sheet.legend(handles=handles, loc="outside right center", frameon=False)
    about = (
        "For each hidden node of the teacher the largest correlation with a node of the student over the test inputs,"
        " standard training. Means over seeds; their 95 % Student-t intervals are in the table beside. Node 1 is the"
        " strongest: the output weights of node i are divided by i."
    )
    text = page("How a student's nodes find their teacher's", *paragraphs(table, about, []))
    return save(sheet, rows, text, folder, "specialization")


def arms(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    kinds = [each for each in ARMS if (table["arm"] == each).any()]
    rows = []
    for arm in kinds:
        for words, query in settings(table, arm):
            rows.append(Arm(ARMS[arm][0], words, query))
    full = table[(table["arm"] == "standard") & ~table["low"] & (table["state"] == "done")]
    if len(full):
        query = f"arm == 'standard' and not low and width == {float(full['width'].max())!r} and teaching == 1.0"
        rows.insert(1, Arm("standard, full rank", "", query))
    names = (SPECIALIZED, COS_IN, COS_OUT, f"{ORACLE}@in", f"{ORACLE}@out", ORACLE, LABEL)
    about = (
        "The widest students of a teacher of strength 1. In, out: cosine of matched rows within the subspace and off"
        " it, and agreement with the oracle under an attack that stays there. Under attack an answer must be right at"
        " every end of attacks on three losses: squared distance, divergence, and the cross-entropy of the old answer."
    )
    panels = [Panel(name, title(name)) for name in names]
    return levels(table, "specialization-arms", "Every way of training", rows, panels, about, folder)


def settings(table: pd.DataFrame, arm: str) -> list[tuple[str, str]]:
    """What an arm was trained at, in words and as a query: radii, deviations."""
    runs = table[(table["arm"] == arm) & table["low"] & (table["state"] == "done")]
    base = f"arm == '{arm}' and {of_one_size(table)}"
    for name, words in (("sigma", "deviation"), ("eps", "radius")):
        values = sorted(runs.loc[runs[name] > 0, name].unique())
        if len(values) > 1 or arm in ("noise",):
            return [(f"{words} {value:g}", f"{base} and {name} == {float(value)!r}") for value in values]
    return [("", base)]


def of_one_size(table: pd.DataFrame) -> str:
    """The widest students of low rank of a teacher of strength 1, as a query."""
    width = float(table.loc[table["low"], "width"].max())
    return f"low and width == {width!r} and teaching == 1.0"


def robust(table: pd.DataFrame, folder: Path) -> list[Path]:
    """All runs of low rank."""
    table = prepared(table)
    return against(table, table[table["low"]], folder, "specialization-robust")


def against(
    table: pd.DataFrame, runs: pd.DataFrame, folder: Path, name: str, called: Mapping[str, str] | None = None
) -> list[Path]:
    """A panel a pair: a measure a column, a rule a row; every run is a mark. `called`: other words for arms."""
    runs = runs[runs["state"] == "done"].drop_duplicates("id")
    measures = [each for each in MEASURES if any(pairs_of(runs, each, rule) for rule in RULES)]
    if not measures:
        raise TableError(f"{name}: no student is measured by both")
    size = {"figsize": (PAGE, 4.6), "sharex": "col", "sharey": "row", "squeeze": False, "layout": "constrained"}
    sheet, grid = plt.subplots(2, len(measures), **size)
    rows: list[dict[str, Any]] = []
    told = ["| measure | rule | Spearman | 95 % interval | runs | seeds |", "|---|---|---|---|---|---|"]
    for line, rule in enumerate(RULES):
        for column, measure in enumerate(measures):
            axes = grid[line][column]
            rows += scattered(axes, runs, measure, rule)
            found = {seed: pairs_of(of, measure, rule) for seed, of in runs.groupby("seed")}
            whole = rank_correlation([pair for of in found.values() for pair in of])
            low, high = resampled_rank_correlation(found) or (None, None)
            interval = "none: one seed" if low is None else f"{low:.2f} to {high:.2f}"
            axes.set_title(f"Spearman {whole:.2f} ({interval})" if whole is not None else "Spearman: none", fontsize=7)
            count = sum(map(len, found.values()))
            value = "-" if whole is None else f"{whole:.2f}"
            told.append(f"| {title(measure)} | {RULES[rule]} | {value} | {interval} | {count} | {len(found)} |")
            if line == 1:
                axes.set_xlabel(title(measure))
        grid[line][0].set_ylabel(textwrap.fill(f"Right under attack by {RULES[rule]}, %", 26))
    present = [arm for arm in ARMS if (runs["arm"] == arm).any()]
    handles = [key((called or {}).get(arm, ARMS[arm][0]), ARMS[arm][1], line=False) for arm in present]
    sheet.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    about = (
        "Every run, all ways of training (of low rank where inputs are drawn). Above, an answer under attack is right"
        " if it is the oracle's there; below, if it is the one that the oracle gave before. Spearman over all these"
        " runs; intervals by bootstrap over seeds (percentile, 95 %): with fewer than ten seeds they are too narrow."
        " The claim of the text (its size fixed here beforehand: above 0.6, interval above 0) is judged for all pairs."
    )
    text = page("Specialisation against robustness", *paragraphs(table, about, [ORACLE]))
    return save(sheet, rows, f"{text}\n\n" + "\n".join(told) + "\n", folder, name)


def scattered(axes: Axes, runs: pd.DataFrame, measure: str, rule: str) -> list[dict[str, Any]]:
    rows = []
    for arm, (words, look) in ARMS.items():
        of = runs[runs["arm"] == arm]
        if measure not in of or rule not in of or not len(of):
            continue
        axes.plot(of[measure], of[rule], linestyle="none", **look.marks())
        for row in of.to_dict("records"):
            place = {"measure": measure, "rule": rule, "arm": words, "id": row["id"], "seed": row["seed"]}
            rows.append(place | {"x": row[measure], "y": row[rule]})
    return rows


def noise(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Over the deviation of noise off the subspace, 0 being standard training."""
    table = prepared(table)
    runs = select(table, f"{of_one_size(table)} and arm in ['standard', 'noise']")
    refuse_mixtures(runs, "sigma")
    at = sorted(map(float, runs["sigma"].dropna().unique()))
    if len(at) < 2 or not (runs["state"] == "done").any():
        raise TableError("specialization-noise: no student of noise off the subspace beside standard training")
    shown = {COS_OUT: STUDENT, f"{ORACLE}@out": FURTHER[0], f"{ORACLE}@in": FURTHER[1], ORACLE: TEACHER, LABEL: HINTON}
    sheet, grid = plt.subplots(1, 2, figsize=(PAGE, 3.1), layout="constrained")
    rows: list[dict[str, Any]] = []
    for name, look in shown.items():
        axes = grid[0 if name == COS_OUT else 1]
        found = {value: point(runs[runs["sigma"] == value], name) for value in at}
        axes.plot(range(len(at)), [each.mean for each in found.values()], color=look.colour, linestyle=look.dash)
        for place, (value, each) in enumerate(found.items()):
            if each.interval:
                reach = [[each.mean - each.interval[0]], [each.interval[1] - each.mean]]
                axes.errorbar([place], [each.mean], reach, **look.marks(), linestyle="none", elinewidth=0.9)
            rows += each.records({"metric": name, "sigma": value})
    for axes in grid:
        axes.set_xticks(range(len(at)), [f"{value:g}" for value in at])
        axes.set_xlabel("Deviation of the noise off the subspace")
    grid[0].set_ylabel("Cosine of matched rows off the subspace")
    grid[1].set_ylabel("Right under attack, %")
    grid[0].axhline(0, color=GREY, linewidth=0.8)
    handles = [key(title(name), look) for name, look in shown.items() if name != COS_OUT]
    sheet.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False)
    about = (
        "Soft Randomization's noise, here off the subspace alone, the oracle asked about what the student is shown:"
        " what it does to agreement there, and to robustness by both rules. Means over seeds with 95 % Student-t"
        " intervals."
    )
    text = page("Noise off the subspace", *paragraphs(table, about, [ORACLE]))
    return save(sheet, rows, text, folder, "specialization-noise")


def paragraphs(table: pd.DataFrame, about: str, metrics: list[str]) -> list[str]:
    return [heading(table), about, " ".join(remarks(table, metrics))]


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [nodes, arms, robust, noise]))
