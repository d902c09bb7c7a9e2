"""What a loss may look at: the student and its teacher, each seeing a batch as it is and as input knobs show it.

Everything is computed when it is first asked for and once: what a loss does not ask for costs nothing. Networks run
in the run's precision; what they answer is float32, and so is every loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """What a network says of a batch: logits float32 [N, K], and the features [N, D] that its classifier made them of;
    None where the loss has not said that it needs them."""

    logits: Tensor
    features: Tensor | None = None


@dataclass(frozen=True)
class Views:
    """One batch. The teacher's answers carry no gradient; where it is noisy, each of its two views is one draw.

    Where no input knob is on, what is shown are the images as they are, and both views are one.
    """

    labels: Tensor  # the dataset's, int64 [N]
    targets: Tensor  # what target knobs made of them: int64 [N], or soft ones float [N, K]
    epoch: int  # counted from 0
    student: Callable[[str], Answer]  # asked for "clean" or "shown"
    teacher: Callable[[str], Answer]
    differ: bool = True  # whether what is shown differs from the images as they are

    @cached_property
    def shown(self) -> Answer:
        """The student on what input knobs made of the images."""
        return self.student("shown") if self.differ else self.clean

    @cached_property
    def clean(self) -> Answer:
        """The student on the images as they are."""
        return self.student("clean")

    @cached_property
    def teacher_shown(self) -> Answer:
        """The teacher on what the student is shown."""
        return self.teacher("shown") if self.differ else self.teacher_clean

    @cached_property
    def teacher_clean(self) -> Answer:
        """The teacher on the images as they are."""
        return self.teacher("clean")
