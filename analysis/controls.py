"""Controls: is it the noise that helps, or what the noise is on average? Not in the paper.

    python analysis/controls.py results/controls [--profile laptop] [--output DIR]

controls: each method against the expectation of its own noise, and against doing without a teacher.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from figure import command
from forest import Comparison, forest
from metrics import ACCURACY, MCA, attacked, shifted
from points import LONE, Contrast, need

if TYPE_CHECKING:
    import pandas as pd

AXES = ("kd", "epochs", "dropout", "rate", "passes", "sigma", "r", "r_teacher", "s", "s_teacher")
FICKLE = "taught and rate > 0 and passes == 1"
MC_S, MC_TS = "taught and r > 0 and r_teacher == 0", "taught and r > 0 and r_teacher > 0"
SMOOTHED_S, SMOOTHED_TS = "taught and s > 0 and s_teacher == 0", "taught and s > 0 and s_teacher > 0"
SOFT, SHOWN = "taught and sigma > 0 and not shown", "taught and sigma > 0 and shown"
HINTON = "taught and dropout == 0 and level == 0 and sigma == 0"
TAUGHT_BY = ("dropout", "epochs")

# What is asked, the runs, their baseline, in what both agree; a row for every value of the last.
ASKED = (
    ("Fickle Teacher, over Hinton as long", FICKLE, HINTON, ("epochs",), "dropout"),
    ("... over the same teacher, dropout off", FICKLE, "taught and dropout > 0 and rate == 0", TAUGHT_BY, "dropout"),
    ("... over the mean of ten passes", FICKLE, "taught and rate > 0 and passes > 1", TAUGHT_BY, "dropout"),
    ("Soft Randomization, over a teacher that sees the noise too", SOFT, SHOWN, ("sigma",), "sigma"),
    ("MC-S, over label smoothing of the student", MC_S, SMOOTHED_S, ("level",), "level"),
    ("MC-TS, over label smoothing of both", MC_TS, SMOOTHED_TS, ("level",), "level"),
    ("Wrong targets, student alone", f"{LONE} and r > 0", f"{LONE} and level == 0", (), "level"),
    ("Label smoothing, student alone", f"{LONE} and s > 0", f"{LONE} and level == 0", (), "level"),
    ("MC-S, over wrong targets without a teacher", MC_S, f"{LONE} and r > 0", ("level",), "level"),
)


def controls(table: pd.DataFrame, folder: Path) -> list[Path]:
    need(table, *AXES)
    sees = table.get("distillation.teacher_sees")
    table = table.assign(level=table[["r", "s"]].max(axis=1), shown=False if sees is None else sees == "shown")
    metrics = [ACCURACY, *shifted(table), attacked(table), MCA]
    about = (
        "Redrawn wrong targets are on average smoothed ones (`level`: the rate of either), and a fickle teacher's"
        " answers those of many passes: where a method is no better than that, it is not the noise that helps."
    )
    asked = [Comparison(words, Contrast(of, against, same, (by,))) for words, of, against, same, by in ASKED]
    return forest(table, "controls", "Is it the noise, or its average?", asked, metrics, about, folder)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [controls]))
