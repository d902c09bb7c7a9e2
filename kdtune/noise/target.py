"""Noise on the targets that the student is trained on, redrawn for every batch. Only the cross-entropy sees them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from kdtune.noise.knob import Knob
from kdtune.noise.redraw import DrawnFrom, redraw, share_changed
from kdtune.settings import Positive, Rate, Weight

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.randomness import Draw


class TargetKnob(Knob, home="kdtune.noise.target"):
    """The family of knobs at `target`. One that makes soft targets can only be the last of them."""

    needs_moved: ClassVar[bool] = False  # it hangs on what input knobs do

    @abstractmethod
    def __call__(self, labels: Tensor, classes: int, draw: Draw, moved: Tensor | None) -> Tensor:
        """Labels int64 [N] in [0, classes) again, or soft targets, float [N, classes], rows summing to 1.

        moved: what input knobs added to the images, float [N, C, H, W], for targets that hang on it.
        """


class Variability(TargetKnob):
    """Messy Collaboration: y' = y with probability 1 - r, else a class drawn uniformly from the K - 1 wrong ones, anew
    for every sample of every batch (Arani et al., arXiv 1910.05057, target variability, figures 6 to 8; the paper does
    not say how the class is drawn: papers A.2; papers A.7, row 12).

    On the student it is MC-S, on the teacher MC-T, on both MC-TS. With `classes: any` the class is drawn from all K, so
    that only a share r (K - 1) / K of the labels is wrong, and that is what is measured.
    """

    strength: ClassVar[str] = "rate"
    rate: Rate  # r: probability, for each sample of each batch, that its label is drawn anew
    classes: DrawnFrom = "wrong"

    def __call__(self, labels: Tensor, classes: int, draw: Draw, moved: Tensor | None = None) -> Tensor:
        return redraw(labels, self.rate, classes, self.classes, draw)

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the labels that became wrong."""
        return share_changed(before, after)


class Smoothing(TargetKnob):
    """Soft targets: 1 - r on the label, r / (K - 1) on every other class. Nothing is random.

    At equal r this is the expectation of `variability` (wrong classes), and as cross-entropy is linear in its target,
    so is its loss: what is left between the two is the noise itself. The smoothing of Szegedy et al. (arXiv 1512.00567,
    section 7) and of torch's `label_smoothing`, epsilon / K on every class, is r = epsilon (K - 1) / K.
    """

    strength: ClassVar[str] = "rate"
    softens: ClassVar[bool] = True
    rate: Rate  # r: what the label's class gives away to the others together

    def __call__(self, labels: Tensor, classes: int, draw: Draw, moved: Tensor | None = None) -> Tensor:
        """Labels int64 [N] to targets float32 [N, classes]; at rate 0 the labels as they came, bit for bit."""
        import torch

        if self.off:
            return labels
        if labels.is_floating_point():
            raise ValueError("came soft targets, but smoothing makes them from labels: only the last knob may soften")
        if classes < 2:
            raise ValueError(f"came labels of {classes} class: there is no other class to share with")
        soft = torch.full((len(labels), classes), self.rate / (classes - 1), device=labels.device)
        return soft.scatter_(1, labels[:, None], 1 - self.rate)

    def measure(self, before: Tensor, after: Tensor) -> float:
        """What is missing on the labels' own classes, mean over the batch."""
        return float(1 - after.double().gather(1, before[:, None]).mean())


class Calibrated(TargetKnob):
    """Targets of confidence-calibrated adversarial training: weight lambda = (1 - min(1, |x' - x| / eps))^rho on the
    label, the rest uniform over all classes, for an image that input knobs moved from x to x' (Stutz, Hein & Schiele
    2020, arXiv 1910.06259, equations 7 and 8; papers C.2). Nothing is random.

    Theirs is `noise.input: {pgd: {climbs: confidence, share: 0.5, ...}}`, with the same norm and eps.
    """

    strength: ClassVar[str] = "rho"
    softens: ClassVar[bool] = True
    needs_moved: ClassVar[bool] = True

    norm: Literal["linf", "l2"] = "linf"
    eps: Positive  # where nothing is left of the label, in `norm`
    rho: Weight  # how fast: 10 in the paper, 12 in code of one of the authors

    def __call__(self, labels: Tensor, classes: int, draw: Draw, moved: Tensor | None) -> Tensor:
        """Labels int64 [N] to targets float32 [N, classes]; at rho 0 the labels as they came, bit for bit."""
        from torch.nn import functional

        if self.off:
            return labels
        if labels.is_floating_point():
            raise ValueError("came soft targets, but calibrated makes them from labels: only the last knob may soften")
        if moved is None:
            raise ValueError("no input knob moves an image, which targets could hang on")
        flat = moved.flatten(1)
        distance = flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)
        weight = ((1 - distance / self.eps).clamp(min=0) ** self.rho)[:, None]
        return weight * functional.one_hot(labels, classes) + (1 - weight) / classes

    def measure(self, before: Tensor, after: Tensor) -> float:
        """What is missing on the labels' own classes, mean over the batch."""
        return float(1 - after.double().gather(1, before[:, None]).mean())
