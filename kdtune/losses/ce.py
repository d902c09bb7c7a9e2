"""Cross-entropy: how a network learns alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtune.losses.loss import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class CE(Loss):
    """Cross-entropy of what the student is shown with its targets, batch mean; the loss where none is named."""

    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        from torch.nn import functional

        ce = functional.cross_entropy(views.shown.logits, views.targets)
        return ce, {"ce": ce}
