"""Fickle Teacher: does a teacher whose dropout stays on make a better student? Figures 1 and 2 (arXiv 1910.05057).

    python analysis/fickle.py results/fickle [--profile laptop] [--output DIR]

figure1: levels and gains over the dropout rate; figure1-lengths: Hinton by its length; figure2: corruptions.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from corruptions import by_family
from figure import Figure, command, figures
from metrics import ACCURACY, robustness, shifted, title
from panels import Panel, Series
from points import need
from style import FURTHER, HINTON, STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd

HINTONS = "taught and dropout == 0"
LENGTH = "recipe.epochs"
LABEL = "dropout rate"


def with_lengths(table: pd.DataFrame) -> pd.DataFrame:
    """With `in_line`: the students that the line over the rate joins. Without dropout the paper's own Hinton, which is
    the shortest; with it the longest, where a rate has several lengths."""
    need(table, "dropout", LENGTH)
    of_rate = table[table["taught"]].groupby("dropout")[LENGTH]
    asked = of_rate.max().to_dict() | {rate: length for rate, length in of_rate.min().items() if rate == 0}
    in_line = table["taught"] & (table[LENGTH] == table["dropout"].map(asked))
    return table.assign(in_line=in_line)


def students(label: str, against: str = HINTONS, same: tuple[str, ...] = (LENGTH,)) -> Series:
    return Series(label, "in_line", STUDENT, join=(LENGTH,), against=against, same=same)


def figure1(table: pd.DataFrame) -> Figure:
    table = with_lengths(table)
    names = [ACCURACY, *shifted(table), *robustness(table)]
    shortest = table.loc[table["in_line"] & (table["dropout"] == 0), LENGTH].min()
    taught, teachers, longer = "students", "teachers, dropout off", f"students, over Hinton of {shortest:.0f} epochs"
    series: tuple[Series, ...] = (
        students(taught),
        Series(teachers, "role == 'teacher'", TEACHER),
        Series(longer, "in_line and dropout > 0", FURTHER[0], (LENGTH,), "in_line and dropout == 0"),
    )
    series = series if shortest == shortest else series[:2]  # no Hinton, nothing to be over
    levels = [Panel(name, title(name), only=(taught, teachers), paper=PAPER) for name in names]
    gains = [Panel(name, f"{title(name)}: gain", difference=True, only=(taught, longer)) for name in names]
    about = (
        "Hinton, plain distillation, is rate 0. A fickle student trains longer than the paper's Hinton, so its gain"
        " is over the Hinton of as many epochs; the further line is the paper's own comparison, over the shortest."
        " Lines join students of equal length only. The paper: accuracy rises to rate 0.4 though the teacher's falls"
        " after 0.2; under shift 0.5 is best; PGD accuracy rises to 0.2, then falls."
    )
    return Figure(
        table,
        "figure1",
        "Fickle Teacher: accuracy over the dropout rate",
        "dropout",
        LABEL,
        series,
        [levels, gains],
        about=about,
    )


PAPER = ("hinton/accuracy", "fickle/accuracy", "hinton/pgd")


def figure1_lengths(table: pd.DataFrame) -> Figure:
    table = with_lengths(table)
    panels = [Panel(name, title(name)) for name in (ACCURACY, *shifted(table), *robustness(table))]
    series = [Series("Hinton (dropout rate 0)", HINTONS, HINTON)]
    about = "The control of figure 1: plain distillation at every length that a fickle student has."
    return Figure(
        table, "figure1-lengths", "Plain distillation by its length", LENGTH, "epochs", series, [panels], about=about
    )


def figure2(table: pd.DataFrame) -> Figure:
    about = (
        "Students over the Hinton of as many epochs. The paper: the mean over corruptions always rises (caption), or is"
        " kept or slightly up (text); low rates help most families."
    )
    series = [students("Fickle Teacher, over Hinton as long")]
    return by_family(
        with_lengths(table), "figure2", "Fickle Teacher under corruptions", "dropout", LABEL, series, about
    )


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", figures(figure1, figure1_lengths, figure2)))
