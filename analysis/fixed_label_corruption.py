"""Labels wrong for good against labels redrawn in every batch, for teacher and student. Figures 17 and 18
(arXiv 1910.05057).

    python analysis/fixed_label_corruption.py results/fixed_label_corruption [--profile laptop] [--output DIR]

figure17: PGD accuracy over the rate; figure18: corruptions.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from corruptions import by_family
from figure import Figure, command, figures
from metrics import ACCURACY, attacked, title
from panels import Panel, Series
from points import need
from style import FURTHER, TEACHER

if TYPE_CHECKING:
    import pandas as pd

HINTON = "taught and c == 0 and r == 0"
METHODS = (
    Series("fixed, FLC_TS", "taught and r == 0", TEACHER, against=HINTON),
    Series("redrawn, MC-TS", "taught and c == 0", FURTHER[1], against=HINTON),
)
LABEL = "rate c (fixed) or r (redrawn)"


def with_rate(table: pd.DataFrame) -> pd.DataFrame:
    """With `rate`: that of fixed or of redrawn wrong labels, whichever there are."""
    need(table, "c", "r")
    return table.assign(rate=table[["c", "r"]].max(axis=1))


def figure17(table: pd.DataFrame) -> Figure:
    names = [attacked(table), ACCURACY]
    levels = [Panel(name, title(name)) for name in names]
    gains = [Panel(name, f"{title(name)}: over Hinton", difference=True) for name in names]
    about = (
        "Rate 0 is Hinton, one point of both. A fixed label is drawn from all classes, so of c a share of 0.9 is wrong,"
        " and all of r: at equal rates the fixed side has fewer wrong labels. The paper: fixed corruption lowers PGD"
        " accuracy, redrawing does not."
    )
    heading = "Fixed against redrawn wrong labels: PGD accuracy"
    return Figure(with_rate(table), "figure17", heading, "rate", LABEL, METHODS, [levels, gains], about=about)


def figure18(table: pd.DataFrame) -> Figure:
    about = "Over Hinton. The paper: fixed corruption lowers the mean over corruptions, redrawing does not."
    heading = "Fixed against redrawn wrong labels: corruptions"
    return by_family(with_rate(table), "figure18", heading, "rate", "rate", METHODS, about)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", figures(figure17, figure18)))
