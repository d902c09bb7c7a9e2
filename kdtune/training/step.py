"""One step of training: images gathered in their views, the loss, its gradient, the update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from kdtune.data.augmentation import viewed
from kdtune.data.loading import inputs
from kdtune.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from kdtune.data.loading import Split
    from kdtune.recipe import Recipe


Row = dict[str, float]  # the history's values of one epoch


class Objective(Protocol):
    """What training asks of a loss."""

    @property
    def generators(self) -> list[torch.Generator]:
        """What it draws from in this epoch, beside torch's global generators."""

    def begin(self, epoch: int) -> None:
        """Called before the first batch of an epoch, counted from 0."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, averaged over a batch of images float [N, C, H, W] in [0, 1], and detached scalars to record."""

    def end(self) -> dict[str, float]:
        """Values of the epoch for the history."""


class Step:
    """A step as it is taken for a batch: `step(places, views, rate)`.

    `gathering` adds up how long the images take; `names` says what a step records, the loss first.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        split: Split,
        recipe: Recipe,
        lesson: Objective,
    ) -> None:
        self.network, self.optimizer, self.split, self.recipe, self.lesson = network, optimizer, split, recipe, lesson
        self.gathering = Stopwatch(split.images.device)
        self.names: list[str] = []

    def __call__(self, batch: Tensor, views: Tensor, rate: float | Tensor) -> Tensor:
        """What is recorded, on the device. batch: places in the split, int64 [N]; views: a view for each, int64 [N];
        rate: the learning rate, on a device where a graph shall read it there."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.gathering:
            images = inputs(viewed(self.split.images[batch], self.recipe.augmentation, views))
            labels = self.split.labels[batch]
            stored = () if self.split.answers is None else (self.split.answers[batch, views].float(),)
        loss, parts = self.lesson(self.network, images, labels, *stored)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.names = ["loss", *parts]
        return torch.stack([loss.detach(), *parts.values()])
