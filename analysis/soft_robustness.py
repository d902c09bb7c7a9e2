"""Soft targets: is it what the teacher knows of each image, how soft its answers are, or neither? Not in the papers.

    python analysis/soft_robustness.py results/soft_robustness [--profile laptop] [--output DIR]

soft_robustness: each arm of sweeps/soft_robustness.yaml over the one that lacks one thing, at each sigma.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from figure import command
from forest import Comparison, forest
from metrics import ACCURACY, attacked
from points import LONE, Contrast, need

if TYPE_CHECKING:
    import pandas as pd

AXES = ("sigma", "kd", "s", "r", "rule")
HARD, SMOOTHED = f"{LONE} and s == 0", f"{LONE} and s > 0"
TAUGHT = "taught and not shuffled and not pooled and r == 0"
SHUFFLED, AVERAGED = "taught and shuffled", "taught and pooled"
MESSY = "taught and r > 0"

# What is asked, the runs, and their baseline at the same sigma.
ASKED = (
    ("Smoothed labels, over hard ones", SMOOTHED, HARD),
    ("Taught, over hard labels", TAUGHT, HARD),
    ("Answers of another image, over hard labels", SHUFFLED, HARD),
    ("Taught, over labels as soft", TAUGHT, SMOOTHED),
    ("Taught, over answers of another image", TAUGHT, SHUFFLED),
    ("Taught by all, over taught by one", AVERAGED, TAUGHT),
    ("MC-TS, over taught", MESSY, TAUGHT),
)


def soft_robustness(table: pd.DataFrame, folder: Path) -> list[Path]:
    need(table, *AXES)
    shuffled = table.get("distillation.shuffle")
    table = table.assign(
        shuffled=False if shuffled is None else shuffled.notna() & (shuffled != ""), pooled=table["rule"] == "average"
    )
    about = (
        "Each row takes one thing away from an arm: its teacher, that the teacher's answer belongs to the image, its"
        " softness. Where what is left stands as high, it was not that. Numbers of PGD alone do not tell robustness"
        " from attacks that fail."
    )
    asked = [Comparison(words, Contrast(of, against, ("sigma",), ("sigma",))) for words, of, against in ASKED]
    metrics = [ACCURACY, attacked(table)]
    return forest(table, "soft_robustness", "What makes soft targets robust?", asked, metrics, about, folder)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [soft_robustness]))
