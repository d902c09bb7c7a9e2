"""Accuracy under PGD, in percent; starts and subset are drawn from the evaluation's own seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kdtune.data.loading import Split, inputs
from kdtune.evaluation.evaluator import (
    BATCH,
    GRADIENT,
    Evaluator,
    Measurement,
    Unmeasured,
    correct,
    pack,
    percent,
    predict,
)
from kdtune.evaluation.metric import Metric
from kdtune.settings import Count, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.attacks.pgd import Bounds
    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject

LossName = Literal["cross_entropy", "margin", "scaled"]


def _several(value: Any) -> Any:
    """One number or name stands for a list of one."""
    return (value,) if isinstance(value, str | int | float) else value


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values that metrics' names tell apart, at least one."""
    if not values:
        raise ValueError("the list is empty; write at least 1 value")
    if len({value if isinstance(value, str) else f"{value:g}" for value in values}) < len(values):
        raise ValueError("the same value twice; each must be another")
    return values


Several = BeforeValidator(_several), AfterValidator(distinct)


class Setting(NamedTuple):
    """What one attack varies, beside its start."""

    loss: LossName
    eps: float
    step: float


class Pass(NamedTuple):
    """One restart of one attack on the images at these places."""

    setting: Setting
    restart: int
    places: np.ndarray


class PGD(Evaluator):
    """Projected gradient descent in the l-infinity ball from random starts, judged at the iterates (Arani et al. 2019).

    `robust/pgd<k>` is conditional, as in the paper: right on the perturbed image among images right when clean, and
    the minimum over the restarts' accuracies. `/unconditional` is the same over all images; `/worst` and
    `/worst_unconditional` count an image only if no restart changes it. Where none is right when clean, conditional
    metrics are absent. `robust/clean` is the accuracy on the same images.

    Every eps is taken with every step and every loss; it has starts of its own, which these share. The first eps, the
    first step and the cross-entropy are the headline, at the largest number of steps; what differs from them stands
    behind an @, in that order: `robust/pgd<k>@0.06`, `robust/pgd<k>@step=0.03`,
    `robust/pgd<k>@0.06,step=0.03,margin/worst`.

    `report: worst` gives `/worst` and `/worst_unconditional` alone and no longer attacks images that are broken: the
    same numbers, up to the order in which floating-point sums are taken, for less. `start: clean` begins at the images
    themselves, once: every restart would be the same.

    Arrays: packed bits under the metric's name, [restarts, ceil(N / 8)] (`report: worst`: `/worst`, [ceil(N / 8)]);
    `robust/clean` [ceil(N / 8)]; `robust/images`, the attacked images' places among those measured on, int64 [N].
    """

    eps: Annotated[tuple[Pixels, ...], *Several] = (0.031,)  # pixel units, images in [0, 1]
    step: Annotated[tuple[Annotated[Pixels, Field(gt=0)], ...], *Several] = (
        0.003,
    )  # pixel units; the paper's code, its text has 0.03
    steps: Annotated[tuple[Count, ...], *Several] = (10, 15, 20)
    restarts: Count = 5
    images: Count | None = None  # at most so many images, drawn once, balanced by class; None: all of them
    loss: Annotated[tuple[LossName, ...], *Several] = ("cross_entropy",)
    report: Literal["worst"] | None = None  # None: everything
    start: Literal["clean"] | None = None  # None: uniform in the ball

    version: ClassVar[int] = 2
    conditional: ClassVar[bool] = True

    @model_validator(mode="after")
    def _starts_once(self) -> Self:
        if self.start is not None and self.restarts > 1:
            raise ValueError(f"start: {self.start} makes all {self.restarts} restarts alike; write restarts: 1")
        return self

    @property
    def settings(self) -> list[Setting]:
        """What is attacked with, one after the other."""
        return [Setting(*each) for each in product(self.loss, self.eps, self.step)]

    @property
    def attack(self) -> str:
        """The headline's attack, in words."""
        begins = ", from the clean image" if self.start else f", {self.restarts} restart{'s' * (self.restarts > 1)}"
        return f"eps {self.eps[0]:g}, step {self.step[0]:g}{begins}"

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        found = [Metric("robust/clean", better="higher"), Metric("flags/zero_gradient", "0 or 1", always=False)]
        first = Setting("cross_entropy" if "cross_entropy" in self.loss else self.loss[0], self.eps[0], self.step[0])
        tails = {"/worst": self.report is not None, "/worst_unconditional": self.report is not None}
        if self.report is None:
            tails = {"": True, "/unconditional": True} | tails
        for setting, count in product(self.settings, self.steps):
            most = setting == first and count == max(self.steps)
            found += [
                Metric(
                    f"robust/pgd{count}{self._suffix(setting)}{tail}",
                    better="higher",
                    headline=headline and most,
                    always=tail.endswith("unconditional"),
                )
                for tail, headline in tails.items()
            ]
        return tuple(found)

    def passes(self, test: int, validation: int) -> int:
        attacks = len(self.loss) * len(self.eps) * len(self.step) * self.restarts
        return GRADIENT * max(self.steps) * attacks * min(self.images or test, test) + test + validation

    def measure(self, subject: Subject) -> Measurement:
        import torch

        network, split, seed = subject.network, subject.split, subject.seed
        chosen = balanced(split.labels.cpu().numpy(), self.images, seed)
        attacked = split[torch.from_numpy(chosen)]
        images, labels = inputs(attacked.images), attacked.labels
        clean = correct(predict(network, attacked.images), labels)
        slope = sloping(network, images[:BATCH], labels[:BATCH])
        metrics = {"robust/clean": percent(clean)} | ({} if slope else {"flags/zero_gradient": 1.0})
        arrays = {"robust/clean": pack(clean), "robust/images": chosen}
        for setting, kept in self._attack(network, attacked, seed).items():
            for count, robust in zip(self.steps, kept, strict=True):
                name = f"robust/pgd{count}{self._suffix(setting)}"
                worst = robust.all(0)
                metrics[f"{name}/worst_unconditional"] = percent(worst)
                if clean.any():
                    metrics[f"{name}/worst"] = percent(worst[clean])
                if self.report == "worst":
                    arrays[f"{name}/worst"] = pack(worst)
                    continue
                arrays[name] = pack(robust)
                metrics[f"{name}/unconditional"] = min(percent(restart) for restart in robust)
                if clean.any():
                    metrics[name] = min(percent(restart[clean]) for restart in robust)
        return Measurement(metrics, arrays)

    def _suffix(self, setting: Setting) -> str:
        """What differs from the headline, as metrics' names have it."""
        differs = [] if setting.eps == self.eps[0] else [f"{setting.eps:g}"]
        differs += [] if setting.step == self.step[0] else [f"step={setting.step:g}"]
        differs += [] if setting.loss == "cross_entropy" else [setting.loss]
        return "@" + ",".join(differs) if differs else ""

    def _attack(self, network: nn.Module, split: Split, seed: int) -> dict[Setting, np.ndarray]:
        """Which images withstand: bool [steps, restarts, N] by setting.

        With `report: worst` what is broken at every step count is left out of the later restarts, and stands as true
        there. Passes over few images share a batch, in a fixed layout.
        """
        settings = self.settings
        shape = len(self.steps), self.restarts, len(split)
        robust = {setting: np.ones(shape, dtype=bool) for setting in settings}
        every = range(self.restarts)
        for restarts in [every] if self.report is None else [[restart] for restart in every]:
            standing = {setting: np.flatnonzero(kept.all(1).any(0)) for setting, kept in robust.items()}
            passes = [Pass(setting, restart, standing[setting]) for setting in settings for restart in restarts]
            for group in _batches(passes):
                kept = self._outcomes(network, split, group, seed)
                ends = np.cumsum([len(each.places) for each in group])
                for each, part in zip(group, np.split(kept, ends[:-1], axis=1), strict=True):
                    robust[each.setting][:, each.restart, each.places] = part
        return robust

    def _outcomes(self, network: nn.Module, split: Split, group: list[Pass], seed: int) -> np.ndarray:
        """Which images withstand these passes, one after the other: bool [steps, all their images]."""
        import torch

        from kdtune.randomness import draw

        images, labels = inputs(split.images), split.labels
        blank = torch.empty(images.shape)  # starts are drawn on the CPU: the same on every device
        parts = []
        for (_, eps, step), restart, places in group:
            offsets = draw(seed, f"evaluation.pgd.{eps!r}.{restart}").uniform(blank)[places] * 2 - 1
            start = images[places] if self.start else images[places] + eps * offsets.to(images.device)
            sizes = (torch.full((len(places),), size, device=images.device) for size in (eps, step))
            parts.append((images[places], labels[places], start, *sizes))
        x, y, start, radii, strides = (torch.cat(part) for part in zip(*parts, strict=True))
        found = withstanding(network, x, y, start, radii, strides, self.steps, group[0].setting.loss, split.bounds)
        return np.stack([found[count] for count in self.steps])


def sloping(network: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether the margin has a gradient in any pixel of any of these images; if not, PGD stays where it starts.

    Raises Unmeasured where there cannot be any, as autograd does not find its way to the pixels.
    """
    from kdtune.attacks.pgd import differentiable, evaluating, gradient, margin

    if not differentiable(network, images[:1], labels[:1]):
        raise Unmeasured("zero_gradient", "logits do not depend on the pixels by way of what autograd sees")
    with evaluating(network):
        return bool((gradient(network, images, labels, margin) != 0).any())


def withstanding(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    eps: Tensor,
    step: Tensor,
    at: Iterable[int],
    loss: LossName = "cross_entropy",
    bounds: Bounds = (0.0, 1.0),
) -> dict[int, np.ndarray]:
    """Which images are answered rightly after so many steps of PGD: bool [N] by step count, batch by batch.

    images, start: float [N, C, H, W]; labels: [N]; eps, step: [N], pixel units.
    """
    from kdtune.attacks.pgd import LOSSES, pgd, withstood

    at = tuple(at)
    kept: dict[int, list[np.ndarray]] = {count: [] for count in at}
    for x, y, begin, radius, stride in zip(
        *(each.split(BATCH) for each in (images, labels, start, eps, step)), strict=True
    ):
        iterates = pgd(network, x, y, begin, radius, stride, max(at), at=at, loss=LOSSES[loss], bounds=bounds)
        for count, right in withstood(network, iterates, y).items():
            kept[count].append(right.cpu().numpy())
    return {count: np.concatenate(parts) for count, parts in kept.items()}


def _batches(passes: list[Pass]) -> Iterator[list[Pass]]:
    """Passes with one loss and together at most BATCH images. One of more stands alone, one of none is left out."""
    group: list[Pass] = []
    for each in (each for each in passes if len(each.places)):
        size = sum(len(other.places) for other in group) + len(each.places)
        if group and (size > BATCH or each.setting.loss != group[0].setting.loss):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


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
