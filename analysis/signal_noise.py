"""Signal-dependent noise on the teacher's logits. Figures 11 and 12 (arXiv 1910.05057).

    python analysis/signal_noise.py results/signal_noise [--profile laptop] [--output DIR]

figure11: accuracy, under shift and PGD too, over sigma; figure12: corruptions.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from corruptions import by_family
from figure import Figure, command, figures
from metrics import ACCURACY, attacked, shifted, title
from panels import Panel, Series
from style import STUDENT

if TYPE_CHECKING:
    import pandas as pd

STUDENTS = Series("students (0: Hinton)", "taught", STUDENT, against="taught and sigma == 0")


def figure11(table: pd.DataFrame) -> Figure:
    names = [ACCURACY, *shifted(table), attacked(table)]
    levels = [Panel(name, title(name)) for name in names]
    gains = [Panel(name, f"{title(name)}: over Hinton", difference=True) for name in names]
    about = "The paper: accuracy rises up to sigma 0.1, accuracy under shift falls, PGD accuracy rises slightly."
    heading = "Signal-dependent noise on the teacher's logits"
    return Figure(table, "figure11", heading, "sigma", "sigma", [STUDENTS], [levels, gains], about=about)


def figure12(table: pd.DataFrame) -> Figure:
    about = "Over Hinton, sigma 0. The paper: kept (caption) or slightly up (text)."
    heading = "Signal-dependent noise: under corruptions"
    return by_family(table, "figure12", heading, "sigma", "sigma", [STUDENTS], about)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", figures(figure11, figure12)))
