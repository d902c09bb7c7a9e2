"""Accuracy under attack, in percent; starts and subset are drawn from the evaluation's own seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from kdtune.evaluation.evaluator import BATCH, CLOSED, Evaluator, Measurement, correct, pack, percent, pixels, predict
from kdtune.settings import Count, Positive, Scale

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.datasets import Data


@dataclass(frozen=True, config=CLOSED)
class PGD(Evaluator):
    """Projected gradient descent in the l-infinity ball from random starts, judged at the iterates (Arani et al. 2019).

    `robust/pgd<k>` is conditional, as in the paper: right on the perturbed image among images right when clean, and
    the minimum over the restarts' accuracies. `/unconditional` is the same over all images; `/worst` and
    `/worst_unconditional` count an image only if no restart changes it. The first of `eps` is the headline, further
    ones are `robust/pgd<k>@<eps>`. `robust/clean` is the accuracy on the same images. Where none is right when clean,
    conditional metrics are absent.
    Arrays: packed bits under the metric's name, [restarts, ceil(N / 8)]; `robust/clean` [ceil(N / 8)]; `robust/images`,
    the attacked images' places in the test set, int64 [N].
    """

    eps: Annotated[tuple[Scale, ...], Field(min_length=1)] = (0.031,)  # pixel units, images in [0, 1]
    step: Positive = 0.003  # pixel units; the paper's code, where its text has 0.03
    steps: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 15, 20)
    restarts: Count = 5
    images: Count | None = None  # at most so many test images, drawn once, balanced by class; None: all of them

    version: ClassVar[int] = 1

    @field_validator("eps", "steps")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{value:g}" for value in values}) < len(values):  # as in metrics' names
            raise ValueError("the same value twice; each must be another")
        return values

    def measure(self, network: nn.Module, data: Data, seed: int = 0) -> Measurement:
        chosen = balanced(data.test.labels.cpu().numpy(), self.images, seed)
        images, labels = data.test.images[chosen], data.test.labels[chosen]
        clean = correct(predict(network, images), labels)
        metrics = {"robust/clean": percent(clean)}
        arrays = {"robust/clean": pack(clean), "robust/images": chosen}
        for (eps, count), robust in self._attack(network, pixels(images), labels, seed).items():
            name = f"robust/pgd{count}" + ("" if eps == self.eps[0] else f"@{eps:g}")
            arrays[name] = pack(robust)
            worst = np.logical_and.reduce(robust)
            metrics[f"{name}/unconditional"] = min(percent(restart) for restart in robust)
            metrics[f"{name}/worst_unconditional"] = percent(worst)
            if clean.any():
                metrics[name] = min(percent(restart[clean]) for restart in robust)
                metrics[f"{name}/worst"] = percent(worst[clean])
        return Measurement(metrics, arrays)

    def _attack(
        self, network: nn.Module, images: Tensor, labels: Tensor, seed: int
    ) -> dict[tuple[float, int], np.ndarray]:
        """Which images withstand: bool [restarts, N] by (eps, steps).

        A pass is one eps and one restart over all images. Passes over few images share a batch, in a fixed layout.
        """
        import torch

        from kdtune.attack import pgd, withstood
        from kdtune.randomness import draw

        passes = [(eps, restart) for eps in self.eps for restart in range(self.restarts)]
        together = max(1, BATCH // len(images))
        blank = torch.empty(images.shape)  # starts are drawn on the CPU: the same on every device
        robust: dict[int, list[Tensor]] = {count: [] for count in self.steps}
        for first in range(0, len(passes), together):
            group = passes[first : first + together]
            streams = [draw(seed, f"evaluation.pgd.{eps!r}.{restart}") for eps, restart in group]
            offsets = torch.cat([stream.uniform(blank) * 2 - 1 for stream in streams]).to(images.device)
            radii = torch.tensor([eps for eps, _ in group], device=images.device).repeat_interleave(len(images))
            each = images.repeat(len(group), 1, 1, 1), labels.repeat(len(group)), offsets, radii
            for x, y, offset, eps in zip(*(part.split(BATCH) for part in each), strict=True):
                start = x + eps.view(-1, 1, 1, 1) * offset
                iterates = pgd(network, x, y, start, eps, self.step, max(self.steps), at=self.steps)
                for count, kept in withstood(network, iterates, y).items():
                    robust[count].append(kept.cpu())
        shape = len(self.eps), self.restarts, len(images)
        found = {count: torch.cat(parts).view(shape).numpy() for count, parts in robust.items()}
        return {(eps, count): found[count][i] for i, eps in enumerate(self.eps) for count in self.steps}


def balanced(labels: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """Places of `count` images, as many of each class as there are, ascending: int64 [at most count]; None: all places.

    The first of one fixed random order that goes round the classes, so that a smaller subset lies within a larger one.
    """
    from kdtune.randomness import draw

    order = draw(seed, "evaluation.pgd.images").permutation(len(labels)).numpy()
    place_in_class = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        place_in_class[labels[order] == label] = np.arange((labels == label).sum())
    return np.sort(order[np.argsort(place_in_class, kind="stable")[:count]])
