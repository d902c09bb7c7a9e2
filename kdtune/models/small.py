"""Small networks for small images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from kdtune.models.layers import Layer, batch_norm, convolution, half, linear
from kdtune.models.model import Model, Shape
from kdtune.settings import Rate, Units

if TYPE_CHECKING:
    from torch import nn


class CNN(Model):
    """Three convolutions. `width` is the channels of the first; `dropout` acts before the classifier."""

    channels_last: ClassVar[bool] = True

    width: Units
    dropout: Rate = 0.0

    @property
    def title(self) -> str:
        return f"CNN-{self.width}"

    def build(self, shape: Shape, classes: int) -> nn.Module:
        from kdtune.models.networks import small

        return small.CNN(self.width, shape[0], classes, self.dropout)

    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        inputs, height, width = shape
        for outputs in (self.width, 2 * self.width, 4 * self.width):
            yield convolution(inputs, outputs, 3, height, width)
            yield batch_norm(outputs)
            inputs, height, width = outputs, half(height), half(width)
        yield linear(inputs, classes)


class LeNet(Model):
    """LeCun et al. 1998 with the rectifiers and the max pooling of later examples: two 5 x 5 convolutions of `width`
    and twice as many channels, a hidden layer of `hidden` units, and no BatchNorm, whose averages belong to the images
    that a network was trained on. `dropout` acts before the classifier.
    """

    key: ClassVar[str] = "lenet"
    channels_last: ClassVar[bool] = True

    width: Units
    hidden: Units
    dropout: Rate = 0.0

    @property
    def title(self) -> str:
        return f"LeNet-{self.width}-{self.hidden}"

    def build(self, shape: Shape, classes: int) -> nn.Module:
        from kdtune.models.networks import small

        return small.LeNet(self.width, self.hidden, shape, classes, self.dropout)

    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        inputs, height, width = shape
        for outputs in (self.width, 2 * self.width):
            yield convolution(inputs, outputs, 5, height, width)
            yield outputs, 0  # its biases
            inputs, height, width = outputs, half(height), half(width)
        yield linear(inputs * height * width, self.hidden)
        yield linear(self.hidden, classes)


class MLP(Model):
    """A multilayer perceptron. `hidden` is the units of each hidden layer; `dropout` acts after each of them."""

    hidden: Annotated[tuple[Units, ...], Field(min_length=1)]
    dropout: Rate = 0.0

    @property
    def title(self) -> str:
        return "-".join(map(str, ("MLP", *self.hidden)))

    def build(self, shape: Shape, classes: int) -> nn.Module:
        from kdtune.models.networks import small

        return small.MLP(self.hidden, shape, classes, self.dropout)

    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        return (linear(inputs, units) for inputs, units in pairwise([prod(shape), *self.hidden, classes]))
