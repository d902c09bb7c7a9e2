"""Random swapping of the teacher's outputs. Figures 13 and 14 (arXiv 1910.05057).

    python analysis/swap.py results/swap [--profile laptop] [--output DIR]

figure13: accuracy, under shift and PGD too, over the rate; figure14: the mean over corruptions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from figure import Figure, command, figures
from metrics import ACCURACY, MCA, attacked, shifted, title
from panels import Level, Panel, Series
from points import need
from style import HINTON, LINES

from kdtune.report.table import TableError

if TYPE_CHECKING:
    import pandas as pd

PLAIN = "taught and rate == 0"
NAMES = {"top2": "the two largest", "all": "all neighbours"}


def methods(table: pd.DataFrame) -> list[Series]:
    """A line for every kind of pairs and threshold."""
    need(table, "rate", "pairs", "threshold")
    found = table[table["taught"] & (table["rate"] > 0)][["pairs", "threshold"]].drop_duplicates()
    if len(found) > len(LINES):
        raise TableError(
            f"{len(found)} kinds of pairs and threshold are more lines than the {len(LINES)} that can be told apart"
        )
    return [
        Series(
            f"{NAMES.get(pairs, pairs)}, threshold {threshold:g}",
            f"taught and rate > 0 and pairs == {pairs!r} and threshold == {threshold}",
            look,
            against=PLAIN,
        )
        for (pairs, threshold), look in zip(found.itertuples(index=False), LINES, strict=False)
    ]


def over_rate(table: pd.DataFrame, name: str, heading: str, metrics: Sequence[str], about: str) -> Figure:
    levels = [Panel(metric, title(metric)) for metric in metrics]
    gains = [Panel(metric, f"{title(metric)}: over Hinton", difference=True) for metric in metrics]
    hinton = Level("Hinton", PLAIN, HINTON)
    panels = [levels, gains] if len(metrics) > 1 else [levels + gains]
    return Figure(
        table, name, heading, "rate", "rate of swapping", methods(table), panels, (hinton,), about, legend_columns=3
    )


def figure13(table: pd.DataFrame) -> Figure:
    about = (
        "Thresholds and rates are not stated in the paper. The paper: accuracy rises, accuracy under shift falls, PGD"
        " accuracy is kept except for frequent swaps of the two largest."
    )
    names = [ACCURACY, *shifted(table), attacked(table)]
    return over_rate(table, "figure13", "Random swapping of the teacher's outputs", names, about)


def figure14(table: pd.DataFrame) -> Figure:
    return over_rate(table, "figure14", "Random swapping: mean over corruptions", [MCA], "The paper: slightly up.")


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", figures(figure13, figure14)))
