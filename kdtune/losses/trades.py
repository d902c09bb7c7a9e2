"""TRADES: right on the images as they are, and the same answer to what is shown instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kdtune.losses.ce import CE
from kdtune.losses.loss import Loss
from kdtune.settings import Weight

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class TRADES(Loss):
    """CE(s(x), y) + beta KL(s(x) || s(x')), batch mean, for images x and what input knobs make of them, x'. Gradients
    go through both answers (Zhang et al. 2019, arXiv 1901.08573, equation 5, and the authors' code).

    Theirs is `noise.input: {pgd: {climbs: clean, start: {gaussian: 0.001}, ...}}`. Where no input knob is on it is the
    cross-entropy: such a run is that without it.
    """

    compares: ClassVar[bool] = True

    beta: Weight  # 6 in the paper's best runs on CIFAR-10

    def under(self, moved: bool) -> Loss:
        return self if moved else CE()

    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        from torch.nn import functional

        ce = functional.cross_entropy(views.clean.logits, views.targets)
        clean, shown = (functional.log_softmax(answer.logits, dim=1) for answer in (views.clean, views.shown))
        kl = functional.kl_div(shown, clean, reduction="batchmean", log_target=True)
        return ce + self.beta * kl, {"ce": ce, "kl": kl}
