"""RSLAD: the teacher's soft answers to clean images in the place of all labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kdtune.losses.given import Responses, Shuffle
from kdtune.losses.loss import Loss
from kdtune.settings import Rate

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class RSLAD(Loss):
    """(1 - clean) KL(t(x) || s(x')) + clean KL(t(x) || s(x)), mean over batch *and* classes, for images x and what
    input knobs make of them, x' (Zi et al. 2021, arXiv 2108.07969, as in the authors' code; papers E.3).

    Theirs has clean 1/6, with `noise.input: {pgd: {climbs: teacher, start: {gaussian: 0.001}, ...}}`. No label is
    looked at. Where no input knob is on, both terms are one. `responses` and `shuffle` as in `kd`: of clean images.
    """

    needs_teacher: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    sees_targets: ClassVar[bool] = False

    clean: Rate  # weight of the answers to images as they are

    responses: Responses = "computed"
    shuffle: Shuffle | None = None

    @property
    def softens_at(self) -> float | None:
        return 1.0

    def under(self, moved: bool) -> Loss:
        return self if moved else self.model_copy(update={"clean": 1.0})

    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        from torch.nn import functional

        teacher = functional.log_softmax(views.teacher_clean.logits, dim=1)
        shown, clean = (
            functional.kl_div(
                functional.log_softmax(answer.logits, dim=1), teacher, reduction="none", log_target=True
            ).mean()  # torch's own "mean" is to become another one
            for answer in (views.shown, views.clean)
        )
        return (1 - self.clean) * shown + self.clean * clean, {"kl_shown": shown, "kl_clean": clean}
