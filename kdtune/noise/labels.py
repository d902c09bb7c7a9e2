"""Noise in the dataset's labels, drawn once and kept: no other knob and no metric sees the clean label afterwards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from kdtune.noise.knob import Knob
from kdtune.noise.redraw import DrawnFrom, redraw, share_changed
from kdtune.settings import Rate

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.randomness import Draw


class LabelsKnob(Knob, home="kdtune.noise.labels"):
    """The family of knobs at `labels`."""

    @abstractmethod
    def __call__(self, labels: Tensor, classes: int, draw: Draw, answers: Callable[[], Tensor] | None) -> Tensor:
        """The labels, int64 [N] in [0, classes), of all training images of a dataset. Test labels stay clean.

        draw is made from the dataset's seed, so that teacher and student are given the same wrong labels.
        answers() are the classes that the run's teacher gives to the same images, int64 [N], computed when first asked
        for; None where there is no teacher to ask.
        """


class Corruption(LabelsKnob):
    """y' = y with probability 1 - c, else a class drawn uniformly from all K, once for every image: a share
    c (K - 1) / K of the labels is wrong, 0.9 c of ten classes, and that is what is measured (Arani et al., arXiv
    1910.05057, label-noise study, figures 9 and 10; FLC_TS, figures 17 and 18).

    The paper does not say how the class is drawn; this is how the authors' later code does it (papers A.2; papers A.7,
    row 11). With `classes: wrong` it is one of the K - 1 others, and a share c is wrong.
    """

    strength: ClassVar[str] = "rate"
    rate: Rate  # c: probability, for each image, that its label is drawn anew
    classes: DrawnFrom = "any"

    def __call__(self, labels: Tensor, classes: int, draw: Draw, answers: Callable[[], Tensor] | None = None) -> Tensor:
        return redraw(labels, self.rate, classes, self.classes, draw)

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the labels that became wrong."""
        return share_changed(before, after)
