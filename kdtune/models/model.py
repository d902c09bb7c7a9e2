"""What every model is: a kind that builds its network and says what it costs. Costs need no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from kdtune.kinds import Kind
from kdtune.models.layers import Layer

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]  # channels, height, width of an image


class Model(Kind, home="kdtune.models"):
    """The family of models.

    Every network takes pixels in [0, 1] and returns logits, and is `classifier(features(x))` with flat features.
    """

    # Whether its convolutions may lie channels last in memory, which CPUs compute faster. Not where a network looks at
    # numbers in the order in which they lie, as torch's `view` does.
    channels_last: ClassVar[bool] = False

    @abstractmethod
    def build(self, shape: Shape, classes: int) -> nn.Module:
        """The network, newly initialised from torch's global generator (seed it first), in training mode, on torch's
        default device. It maps pixels [N, *shape] in [0, 1] to logits [N, classes]."""

    @abstractmethod
    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        """Every layer that has parameters or multiplies, with both counts."""

    @property
    def title(self) -> str:
        """The architecture as papers write it. Dropout is not part of it."""
        return self.written.upper().replace("RESNET", "ResNet")

    def cost(self, shape: Shape, classes: int) -> tuple[int, int]:
        """Parameters, and multiply-adds of one image's forward pass in convolutions and linear layers; both exact.

        Trained parameters only: running statistics of BatchNorm are buffers. `shape` is (channels, height, width).
        """
        parameters, multiply_adds = zip(*self.layers(shape, classes), strict=True)
        return sum(parameters), sum(multiply_adds)
