"""Digits through clothes: a teacher's answers to images of another kind. Not drawn in the text (Wallace, Distill 2019).

    python analysis/cross_domain.py results/cross_domain [--profile laptop] [--output DIR]

cross_domain: teacher and students on the images that the teacher knows; cross_domain-differences: what each input adds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from figure import command
from forest import Arm, Comparison, forest, levels
from metrics import ACCURACY, AGREEMENT
from panels import Panel
from points import TEACHER as ITS_TEACHER
from points import Contrast, need

if TYPE_CHECKING:
    import pandas as pd

PLAIN, MOMENTS, CONSTANTS = "plain", "moments", "constants"
INPUTS = {
    PLAIN: "images as they are",
    MOMENTS: "moved to the tested set's mean and deviation",
    CONSTANTS: "that set's constants inside the student",
}


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """With `input`, how a student's images come to it: one of INPUTS."""
    need(table, "moments")
    constants = table["normalization"].notna() if "normalization" in table else table["moments"].isna() & False
    kinds = table["moments"].notna().map({True: MOMENTS, False: PLAIN})
    return table.assign(input=kinds.mask(constants, CONSTANTS))


def levels_of(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    arms = [Arm("Teacher, of the tested set's own images", "all", "role == 'teacher'")]
    arms += [
        Arm("Student of its answers alone", words, f"taught and input == '{kind}'") for kind, words in INPUTS.items()
    ]
    stated = ("digits/teacher", "digits/student", "digits/moved")
    about = (
        "A student has seen neither an image nor a true label of what it is tested on: its images are of another kind,"
        " and its labels are what the teacher says of them."
    )
    panels = [Panel(ACCURACY, "", paper=stated), Panel(AGREEMENT, "")]
    return levels(table, "cross_domain", "Learning a task through images of another", arms, panels, about, folder)


def differences(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    asked = [
        Comparison("Student, over 90 %", Contrast("taught", 90.0, (), ("input",))),
        Comparison("... over its teacher", Contrast("taught", ITS_TEACHER, (), ("input",))),
        Comparison(
            "... over images as they are",
            Contrast(f"taught and input != '{PLAIN}'", f"taught and input == '{PLAIN}'", (), ("input",)),
        ),
    ]
    about = "Paired by seed: students of one seed have one teacher and one start."
    return forest(table, "cross_domain-differences", "What the input adds", asked, [ACCURACY], about, folder)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [levels_of, differences]))
