"""How sure the networks of a sweep are, from the softmax values that are stored with every evaluation.

`output/confidence`, the mean of the largest softmax value of the test images, in percent; `output/entropy`, the mean
entropy, in nats. And figure 8: how all softmax values are spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from figure import key, save
from points import LONE, select
from style import ALONE, COLUMN, FURTHER, HINTON, LINES, TEACHER, Look
from words import heading, page, remarks

from kdtune.report.mirror import results_of
from kdtune.report.table import TableError, plan_of
from kdtune.store.done import DamagedError
from kdtune.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

SOFTMAX = "test/softmax"
CONFIDENCE, ENTROPY = "output/confidence", "output/entropy"
BINS = np.linspace(0, 1, 21)


def softmax_of(table: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Each finished run with its softmax values, float [N, K], where they are there and whole."""
    place = Path(table.attrs["folder"])
    store, hashes = Store(results_of(place)), [*plan_of(place)["evaluators"]]
    for id in table.loc[table["state"] == "done", "id"].unique():
        for hash in hashes:
            if "test/accuracy" not in (store.evaluation(id, hash) or {}):
                continue
            try:
                found = store.evaluation_arrays(id, hash)
            except DamagedError:  # said by the sweep's own command, which measures it again
                continue
            if SOFTMAX in found:
                yield id, found[SOFTMAX]
                break


def arrays_of(table: pd.DataFrame, name: str) -> dict[str, dict[str, np.ndarray]]:
    """By id, of the finished runs, all arrays of the evaluator that keeps one of this name."""
    found = {}
    place = Path(table.attrs["folder"])
    store = Store(results_of(place))
    with suppress(TableError):
        for hash in plan_of(place)["evaluators"]:
            for id in table.loc[table["state"] == "done", "id"].unique():
                with suppress(DamagedError):
                    arrays = store.evaluation_arrays(id, hash)
                    if arrays and name not in arrays:
                        break  # nor do other runs; those that nobody taught may have none at all
                    if arrays:
                        found[id] = arrays
    return found


def with_outputs(table: pd.DataFrame) -> pd.DataFrame:
    """With the two metrics, empty where the values are missing."""
    confidence, entropy = {}, {}
    with suppress(TableError):  # figure8 says what lacks
        for id, softmax in softmax_of(table):
            confidence[id] = 100 * float(softmax.max(1).mean())
            entropy[id] = -float((softmax * np.log(np.maximum(softmax, 1e-12))).sum(1).mean())
    return table.assign(**{CONFIDENCE: table["id"].map(confidence), ENTROPY: table["id"].map(entropy)})


def shares(values: list[np.ndarray]) -> np.ndarray:
    """Of each bin of BINS the share of softmax values in it, in percent, the mean over runs."""
    counts = [np.histogram(each, BINS)[0] / each.size for each in values]
    return np.asarray(100 * np.mean(counts, axis=0))


def groups(table: pd.DataFrame) -> dict[str, tuple[str, Look]]:
    """What figure 8 compares: teacher, student alone, Hinton, and MC-TS at every rate. Queries by label."""
    found = {
        "teacher": ("role == 'teacher' and r_teacher == 0", TEACHER),
        "student alone": (LONE, ALONE),
        "Hinton": ("taught and r_teacher == 0 and r_student == 0", HINTON),
    }
    both = select(table, "taught and r_student == r_teacher and r_student > 0")
    looks = (LINES[0], *FURTHER)
    if both["r_student"].nunique() > len(looks):
        raise TableError(f"figure8: more rates than the {len(looks)} lines that can be told apart")
    for rate, look in zip(sorted(both["r_student"].unique()), looks, strict=False):
        found[f"MC-TS, r {rate:g}"] = (f"taught and r_student == {rate} and r_teacher == {rate}", look)
    return found


def figure8(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Histogram of all softmax values of the test images; one line for each group, means over its runs."""
    try:
        softmax = dict(softmax_of(table))
    except TableError as error:
        raise TableError(f"figure8: {error}") from error
    drawn = {}
    for label, (query, look) in groups(table).items():
        if values := [softmax[id] for id in select(table, query)["id"].unique() if id in softmax]:
            drawn[label] = (shares(values), look, len(values))
    if not drawn:
        raise TableError("figure8: no finished run has softmax values")
    sheet, axes = plt.subplots(figsize=(COLUMN, 3.1), layout="constrained")
    middles = (BINS[1:] + BINS[:-1]) / 2
    for share, look, _ in drawn.values():
        axes.plot(middles, share, linestyle=look.dash, **look.marks() | {"markersize": 3, "markevery": 3})
    axes.set_yscale("log")
    axes.set_xlabel("softmax value")
    axes.set_ylabel("% of all values, in bins of 0.05")
    handles = [key(label, look) for label, (_, look, _) in drawn.items()]
    sheet.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    counts = ", ".join(f"{label} (n {n})" for label, (_, _, n) in drawn.items())
    about = (
        f"All values of all classes, means over runs: {counts}. The paper: baselines pile up at 0 and 1, MC-TS is"
        " smoother and less sure. How sure, with intervals: figure8-sureness."
    )
    words = page("Softmax values of the test images", heading(table), about, " ".join(remarks(table, [])))
    rows: list[dict[str, Any]] = [
        {"series": label, "from": low, "to": high, "share": each, "n": n}
        for label, (share, _, n) in drawn.items()
        for low, high, each in zip(BINS, BINS[1:], share, strict=False)
    ]
    return save(sheet, rows, words, folder, "figure8")
