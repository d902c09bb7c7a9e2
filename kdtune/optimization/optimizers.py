"""Optimizers, as torch has them.

`fused`: one call for all parameters. On the CPU, where small networks wait for it, it takes a sixth of the time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, Strict, model_validator

from kdtune.kinds import Kind
from kdtune.settings import Flag, Positive, Rate, Scale

if TYPE_CHECKING:
    import torch

Decay = Annotated[float, Strict(), Field(ge=0, lt=1)]  # of a running mean: what stays of it at each step


class Optimizer(Kind, home="kdtune.optimization.optimizers"):
    """The family of optimizers. Each has a field `lr`, the rate that the schedule scales."""

    @abstractmethod
    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these parameters; its `defaults` hold the rate as it is stated."""

    @property
    @abstractmethod
    def copies(self) -> int:
        """How many numbers it keeps for every parameter: they are part of a checkpoint."""


class SGD(Optimizer):
    """Stochastic gradient descent (torch.optim.SGD)."""

    lr: Positive
    momentum: Rate = 0.0
    weight_decay: Scale = 0.0
    nesterov: Flag = False

    @model_validator(mode="after")
    def _nesterov_looks_ahead_along_the_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum")
        return self

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(
            parameters, self.lr, self.momentum, 0.0, self.weight_decay, nesterov=self.nesterov, fused=True
        )

    @property
    def copies(self) -> int:
        return int(self.momentum > 0)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, torch.optim.Adam); `weight_decay` is added to the gradient. Its epsilon is torch's."""

    lr: Positive
    betas: tuple[Decay, Decay]  # of the running means of gradient and squared gradient; 0.9, 0.999 in the paper
    weight_decay: Scale = 0.0

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adam(parameters, self.lr, self.betas, weight_decay=self.weight_decay, fused=True)

    @property
    def copies(self) -> int:
        return 2


class AdamW(Optimizer):
    """Adam whose weight decay does not pass through its means (Loshchilov & Hutter 2019, torch.optim.AdamW)."""

    key: ClassVar[str] = "adamw"

    lr: Positive
    betas: tuple[Decay, Decay]  # of the running means of gradient and squared gradient
    weight_decay: Scale = 0.0

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(parameters, self.lr, self.betas, weight_decay=self.weight_decay, fused=True)

    @property
    def copies(self) -> int:
        return 2
