"""The two-layer networks of teacher-student theory, and the two ways in which they begin."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from kdtune.models.layers import Layer, linear
from kdtune.models.model import Model, Shape
from kdtune.settings import Positive, Settings, Units

if TYPE_CHECKING:
    from torch import nn

Strength = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class Grid(Settings):
    """Weights from {-1, -0.75, ..., 1}, each as likely; rows of the hidden layer of unit norm, no two alike; biases of
    -0.1. What node i, counted from 1, gives to every output is divided by i^strength: the first nodes are strong ones.
    """

    strength: Strength


class Init(Settings):
    """`{grid: {strength: 1.0}}`, a teacher that nobody trains, or `{normal: 0.005}`: every weight from N(0, 0.005^2),
    biases 0 (Tian 2019, arXiv 1909.13458, as in the authors' code luckmatters; papers C.2)."""

    grid: Grid | None = None
    normal: Positive | None = None  # standard deviation

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.grid is None) == (self.normal is None):
            raise ValueError("one of grid: {strength: 1.0} and normal: 0.005 says how weights begin")
        return self


class TwoLayer(Model):
    """W2 relu(W1 x + b1) + b2, with `width` hidden nodes: a row of W1 each."""

    key: ClassVar[str] = "two-layer"

    width: Units
    init: Init

    @property
    def title(self) -> str:
        return f"two-layer-{self.width}"

    def build(self, shape: Shape, classes: int) -> nn.Module:
        from kdtune.models.networks import two_layer

        network = two_layer.TwoLayer(prod(shape), self.width, classes)
        if self.init.grid is not None:
            network.from_grid(self.init.grid.strength)
        elif self.init.normal is not None:
            network.from_normal(self.init.normal)
        return network

    def layers(self, shape: Shape, classes: int) -> Iterator[Layer]:
        yield linear(prod(shape), self.width)
        yield linear(self.width, classes)
