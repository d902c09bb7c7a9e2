"""The squared distance of the student's outputs to its teacher's: no label is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdtune.losses.loss import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class MSE(Loss):
    """1/2 sum over outputs of (student - teacher)^2, batch mean, as teacher-student theory has it (papers C.2): of K
    outputs K/2 times torch's `mse_loss`. A learning rate of 0.01 belongs to it.

    `teacher_sees: clean` compares with what the teacher said of the input as it is; `shown` asks it again about what
    input knobs made of that: the teacher is an oracle, right everywhere.
    """

    needs_teacher: ClassVar[bool] = True
    sees_targets: ClassVar[bool] = False

    teacher_sees: Literal["clean", "shown"] = "clean"

    def under(self, moved: bool) -> Loss:
        return self if moved else MSE()

    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        teacher = views.teacher_shown if self.teacher_sees == "shown" else views.teacher_clean
        distance = (views.shown.logits - teacher.logits).square().sum(1).mean() / 2
        return distance, {"mse": distance}
