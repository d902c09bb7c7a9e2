"""Ambiguities: which choices that the paper leaves open would change what it found? (papers A.7)

    python analysis/ambiguities.py results/ambiguities [--profile laptop] [--output DIR]

ambiguities: each choice alone, against the default and otherwise equal runs, for the methods that it concerns.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from figure import command
from forest import Comparison, forest, plain
from metrics import ACCURACY, MCA, attacked, shifted
from points import Contrast, select

from kdtune.report.table import TableError, axes

if TYPE_CHECKING:
    import pandas as pd

# Row of A.7, the axis, the question. A choice is any value of the axis but its most frequent one.
CHOICES = {
    "bn": "5: the fickle teacher's BatchNorm in training mode",
    "momentum": "6: momentum as printed",
    "third": "7: the third step at epoch 150 of 200",
    "weight_decay": "8: another weight decay",
    "nesterov": "8: Nesterov's momentum",
    "augmentation": "9: another augmentation",
    "corrupted_to": "11: labels corrupted to the wrong classes only",
    "redrawn_to": "12: redrawn over all classes",
    "divergence": "14: KL as printed, of student and teacher",
    "clamp": "16: noisy images clamped to [0, 1]",
    "per": "17: signal noise drawn once per image",
    "swap": "18: swapping by another difference",
    "student_dropout": "19: the fickle teacher's student has dropout too",
    "select": "20: another choice of teacher",
    "keep": "21: the best epoch instead of the last",
}
TOGETHER = {"select": ("validation",)}  # chosen on images that are held out: these are no training images then
APART = {"select": "keep"}  # row 21 chooses as row 20 does, and changes one thing more
METHODS = (
    ("swap", "swapping"),
    ("signal", "signal noise"),
    ("dropout", "Fickle Teacher"),
    ("sigma", "Soft Randomization"),
    ("r", "MC-TS"),
    ("c", "corrupted labels"),
)


def with_methods(table: pd.DataFrame) -> pd.DataFrame:
    """With `method`, by the knob that is on: the first of METHODS."""
    method = table["role"].map(lambda role: "Hinton" if role == "student" else "")
    for axis, name in reversed(METHODS):
        if axis in table:
            on = table[axis].notna() if axis == "swap" else table[axis].fillna(0) > 0
            method = method.mask(on & (table["role"] == "student"), name)
    return table.assign(method=method)


def comparisons(table: pd.DataFrame) -> list[Comparison]:
    students, varied = table[table["role"] == "student"], axes(table)
    found = []
    for axis, question in CHOICES.items():
        if axis not in varied or students[axis].nunique(dropna=False) < 2:
            continue
        concerned = "taught and swap.notna()" if axis == "swap" else "taught"
        values = select(students, concerned)[axis]
        # The shortest of the ways to swap: it states no key beyond those that all state.
        default = min(values.unique(), key=len) if axis == "swap" else values.mode(dropna=False).iloc[0]
        is_default = f"`{axis}`.isna()" if default != default else f"`{axis}` == {plain(default)!r}"
        apart = f" and {other}.isna()" if (other := APART.get(axis)) in varied else ""
        unlike = f"{concerned} and not ({is_default}){apart}"
        same = tuple(name for name in varied if name != axis and name not in TOGETHER.get(axis, ()))
        found.append(Comparison(question, Contrast(unlike, f"taught and ({is_default})", same, (axis, "method"))))
    return found


def ambiguities(table: pd.DataFrame, folder: Path) -> list[Path]:
    if not {*CHOICES} & {*axes(table)}:
        raise TableError(f"sweep {table.attrs.get('sweep')}: none of its axes is a choice of papers A.7")
    table = with_methods(table)
    metrics = [ACCURACY, *shifted(table), attacked(table), MCA]
    about = (
        "Each choice that the paper leaves open, against the default of papers A.7 with all else equal. Rows"
        " about how a run is measured (1, 2, 3, 15) are columns of the table, row 13 is in the table alone, row 10 is"
        " figure1-lengths of sweeps/fickle.yaml."
    )
    return forest(
        table, "ambiguities", "Choices that the paper leaves open", comparisons(table), metrics, about, folder
    )


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [ambiguities]))
