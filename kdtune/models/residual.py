"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from pydantic import field_validator

from kdtune.models.layers import Layer, residual
from kdtune.models.model import Model, Shape
from kdtune.settings import Depth, Rate, Units

if TYPE_CHECKING:
    from torch import nn


class WideResNet(Model):
    """WRN-depth-width (Zagoruyko and Komodakis 2016, arXiv 1605.07146, section 2 and table 1): three groups of
    n = (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels.

    `dropout` is the rate between the two convolutions of every block.
    """

    key: ClassVar[str] = "wrn-{depth}-{width}"
    channels_last: ClassVar[bool] = True
    familiar: ClassVar[tuple[str, ...]] = ("wrn-16-2", "wrn-40-2", "wrn-28-10")

    depth: Depth
    width: Units
    dropout: Rate = 0.0

    @field_validator("depth")
    @classmethod
    def _has_whole_blocks(cls, depth: int) -> int:
        if depth < 10 or depth % 6 != 4:
            below = (depth - 4) // 6 * 6 + 4
            valid = " or ".join(map(str, (below, below + 6) if depth > 10 else (10,)))
            raise ValueError(f"depths are 6n + 4, at least 10; the nearest: {valid}")
        return depth

    @property
    def channels(self) -> tuple[int, int, int]:
        return 16 * self.width, 32 * self.width, 64 * self.width

    def build(self, shape: Shape, classes: int) -> nn.Module:
        from kdtune.models.networks.preactivated import Preactivated

        return Preactivated(shape[0], classes, 16, self.channels, (self.depth - 4) // 6, self.dropout)

    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        return residual(shape, classes, 16, self.channels, (self.depth - 4) // 6, preactivated=True)


class ResNet18(Model):
    """ResNet-18 with a 3 x 3 stem instead of 7 x 7 and pooling (He et al. 2016, arXiv 1512.03385)."""

    key: ClassVar[str] = "resnet-18"
    channels_last: ClassVar[bool] = True

    def build(self, shape: Shape, classes: int) -> nn.Module:
        from kdtune.models.networks import resnet

        return resnet.ResNet18(shape[0], classes)

    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        return residual(shape, classes, 64, (64, 128, 256, 512), 2, preactivated=False)


class PreActResNet18(Model):
    """ResNet-18 whose blocks normalise and activate first (He et al. 2016, arXiv 1603.05027), with a 3 x 3 stem: the
    network of most work on adversarial training. Its last block is normalised and activated too."""

    key: ClassVar[str] = "preact-resnet-18"
    channels_last: ClassVar[bool] = True

    @property
    def title(self) -> str:
        return "PreAct-ResNet-18"

    def build(self, shape: Shape, classes: int) -> nn.Module:
        from kdtune.models.networks.preactivated import Preactivated

        return Preactivated(shape[0], classes, 64, (64, 128, 256, 512), 2, dropout=0.0)

    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        return residual(shape, classes, 64, (64, 128, 256, 512), 2, preactivated=True)
