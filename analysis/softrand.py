"""Soft Randomization against Gaussian augmentation. Figures 4, 5 and 15 (arXiv 1910.05057).

    python analysis/softrand.py results/softrand [--profile laptop] [--output DIR]

figure4: accuracy and PGD accuracy over sigma; figure5: corruptions; figure15: PGD by its number of steps.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from corruptions import by_family
from figure import Figure, command, figures
from metrics import ACCURACY, attacked, robustness, steps, title
from panels import Panel, Series
from points import LONE
from style import FURTHER, STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd

SOFT, AUGMENTED = "Soft Randomization (0: Hinton)", "Gaussian augmentation (0: alone)"
SMALL = (0.0, 0.05)  # the paper's two panels; both show 0.05, which is where its numbers are
LARGE = (0.05, 0.5)


def figure4(table: pd.DataFrame) -> Figure:
    stated = {ACCURACY: ("soft/accuracy", "augmentation/accuracy"), attacked(table): ("soft/pgd", "augmentation/pgd")}
    names = {name: stated.get(name, ()) for name in (ACCURACY, *robustness(table))}
    series = (
        Series(SOFT, "taught", STUDENT, against=LONE, same=("sigma",)),
        Series(AUGMENTED, LONE, TEACHER),
    )
    panels: list[list[Panel | None]] = [
        [Panel(name, title(name), within=SMALL, paper=paper), Panel(name, title(name), within=LARGE)]
        for name, paper in names.items()
    ]
    panels += [
        [Panel(name, f"{title(name)}: the first over the second", difference=True, within=w) for w in (SMALL, LARGE)]
        for name in names
    ]
    about = (
        "Below, Soft Randomization over Gaussian augmentation of the same sigma, paired by seed. The paper: better in"
        " accuracy and under PGD at every sigma, the gap under PGD largest at small sigma."
    )
    heading = "Soft Randomization and Gaussian augmentation over sigma"
    return Figure(
        table, "figure4", heading, "sigma", "sigma (pixels in [0, 1])", series, panels, about=about, height=1.5
    )


def figure5(table: pd.DataFrame) -> Figure:
    about = (
        "Over Hinton, sigma 0. The paper: the mean is above Hinton at every sigma; noise and blur gain, brightness,"
        " fog, contrast and saturate lose, frost first gains, then loses."
    )
    series = [Series("Soft Randomization, over Hinton", "taught", STUDENT, against="taught and sigma == 0")]
    return by_family(table, "figure5", "Soft Randomization under corruptions", "sigma", "sigma", series, about)


def figure15(table: pd.DataFrame) -> Figure:
    soft, augmented = Series(SOFT, "taught", STUDENT), Series(AUGMENTED, LONE, FURTHER[0])
    panels = [Panel(name, title(name)) for name in steps(table) or [attacked(table)]]
    about = "One panel for each number of PGD's steps. The paper: Soft Randomization far above both others."
    heading = "PGD accuracy by the number of steps"
    return Figure(table, "figure15", heading, "sigma", "sigma", (soft, augmented), [panels], about=about)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", figures(figure4, figure5, figure15)))
