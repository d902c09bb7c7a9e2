"""Messy Collaboration: targets wrong at random for the student, its teacher or both. Figures 6, 7, 8 and 16
(arXiv 1910.05057).

    python analysis/messy.py results/messy [--profile laptop] [--output DIR]

figure6: accuracy over the rate; figure7: PGD accuracy; figure8: how sure the outputs are; figure16: corruptions.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from corruptions import by_family
from figure import Figure, command, figures
from metrics import ACCURACY, robustness, shifted, title
from outputs import CONFIDENCE, ENTROPY, figure8, with_outputs
from panels import Level, Panel, Series
from points import LONE, need
from style import ALONE, FURTHER, STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd

HINTON = "taught and r_teacher == 0 and r_student == 0"
TEACHERS = "teachers of that rate"
METHODS = {  # Hinton is the point 0 of all three
    "MC-S (student)": ("taught and r_teacher == 0", STUDENT),
    "MC-T (teacher)": ("taught and r_student == 0", FURTHER[0]),
    "MC-TS (both)": ("taught and r_student == r_teacher", FURTHER[1]),
}
WRN = Level("student alone", LONE, ALONE)
LABEL = "rate r of wrong targets"


def with_rate(table: pd.DataFrame) -> pd.DataFrame:
    """With `rate`: the larger of the student's and its teacher's."""
    need(table, "r_teacher", "r_student")
    return table.assign(rate=table[["r_teacher", "r_student"]].max(axis=1))


def methods() -> list[Series]:
    return [Series(label, runs, look, against=HINTON) for label, (runs, look) in METHODS.items()]


def figure6(table: pd.DataFrame) -> Figure:
    names = [ACCURACY, *shifted(table)]
    series = [*methods(), Series(TEACHERS, "role == 'teacher'", TEACHER)]
    panels = [
        [Panel(name, title(name), only=(*METHODS, TEACHERS)) for name in names],
        [Panel(name, f"{title(name)}: over Hinton", difference=True) for name in names],
    ]
    about = (
        "Rate 0 is Hinton, one point of all three. The paper: MC-S gains accuracy even at high rates, MC-T and MC-TS"
        " lose a little; at rate 0.5 all three beat the teacher of that rate."
    )
    heading = "Messy Collaboration: accuracy over the rate"
    return Figure(with_rate(table), "figure6", heading, "rate", LABEL, series, panels, about=about)


def figure7(table: pd.DataFrame) -> Figure:
    panels = [
        [Panel(name, title(name)), Panel(name, f"{title(name)}: over Hinton", difference=True)]
        for name in robustness(table)
    ]
    about = (
        "The paper: rises with the rate for MC-T and MC-TS, hardly for MC-S. To be distrusted: soft outputs shrink the"
        " gradients that PGD follows; see the flags, and the believable verdict of A7 in claims."
    )
    heading = "Messy Collaboration: PGD accuracy over the rate"
    return Figure(with_rate(table), "figure7", heading, "rate", LABEL, methods(), panels, (WRN,), about)


def figure8_sureness(table: pd.DataFrame) -> Figure:
    names = {
        CONFIDENCE: "Largest softmax value",
        ENTROPY: "Entropy",
        "test/ece": "Calibration error",
    }
    panels = [Panel(name, words) for name, words in names.items()]
    about = (
        "Means over the test images. The paper: MC-TS is smoother and less sure than teacher, Hinton and student alone."
    )
    heading = "Messy Collaboration: how sure the outputs are"
    table = with_rate(with_outputs(table))
    return Figure(table, "figure8-sureness", heading, "rate", LABEL, methods(), [panels], (WRN,), about)


def figure16(table: pd.DataFrame) -> Figure:
    about = "Over Hinton, rate 0. The paper: Hinton's level is kept at high rates."
    heading = "Messy Collaboration under corruptions"
    return by_family(with_rate(table), "figure16", heading, "rate", "rate r", methods(), about)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [*figures(figure6, figure7), figure8, *figures(figure8_sureness, figure16)]))
