"""Whether a robustness number may be believed: the flags, what raises them, and which of them a row of a table carries.

A subset of a hundred images is small. Two rules keep chance out of what raises a flag:

- an image that one attack brings down where stronger ones had failed is a proof, and two of them raise the flag, if
  they are more than 0.2 points (AutoAttack's bound for Square, checks.py, which is 2 images of 1,000);
- accuracies under two attacks are compared image by image, and their difference must exceed its bound by two standard
  errors (of a paired difference of proportions).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np

PROOFS = 2  # images
PROOF_POINTS = 0.2  # percent points
# By so many percent points losses may differ. Argued: against networks trained with PGD, others win a few points.
LOSS_POINTS = 5.0
# Measured: 20 steps on the margin leave up to 6 points more of honest networks on the digits.
MARGIN_POINTS = 10.0
FLOOR = 5.0  # percent that may stand where the ball is the whole range of pixels; measured: 0, of honest networks
ERRORS = 2.0  # standard errors

FLAGS = {
    "randomised": "repeated forward passes differ",
    "softmax_output": "the logits are probabilities",
    "dynamic": "gradients are computed inside the forward pass",
    "zero_gradient": "a loss has no gradient at the start of the attack",
    "steps_do_not_help": "100 steps, or another loss, are weaker than 10 steps on the cross-entropy",
    "other_loss_wins": "margin or scaled logits break many images that the cross-entropy does not",
    "floor_not_reached": "accuracy does not go to 0 where every image may become any other",
    "square_wins": "a gradient-free attack breaks images that withstood gradients",
    "transfer_wins": "the teacher's adversarial examples break images that withstood gradients",
}


def flags_of(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The flags that are up for a run, given its metrics or its row of the table; None where none was looked for."""
    known = {name: row.get(f"flags/{name}") for name in FLAGS}
    measured = {name: value for name, value in known.items() if value is not None and value == value}  # NaN: empty
    return tuple(name for name, value in measured.items() if value) if measured else None


def raised(found: Mapping[str, np.ndarray]) -> dict[str, bool]:
    """Flags by what became of images that were right when clean, under the names of `masking`'s metrics: bool [N] each.

    True: still right after that attack, or, for `zero_gradient*`, without a gradient. `transfer` may be missing.
    """
    flags = {
        "zero_gradient": proven(found["zero_gradient"]) or proven(found["zero_gradient_margin"]),
        "steps_do_not_help": weaker(found["pgd100"], found["pgd10"], PROOF_POINTS)
        or weaker(found["margin20"], found["pgd20"], MARGIN_POINTS),
        "other_loss_wins": any(weaker(found["pgd20"], found[other], LOSS_POINTS) for other in ("margin20", "scaled20")),
        "floor_not_reached": proven(found["floor"], FLOOR),
    }
    for attack in ("square", "transfer"):
        if attack in found:
            flags[f"{attack}_wins"] = proven(found["white_box"] & ~found[attack])
    return flags


def proven(images: np.ndarray, points: float = PROOF_POINTS) -> bool:
    """Whether these are at least PROOFS images and more than so many percent of all. images: bool [N]."""
    return bool(images.sum() >= PROOFS and 100 * images.mean() > points)


def weaker(attack: np.ndarray, other: np.ndarray, points: float) -> bool:
    """Whether one attack leaves more images standing than another, by over so many percent points beyond chance.

    attack, other: bool [N], which images stand after each.
    """
    difference = attack.astype(float) - other
    error = difference.std() / sqrt(len(difference))
    return bool(100 * (difference.mean() - ERRORS * error) > points)
