"""Whether a robustness number may be believed: the flags, what raises them, and which of them a row of a table carries.

A subset of a hundred images is small. Two rules keep chance out of what raises a flag:

- an image that one attack brings down where stronger ones had failed is a proof, and two of them raise the flag, if
  they are more than 0.2 points (AutoAttack's bound for Square, checks.py, which is 2 images of 1,000);
- accuracies under two attacks are compared image by image, and their difference must exceed its bound by two standard
  errors (of a paired difference of proportions).

A planted example (planted.py) is sure to be there: one that is missed is a proof too, of the attack.

Two flags need no attack: a network that gives one answer to everything is right under every attack wherever it was
right before, so that a number among images that are right when clean says nothing (`degenerate`).
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
# Percent of planted examples that may be missed: what finds 95 % passes (Zimmermann et al. 2022). Measured: 0 of honest
# networks, with attacks that cross the ball; 10 to 100, mostly 100, where a front-end or the size of logits hides the
# gradient.
MISSED = 5.0
ENOUGH = 20  # images with a planted example, of which 5 % is one: of fewer, none missed is no pass
ERRORS = 2.0  # standard errors
FEW = 0.25  # of the classes: where no more are answered, the network has collapsed. Argued: 1 or 2 of 10
SELDOM = 0.1  # a class of which so little is answered as of its own images, by count, does not count as answered

DEGENERATE = {
    "collapsed": "at most a quarter of the classes, or one alone, are ever answered",
    "near_chance": "accuracy is that of one answer for all images, within two standard errors",
}
MASKED = {
    "randomised": "repeated forward passes differ",
    "softmax_output": "the logits are probabilities",
    "dynamic": "gradients are computed inside the forward pass",
    "zero_gradient": "a loss has no gradient at the start of the attack",
    "steps_do_not_help": "100 steps, or another loss, are weaker than 10 steps on the cross-entropy",
    "other_loss_wins": "margin or scaled logits break many images that the cross-entropy does not",
    "floor_not_reached": "accuracy does not go to 0 where every image may become any other",
    "smoothed_wins": "gradients averaged over neighbours break images that withstood the exact ones",
    "square_wins": "a gradient-free attack breaks images that withstood gradients",
    "transfer_wins": "the teacher's adversarial examples break images that withstood gradients",
}
PLANTED = {"planted_missed": "PGD misses adversarial examples that were planted in a copy of the network"}
FLAGS = DEGENERATE | MASKED | PLANTED


def flags_of(row: Mapping[str, Any], metric: str | None = None) -> tuple[str, ...] | None:
    """The flags that are up for a run, given its metrics or its row of the table; None where none was looked for.

    With `metric` those alone that bear on it: all on `robust/*` and `distance/*`, those of DEGENERATE on
    `corruption/*`, none on others. A metric of other weights (`last/`, `average/`) has the flags of these; those of
    DEGENERATE are of the images that it is of (`val/` or none).
    """
    images, weights, bare = prefixed(metric or "")
    found: dict[str, bool] = {}
    for column, value in row.items():
        if "flags/" not in column:  # nearly all: a table has thousands of rows
            continue
        of_images, of_weights, named = prefixed(column)
        name = named.removeprefix("flags/").partition("@")[0]  # behind an @: the label of one entry of several
        if not named.startswith("flags/") or name not in FLAGS or value is None or value != value:  # NaN: empty
            continue
        if of_weights == weights and (of_images == images or (images and name not in DEGENERATE)):
            found[name] = found.get(name, False) or bool(value)
    if not found:
        return None
    if metric is not None:
        bearing = FLAGS if bare.startswith(("robust/", "distance/")) else {}
        bearing = DEGENERATE if bare.startswith("corruption/") else bearing
        return tuple(name for name in bearing if found.get(name))
    return tuple(name for name in FLAGS if found.get(name))


def prefixed(name: str) -> tuple[str, str, str]:
    """What a metric's name says of the images and of the weights, and the rest: "val/", "last/", "robust/pgd20"."""
    images = "val/" if name.startswith("val/") else ""
    rest = name.removeprefix("val/")
    weights = next((each for each in ("last/", "average/") if rest.startswith(each)), "")
    return images, weights, rest.removeprefix(weights)


def degenerate(answers: np.ndarray, labels: np.ndarray) -> dict[str, bool]:
    """Whether a network answers as if it saw nothing, by its answers to clean images. answers, labels: classes [N].

    `collapsed`: at most a quarter of the classes that the labels have, or one alone, are answered; a class counts as
    answered where it is given to a tenth as many images as belong to it. Not where the labels have one class only.
    `near_chance`: the accuracy is not above that of always answering the most frequent class, the share of that class,
    by more than two of its standard errors, sqrt(share (1 - share) / N).
    """
    classes = 1 + int(max(answers.max(), labels.max()))
    given, there = np.bincount(answers, minlength=classes), np.bincount(labels, minlength=classes)
    answered = int(((given > 0) & (given >= SELDOM * there)).sum())
    present = int((there > 0).sum())
    share = float(there.max()) / len(labels)
    error = sqrt(share * (1 - share) / len(labels))
    return {
        "collapsed": present > 1 and answered <= max(1, FEW * present),
        "near_chance": bool((answers == labels).mean() <= share + ERRORS * error),
    }


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
    for attack in ("smoothed", "square", "transfer"):
        if attack in found:
            flags[f"{attack}_wins"] = proven(found["white_box"] & ~found[attack])
    return flags


def missing(missed: np.ndarray) -> bool | None:
    """Whether an attack misses too many planted examples to be believed; None where there are too few to say that it
    finds them. missed: bool [N], for each image with such an example.
    """
    up = proven(missed, MISSED)
    return up if up or len(missed) >= ENOUGH else None


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
