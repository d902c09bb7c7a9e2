"""Anchors: noise without adversarial training beside networks that were trained to be robust.

    python analysis/robust_anchors.py results/robust_anchors [--profile laptop] [--output DIR]

robust_anchors: every arm of sweeps/robust_anchors.yaml; robust_anchors-differences: over plain adversarial training.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from figure import command
from forest import Arm, Comparison, forest, levels
from metrics import FOOLED, attacked, title, under_attack
from panels import Panel
from points import LONE, Contrast, need
from words import UNDER_ATTACK

if TYPE_CHECKING:
    import pandas as pd

AT = f"{LONE} and eps > 0 and climbs == 'labels'"
ARMS = {
    "Without adversarial training": {
        "student alone": f"{LONE} and eps == 0",
        "Soft Randomization": "taught and sigma > 0",
        "Messy Collaboration (MC-TS)": "taught and r > 0",
        "their teachers": "role == 'teacher' and t_eps == 0 and r == 0",
    },
    "With it, no teacher": {"AT": AT, "TRADES": f"{LONE} and climbs == 'clean'"},
    "With it, and a robust teacher": {
        "ARD": "taught and eps > 0 and climbs == 'labels'",
        "RSLAD": "taught and climbs == 'teacher'",
        "its teachers (TRADES)": "role == 'teacher' and t_eps > 0",
    },
}
FOOLS = "Teacher fooled: of the student's adversarial examples, percent that change its teacher's answer too."


def measured(table: pd.DataFrame) -> list[str]:
    """By PGD as printed, with the step of the text, where that was taken."""
    printed = f"{attacked(table)}@step=0.03"
    return under_attack(table, printed if printed in table else attacked(table))


def robust_anchors(table: pd.DataFrame, folder: Path) -> list[Path]:
    need(table, "eps", "climbs", "sigma", "r", "t_eps")
    arms = [Arm(question, words, query) for question, of in ARMS.items() for words, query in of.items()]
    stated = {attacked(table): ("soft/pgd", "messy/pgd"), f"{attacked(table)}@step=0.03": ("soft/pgd", "messy/pgd")}
    panels = [Panel(name, title(name), paper=stated.get(name, ())) for name in (*measured(table), FOOLED)]
    about = (
        "The paper's students beside the same network that was trained to be robust. Accuracy under PGD is of the"
        f" images that are right when clean. {UNDER_ATTACK} {FOOLS}"
    )
    return levels(
        table, "robust_anchors", "Where noise stands beside adversarial training", arms, panels, about, folder
    )


def differences(table: pd.DataFrame, folder: Path) -> list[Path]:
    need(table, "eps", "climbs", "sigma", "r", "t_eps")
    queries = {words: query for of in ARMS.values() for words, query in of.items()}
    alone = queries["student alone"]
    of = ("Soft Randomization", "Messy Collaboration (MC-TS)", "AT")
    asked = [Comparison(f"{words}, over the student alone", Contrast(queries[words], alone, (), ())) for words in of]
    others = ("Soft Randomization", "Messy Collaboration (MC-TS)", "TRADES", "ARD", "RSLAD")
    asked += [Comparison(f"{words}, over AT", Contrast(queries[words], AT, (), ())) for words in others]
    heading = "Noise and adversarial training: differences"
    return forest(table, "robust_anchors-differences", heading, asked, measured(table), UNDER_ATTACK, folder)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [robust_anchors, differences]))
