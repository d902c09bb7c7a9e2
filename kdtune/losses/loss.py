"""What every loss is: a kind that is called with the views of a batch."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from kdtune.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.losses.views import Views


class Loss(Kind, home="kdtune.losses"):
    """The family of losses."""

    needs_teacher: ClassVar[bool] = False  # a run with such a loss waits for its teachers
    needs_features: ClassVar[bool] = False  # answers carry features, not logits alone

    @property
    def stored(self) -> bool:
        """Whether the teacher's answers are looked up instead of asked for."""
        return getattr(self, "responses", "computed") == "stored"

    @abstractmethod
    def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, averaged over its images, and its parts by name, for the history (`train/<name>`)."""

    @property
    def softens_at(self) -> float | None:
        """The temperature at which it softens the teacher's answers, for knobs that look at softened ones."""
        return None
