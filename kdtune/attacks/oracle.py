"""Attacks on what two networks say differently: the second is asked at every iterate, too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Apart = Callable[[Tensor, Tensor], Tensor]  # logits of the first and of the second, [N, K] each -> a scalar to climb


class Pair(nn.Module):
    """Two networks as one, whose answer is both logits side by side, [N, 2 K]: gradients go through both."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.first(images), self.second(images)], dim=1)


def climbing(apart: Apart) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of `Pair`'s answers, as `pgd` takes it; it looks at no label."""
    return lambda both, labels: apart(*both.chunk(2, dim=1))


def squared(first: Tensor, second: Tensor) -> Tensor:
    """1/2 |first - second|^2, sum over the images."""
    return (first - second).square().sum() / 2


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL(second || first) of their softmax answers, sum over the images."""
    log_first, log_second = first.log_softmax(1), second.log_softmax(1)
    return functional.kl_div(log_first, log_second, reduction="sum", log_target=True)
