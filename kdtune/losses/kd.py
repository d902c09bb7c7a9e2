"""Distillation: what a sweep file writes as `distillation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import ValidationError, model_validator
from pydantic_core import InitErrorDetails

from kdtune.losses.given import Responses, Shuffle
from kdtune.losses.loss import Loss
from kdtune.settings import Rate, Temperature, Text, refused_at

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class KD(Loss):
    """(1 - alpha) CE + alpha temperature^2 KL, batch mean (Hinton et al. 2015; Arani et al. 2019, section 3).

    `divergence: forward` is KL(teacher || student), Hinton's and the default of common code; `reverse` is
    KL(student || teacher), as the paper's equations are printed (papers A.7, row 14). `teacher_sees: shown` gives
    the teacher what input knobs made of the images, as the student sees them, instead of the clean ones.

    `calibrated: calibration` stands for alpha and temperature: the weight and the temperature that the entry
    `calibration` of `evaluation` has measured of the student's own teacher, read when the student begins (Dong, Liu &
    Shang 2022, KD-AT-Auto: an adversarial student whose `teacher_sees: shown`).

    `responses: stored` looks the teacher's answers up, in half precision, which `training.responses` has kept for every
    view of the images: students of one teacher share them. `responses: {file: PATH}` looks up what somebody else's
    teacher gave (`training.given`); the sweep then needs no teacher for it. `shuffle: class`, with either of them,
    gives every image the answers that the teacher gave to another image of its class, in the same view, from the
    beginning to the end: how soft they are stays as it is, and which classes are taken for which; what the teacher
    knows of the single image is gone.
    """

    needs_teacher: ClassVar[bool] = True

    alpha: Rate | None = None  # the share of the teacher; required but for `calibrated`
    temperature: Temperature | None = None  # required but for `calibrated`
    calibrated: Text | None = None  # an entry of `evaluation`: calibration, or calibration@LABEL
    divergence: Literal["forward", "reverse"] = "forward"
    teacher_sees: Literal["clean", "shown"] = "clean"

    responses: Responses = "computed"
    shuffle: Shuffle | None = None

    @model_validator(mode="after")
    def _stated_or_calibrated(self) -> Self:
        stated = {"alpha": self.alpha, "temperature": self.temperature}
        if self.calibrated is None:
            lacking = [name for name, value in stated.items() if value is None]
            missing = [InitErrorDetails(type="missing", loc=(name,), input={}) for name in lacking]
            if missing:
                raise ValidationError.from_exception_data("kd", missing)
            return self
        for name, value in stated.items():
            if value is not None:
                told = f"calibrated: {self.calibrated} reads {name} from the teacher's calibration; remove one of them"
                raise refused_at((name,), told, value)
        if self.given is not None:
            told = "responses: {file: ...} are of a teacher that is not here, and nobody has calibrated it"
            raise refused_at(("calibrated",), told, self.calibrated)
        return self

    @property
    def weighs_targets(self) -> bool:
        return self.alpha != 1

    @property
    def softens_at(self) -> float | None:
        return self.temperature

    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        from torch.nn import functional

        if self.alpha is None or self.temperature is None:
            raise ValueError(f"alpha and temperature are still to be read, as calibrated: {self.calibrated} says")
        # The teacher first: what it computes is freed before the student's pass, which is kept for its gradient.
        teacher = (views.teacher_shown if self.teacher_sees == "shown" else views.teacher_clean).logits
        student = views.shown.logits
        ce = functional.cross_entropy(student, views.targets)
        kd = kd_loss(student, teacher, self.temperature, self.divergence)
        return (1 - self.alpha) * ce + self.alpha * kd, {"ce": ce, "kd": kd}


def kd_loss(student: Tensor, teacher: Tensor, temperature: float, divergence: str = "forward") -> Tensor:
    """temperature^2 times the KL divergence between softened answers, summed over classes, averaged over images.

    `student` and `teacher` are logits [N, K]; `forward` is KL(teacher || student), `reverse` KL(student || teacher).
    The factor keeps gradients of one size at all temperatures (Hinton et al., arXiv 1503.02531, section 2).
    """
    from torch.nn import functional

    log_s = functional.log_softmax(student / temperature, dim=1)
    log_t = functional.log_softmax(teacher / temperature, dim=1)
    approximation, reference = (log_s, log_t) if divergence == "forward" else (log_t, log_s)
    return temperature**2 * functional.kl_div(approximation, reference, reduction="batchmean", log_target=True)
