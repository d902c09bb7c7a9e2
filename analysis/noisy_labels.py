"""Learning from noisy labels: students of a teacher whose labels are partly wrong. Figures 9 and 10 (arXiv 1910.05057).

    python analysis/noisy_labels.py results/noisy_labels [--profile laptop] [--output DIR]

figure9: accuracy over the corruption rate c (0.9 c are wrong); figure10: the table of it by the rate of redrawn
targets, r, as LaTeX (figure10.tex to \\input, figure10-standalone.tex to compile), Markdown and CSV.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from figure import Figure, command, figures
from label_noise import HINTONS, checked, figure10
from metrics import ACCURACY, shifted, title
from panels import Panel, Series
from points import LONE
from points import TEACHER as ITS_TEACHER
from style import ALONE, FURTHER, HINTON, TEACHER

if TYPE_CHECKING:
    import pandas as pd


def figure9(table: pd.DataFrame) -> Figure:
    checked(table, "c", "r")
    names = [ACCURACY, *shifted(table)]
    hinton, lone, to_teacher, to_lone = (
        "Hinton",
        "student alone",
        "Hinton over its teacher",
        "Hinton over student alone",
    )
    series = (
        Series("teachers", "role == 'teacher'", TEACHER),
        Series(lone, LONE, ALONE),
        Series(hinton, HINTONS, HINTON),
        Series(to_teacher, HINTONS, FURTHER[0], against=ITS_TEACHER),
        Series(to_lone, HINTONS, FURTHER[1], against=LONE, same=("c",)),
    )
    levels = [Panel(name, title(name), only=("teachers", lone, hinton)) for name in names]
    gains = [Panel(name, f"{title(name)}: gain", difference=True, only=(to_teacher, to_lone)) for name in names]
    about = (
        "Hinton is plain distillation, r 0. The line of teachers is the mean of all that were trained; the difference"
        " is to the one that was chosen and taught. The paper: all fall as labels get worse; from c 0.1 on the student"
        " exceeds its teacher, by 1.3 to 12.4 points as c grows."
    )
    sentence = "Learning from corrupted labels: accuracy over the corruption rate"
    label = "corruption rate c"
    return Figure(table, "figure9", sentence, "c", label, series, [levels, gains], about=about, legend_columns=5)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [*figures(figure9), figure10]))
