"""What every loss is: a kind that is called with the views of a batch."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

from kdtune.kinds import Kind
from kdtune.losses.given import Given

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class Loss(Kind, home="kdtune.losses"):
    """The family of losses."""

    needs_teacher: ClassVar[bool] = False  # it looks at a teacher's answers
    needs_features: ClassVar[bool] = False  # answers carry features, not logits alone
    sees_targets: ClassVar[bool] = True  # labels, and what target knobs make of them
    compares: ClassVar[bool] = False  # what is shown with images as they are, so that it needs a knob at `input`

    @property
    def weighs_targets(self) -> bool:
        """Whether targets have a say in it, as it is stated."""
        return self.sees_targets

    @property
    def stored(self) -> bool:
        """Whether the teacher's answers are looked up instead of asked for."""
        return getattr(self, "responses", "computed") != "computed"

    @property
    def given(self) -> Given | None:
        """The answers of a teacher that is not here, where it has such."""
        responses = getattr(self, "responses", None)
        return responses if isinstance(responses, Given) else None

    @property
    def shuffled(self) -> bool:
        """Whether each image has the teacher's answer to another one of its class."""
        return getattr(self, "shuffle", None) is not None

    @property
    def calibration(self) -> str | None:
        """What its alpha and temperature are read from when it begins: an entry of `evaluation` by name; in a run the
        hash of that evaluator. None: they are stated."""
        return getattr(self, "calibrated", None)

    def read_from(self, evaluator: str) -> Self:
        """The same in a run: `evaluator` is the hash of what it is calibrated by."""
        return self.model_copy(update={"calibrated": evaluator})

    def calibrated_to(self, alpha: float, temperature: float) -> Self:
        """The same with what was read."""
        return self.model_copy(update={"alpha": alpha, "temperature": temperature, "calibrated": None})

    @property
    def kept_as(self) -> str:
        """Its `responses` in the words of a sweep file."""
        return "{file: ...}" if self.given else "stored"

    @property
    def asks(self) -> bool:
        """Whether a run with it has a teacher."""
        return self.needs_teacher and self.given is None

    def under(self, moved: bool) -> Loss:
        """The loss that this is where input knobs move images, or do not: of one that `compares` less is left then."""
        return self

    @abstractmethod
    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, averaged over its images, and its parts by name, for the history (`train/<name>`)."""

    @property
    def softens_at(self) -> float | None:
        """The temperature at which it softens the teacher's answers, for knobs that look at softened ones."""
        return None
