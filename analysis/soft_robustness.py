"""Soft targets: is it what the teacher knows of each image, how soft its answers are, or neither? Not in the papers.

    python analysis/soft_robustness.py results/soft_robustness [--profile laptop] [--output DIR]

soft_robustness: each arm of sweeps/soft_robustness.yaml over the one that lacks one thing, at each sigma;
soft_robustness-levels: the arms themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from figure import command
from forest import Arm, Comparison, forest, levels
from metrics import attacked, title, under_attack
from panels import Panel
from points import LONE, Contrast, need
from words import UNDER_ATTACK

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


ARMS = {
    "Hard labels": HARD,
    "Smoothed labels, as soft as the teacher": SMOOTHED,
    "Taught (Hinton)": TAUGHT,
    "Answers of another image of the class": SHUFFLED,
    "Mean answers of all teachers": AVERAGED,
    "MC-TS": MESSY,
}


def with_arms(table: pd.DataFrame) -> pd.DataFrame:
    """With `shuffled` and `pooled`, which the arms are told apart by."""
    need(table, *AXES)
    shuffled = table.get("distillation.shuffle")
    return table.assign(
        shuffled=False if shuffled is None else shuffled.notna() & (shuffled != ""), pooled=table["rule"] == "average"
    )


def soft_robustness(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = with_arms(table)
    about = (
        "Each row takes one thing away from an arm: its teacher, that the teacher's answer belongs to the image, its"
        " softness. Where what is left stands as high, it was not that. Numbers of PGD alone do not tell robustness"
        f" from attacks that fail. {UNDER_ATTACK}"
    )
    asked = [Comparison(words, Contrast(of, against, ("sigma",), ("sigma",))) for words, of, against in ASKED]
    return forest(
        table,
        "soft_robustness",
        "What makes soft targets robust?",
        asked,
        under_attack(table, attacked(table)),
        about,
        folder,
    )


def soft_robustness_levels(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = with_arms(table)
    arms = [
        Arm(words, f"sigma {sigma:g}", f"({runs}) and sigma == {sigma!r}")
        for words, runs in ARMS.items()
        for sigma in sorted(table["sigma"].dropna().unique().tolist())
    ]
    arms.append(Arm("Teachers", "of the first arms", "role == 'teacher' and r == 0 and rule == 'paired'"))
    panels = [Panel(name, title(name)) for name in under_attack(table, attacked(table))]
    about = f"Each arm by itself, with and without noise on the images. {UNDER_ATTACK}"
    return levels(table, "soft_robustness-levels", "Soft targets under attack", arms, panels, about, folder)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [soft_robustness, soft_robustness_levels]))
