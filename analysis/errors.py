"""Learning from errors: students of what another network gets wrong. Not drawn in the text (Wallace, Distill 2019).

    python analysis/errors.py results/errors [--profile laptop] [--output DIR]

errors: student beside teacher, over the epochs of the teacher; errors-controls: the level of every arm, the same
images with permuted answers, other images, images moved by an attack; errors-differences: each against its control.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figure import Figure, command, figures
from forest import Arm, Comparison, forest, levels
from metrics import ACCURACY, AGREEMENT, IMAGES
from panels import Panel, Series
from points import TEACHER as ITS_TEACHER
from points import Contrast, need, select
from style import FURTHER, STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd

ERRORS = "taught and only == 'errors' and shuffle == 'none' and moved == 'none' and alike"
WITHIN, AMONG = (f"taught and only == 'errors' and shuffle == '{how}'" for how in ("class", "all"))
CONTROLS = {
    "answers permuted within each class": WITHIN,
    "answers permuted among all errors": AMONG,
    "as answered, another architecture": "taught and only == 'errors' and not alike",
    "images answered rightly": "taught and only == 'correct' and moved == 'none'",
    "all images, as answered": "taught and only == 'all' and moved == 'none'",
}
CHANCE = 10.0  # percent, of ten classes


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """With words where an axis is null; `moved`: by what attack training images were, in words; `alike`: whether a
    student's network is as most are, which is as its teacher's."""
    need(table, "first", "only", "shuffle", "model")
    table = table.assign(only=table["only"].fillna("all"), shuffle=table["shuffle"].fillna("none"))
    asked = [f"dataset.perturbed.{name}" for name in ("norm", "target", "noise")]
    rows = table.reindex(columns=asked).to_dict("records")
    usual = table.loc[table["role"] == "student", "model"].mode()
    alike = table["model"].isin(usual) | (table["role"] == "teacher")
    return table.assign(moved=[moved(*(row[name] for name in asked)) for row in rows], alike=alike)


def moved(norm: Any, target: Any, noise: Any) -> str:
    """By what attack, in words."""
    if not isinstance(norm, str):
        return "none"
    way = {"next": "towards the next class", "random": "towards a random class"}.get(
        target, "away from the right class"
    )
    return f"{norm}, {way}" + (": as far at random" if noise is True else "")


def errors(table: pd.DataFrame) -> Figure:
    series = (
        Series("teacher", "role == 'teacher'", TEACHER),
        Series("student of its errors", ERRORS, STUDENT),
        Series("answers permuted within classes", WITHIN, FURTHER[0]),
        Series("answers permuted among all", AMONG, FURTHER[1]),
    )
    stated = ("errors/teacher", "errors/student")
    panels = [
        Panel(ACCURACY, "Test accuracy", paper=stated),
        Panel(AGREEMENT, "Agreement with its teacher", only=tuple(each.label for each in series[1:])),
        Panel(IMAGES, "Errors to learn from", only=tuple(each.label for each in series[1:2])),
    ]
    about = (
        "Students see nothing but the training images that their teacher got wrong, with its answers for labels."
        " Permuted answers keep the images, and within classes the whole confusion matrix: what a student of the"
        " answers as they are does better comes from single images."
    )
    words = "Learning from errors: test accuracy over the epochs of the network that erred"
    return Figure(table, "errors", words, "first", "epochs of the teacher", series, [panels], about=about)


def arms(table: pd.DataFrame) -> list[Arm]:
    found = []
    for first in sorted(table["first"].dropna().unique()):
        question = f"Teacher of {first:g} epochs"
        here = f"first == {first:g} and"
        found.append(Arm(question, "the teacher", f"{here} role == 'teacher'"))
        found.append(Arm(question, "its errors, as answered", f"{here} {ERRORS}"))
        found += [Arm(question, words, f"{here} {query}") for words, query in CONTROLS.items()]
        ways = select(table, f"{here} taught and moved != 'none'")["moved"].unique()
        found += [Arm(question, f"moved ({how})", f"{here} taught and moved == '{how}'") for how in sorted(ways)]
    return found


def controls(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    panels = [Panel(ACCURACY, "", paper=("errors/teacher", "errors/student")), Panel(AGREEMENT, ""), Panel(IMAGES, "")]
    about = "What students of one teacher are trained on, and what they then know of clean test images."
    heading = "Learning from errors, and what would do as well"
    return levels(table, "errors-controls", heading, arms(table), panels, about, folder, {"chance": CHANCE})


def differences(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    by = ("first",)
    asked = [
        Comparison("Errors as answered, over chance", Contrast(ERRORS, CHANCE, (), by)),
        Comparison("... over answers permuted within classes", Contrast(ERRORS, WITHIN, by, by)),
        Comparison("... over answers permuted among all", Contrast(ERRORS, AMONG, by, by)),
        Comparison("... over their teacher", Contrast(ERRORS, ITS_TEACHER, (), by)),
    ]
    nulls = [how for how in table["moved"].unique() if how.endswith("at random")]
    for how in sorted(nulls):
        real, null = (f"taught and moved == '{words}'" for words in (how.partition(":")[0], how))
        asked.append(Comparison(f"Moved {how.partition(':')[0]}, over as far at random", Contrast(real, null, by, by)))
    about = "Where permuted answers do as well as the teacher's own, it is not the images that teach."
    return forest(table, "errors-differences", "What do errors teach?", asked, [ACCURACY, AGREEMENT], about, folder)


if __name__ == "__main__":
    drawn = figures(lambda table: errors(prepared(table)))
    sys.exit(command(__doc__ or "", [*drawn, controls, differences]))
