"""What every source of noise is: a kind whose fields are its YAML keys and which is called at its injection point.

Each point is a family of its own, in the module of its name; there the signature of a call stands. A new knob is one
class in that module. What a knob promises (tests/noise/test_knobs.py holds every knob to it):

- at strength 0 it changes nothing, bit for bit, and such a knob is `off`: it is left out of a run's description;
- it takes the same numbers from its draw at every strength, so that runs which differ only in strength are paired;
- shape, dtype and device of what it is given are kept (but class labels may become soft targets);
- it never writes into its arguments;
- `measure` of what went in and what came out estimates the strength that was stated, or what the knob says it makes of
  that strength (a label drawn from all classes is sometimes the label itself).
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from kdtune.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor, nn

POINTS = ("input", "teacher", "target", "labels")


class Knob(Kind):
    """Base of all knobs."""

    strength: ClassVar[str]  # the field that says how much noise; 0 is none. What has none is never off
    # Whether it may draw from torch's global generators, as the dropout of a network does that it asks. At `input` and
    # `teacher` these are then given streams of their own.
    draws_globally: ClassVar[bool] = True
    softens: ClassVar[bool] = False  # makes soft targets of labels: no knob for labels can stand after it

    @classmethod
    def __pydantic_init_subclass__(cls, home: str | None = None, **rest: Any) -> None:
        if (
            getattr(cls, "strength", None) not in cls.model_fields
            and not inspect.isabstract(cls)
            and cls.off is Knob.off
        ):
            fields = ", ".join(cls.model_fields) or "it has no field yet"
            raise TypeError(f"{cls.__name__}: `strength` names the field that says how much noise: {fields}")
        super().__pydantic_init_subclass__(home, **rest)

    @property
    def stated(self) -> float:
        """The strength as the sweep file states it."""
        return float(getattr(self, self.strength))

    @property
    def off(self) -> bool:
        return self.stated == 0

    @abstractmethod
    def measure(self, before: Tensor, after: Tensor) -> float:
        """The strength as seen in one batch, in the unit of the stated one; NaN if the batch cannot show it."""

    def layers(self, network: nn.Module) -> list[nn.Module]:
        """The layers a knob acts in, whose inputs and outputs show its strength. Most act in none: they are called."""
        return []

    def prepare(self, network: nn.Module) -> None:
        """Switch on what the knob needs inside `network`, which is in eval mode. Most need nothing."""

    def softened_at(self, temperature: float) -> Self:
        """The knob for answers that the loss softens at this temperature. To most it makes no difference."""
        return self

    @property
    def asks(self) -> int:
        """How often the teacher answers a batch; the mean of its logits is the answer."""
        return 1

    @property
    def student_passes(self) -> float:
        """Forward passes of the network in training that an image costs besides; one with its gradient counts three.

        A mean over the images, where some cost more than others."""
        return 0
