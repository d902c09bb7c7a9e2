"""Labels drawn anew: what `target.variability` (every batch) and `labels.corruption` (once) have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.randomness import Draw

DrawnFrom = Literal["wrong", "any"]  # uniform over the K - 1 classes that are not the label's, or over all K


def redraw(labels: Tensor, rate: float, classes: int, drawn: DrawnFrom, draw: Draw) -> Tensor:
    """Each label for itself is drawn anew with probability `rate`; int64 [N], in [0, classes).

    With `wrong` that is another class for certain, with `any` it is the label given in one case of `classes`. A label
    redrawn at one rate is redrawn at every higher one, and to the same class. Raises ValueError for soft targets, and
    where there is no wrong class to draw.
    """
    if labels.is_floating_point():
        raise ValueError("came soft targets, but a label is drawn anew: this knob stands before those that soften")
    if classes < 2:
        raise ValueError(f"came labels of {classes} class: there is no wrong class to draw")
    chosen = draw.uniform(labels) < rate
    if drawn == "any":
        return labels.where(~chosen, draw.integers(classes, labels))
    return labels.where(~chosen, (labels + 1 + draw.integers(classes - 1, labels)) % classes)


def share_changed(before: Tensor, after: Tensor) -> float:
    """How many of the labels differ, as a share of all."""
    return float((before != after).double().mean())
