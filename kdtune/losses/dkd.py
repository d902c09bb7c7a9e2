"""Decoupled distillation: the target class and the rest of the classes, each with a weight of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kdtune.losses.given import Responses, Shuffle
from kdtune.losses.loss import Loss
from kdtune.settings import Temperature, Weight, Whole

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class DKD(Loss):
    """CE + warm-up temperature^2 (alpha TCKD + beta NCKD), batch mean (Zhao et al., arXiv 2203.08679, equation 7).

    With softened answers p (teacher) and q (student), and t the label: TCKD is KL(p || q) of the two outcomes "t" and
    "not t"; NCKD is KL(p || q) among the classes that are not t. KD is alpha = 1 with beta = 1 - p_t, for each image.
    The factor of both rises from 1 / warmup to 1 over the first `warmup` epochs, as in the authors' code; 0: at once.
    `responses` and `shuffle` as in `kd`.
    """

    needs_teacher: ClassVar[bool] = True

    alpha: Weight
    beta: Weight
    temperature: Temperature
    warmup: Whole = 0  # epochs

    responses: Responses = "computed"
    shuffle: Shuffle | None = None

    @property
    def softens_at(self) -> float | None:
        return self.temperature

    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        from torch.nn import functional

        ce = functional.cross_entropy(views.shown.logits, views.targets)
        log_q = functional.log_softmax(views.shown.logits / self.temperature, dim=1)
        log_p = functional.log_softmax(views.teacher_clean.logits / self.temperature, dim=1)
        (p_or_not, p_rest), (q_or_not, q_rest) = (_decoupled(log, views.labels) for log in (log_p, log_q))
        tckd = functional.kl_div(q_or_not, p_or_not, reduction="batchmean", log_target=True)
        nckd = functional.kl_div(q_rest, p_rest, reduction="batchmean", log_target=True)
        weight = min((views.epoch + 1) / self.warmup, 1.0) if self.warmup else 1.0
        loss = ce + weight * self.temperature**2 * (self.alpha * tckd + self.beta * nckd)
        return loss, {"ce": ce, "tckd": tckd, "nckd": nckd}


def _decoupled(log: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, K] as those of the label or not [N, 2], and of each class given that it is not [N, K - 1].

    By places, not by a mask: how many values a mask picks a GPU would be waited for.
    """
    import torch

    label, places = labels[:, None], torch.arange(log.shape[1] - 1, device=log.device)
    others = log.gather(1, places + (places >= label))
    rest = others.logsumexp(dim=1, keepdim=True)
    return torch.cat([log.gather(1, label), rest], dim=1), others - rest
