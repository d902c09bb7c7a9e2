"""Specialisation and robustness of students of an image network (Yang et al. 2021, arXiv 2102.13170).

    python analysis/specialization_images.py results/specialization_images [--profile laptop] [--output DIR]

specialization_images: correlations with the teacher's features, agreement with it under attack, every way of training;
specialization_images-robust: specialisation against robustness by two rules, as analysis/specialization.py has it.

The teacher is a network that was trained: no oracle, for its answer at a moved image may be wrong. Both rules stand
here, too. Features are pooled over positions, so that angles of weights are not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figure import command
from forest import Arm, levels
from metrics import AGREEMENT, MOVED, ORACLE, SPECIALIZED, title
from panels import Panel
from points import need
from specialization import ARMS, against

if TYPE_CHECKING:
    import pandas as pd

LINF = f"{ORACLE}@linf"
CALLED = {"labels": "the teacher's labels alone", "noise": "noise on the images"}


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """With `arm`, of students."""
    need(table, "eps", "sigma", "climbs", "width")
    return table.assign(arm=[arm_of(row) for row in table.to_dict("records")])


def arm_of(row: Mapping[Any, Any]) -> str:
    if row["role"] != "student":
        return ""
    if str(row.get("dataset.robust.steps", "nan")) not in ("nan", "None"):
        return "robust"
    if row["eps"] > 0:
        return "ccat" if row["climbs"] == "confidence" else "kept"
    return "noise" if row["sigma"] > 0 else "labels"


def arms(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    rows = []
    for arm in ARMS:
        of = table[table["arm"] == arm]
        for width in sorted(map(int, of["width"].unique())):
            for name, what in (("sigma", "deviation"), ("eps", "radius")):
                for value in sorted(of.loc[of[name] > 0, name].unique()):
                    query = f"arm == '{arm}' and width == {width!r} and {name} == {float(value)!r}"
                    rows.append(Arm(CALLED.get(arm, ARMS[arm][0]), f"width {width}, {what} {value:g}", query))
            if not (of["sigma"] > 0).any() and not (of["eps"] > 0).any():
                query = f"arm == '{arm}' and width == {width!r}"
                rows.append(Arm(CALLED.get(arm, ARMS[arm][0]), f"width {width}", query))
    names = (SPECIALIZED, MOVED, AGREEMENT, f"{ORACLE}@in", f"{ORACLE}@out", LINF, f"{LINF}/label")
    about = (
        "Students of the teacher's labels. In, out: attacks in l2 within the span of the first principal directions of"
        " the test images, and off it, which may leave the range of pixels; the last two in l-infinity, by the"
        " teacher's answer there and by its answer before."
    )
    panels = [Panel(name, title(name)) for name in names]
    return levels(table, "specialization_images", "Every way of training", rows, panels, about, folder)


def robust(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    return against(table, table[table["arm"] != ""], folder, "specialization_images-robust", CALLED)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [arms, robust]))
