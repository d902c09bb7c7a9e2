"""What every source of noise is: a frozen object whose fields are its YAML keys and which is called at its point.

A new knob is one class in the module of its injection point; `knobs_of` finds it, and so do the contract tests. What a
knob promises (tests/test_noise.py holds every knob to it):

- at strength 0 it changes nothing, bit for bit, and such a knob is `off`: it is left out of a run's description;
- it takes the same numbers from its draw at every strength, so that runs which differ only in strength are paired;
- shape, dtype and device of what it is given are kept (but class labels may become soft targets);
- it never writes into its arguments;
- `measure` of what went in and what came out estimates the strength that was stated, or what the knob says it makes of
  that strength (a label drawn from all classes is sometimes the label itself).

Knobs are settings: their modules load torch only inside functions.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from torch import Tensor, nn

POINTS = ("input", "teacher", "target", "labels")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Knob(ABC):
    """Base of all knobs. A subclass is a `pydantic.dataclasses.dataclass(frozen=True)` too; unknown keys are refused.

    The signature of `__call__` belongs to the injection point and stands at the top of its module.
    """

    strength: ClassVar[str]  # the field that says how much noise; 0 is none
    softens: ClassVar[bool] = False  # makes soft targets of labels: no knob for labels can stand after it

    @classmethod
    def name(cls) -> str:
        """The knob's YAML key: its class name in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

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

    def prepare(self, network: nn.Module) -> None:  # noqa: B027 (empty, not abstract: nothing is what most need)
        """Switch on what the knob needs inside `network`, which is in eval mode. Most need nothing."""

    def softened_at(self, temperature: float) -> Self:
        """The knob for answers that the distillation softens at this temperature. To most it makes no difference."""
        return self

    @property
    def asks(self) -> int:
        """How often the teacher answers a batch; the mean of its logits is the answer."""
        return 1


def knobs_of(point: str) -> dict[str, type[Knob]]:
    """The knobs that module `kdtune.noise.<point>` defines, by YAML key, in the order of the code."""
    if point not in POINTS:
        raise ValueError(f"{point!r} is no injection point; there are {', '.join(POINTS)}")
    module = import_module(f"kdtune.noise.{point}")
    found = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Knob))
    return {kind.name(): kind for kind in found if kind.__module__ == module.__name__ and not inspect.isabstract(kind)}
