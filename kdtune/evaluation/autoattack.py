"""Accuracy under AutoAttack (Croce & Hein 2020, arXiv 2003.01690), in percent.

An extra: pip install 'kdtune[autoattack]'. The attacks are those of the package pyautoattack, the authors' code as it
was put on PyPI; here is what they are given and how their answer is judged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import (
    BATCH,
    GRADIENT,
    EvaluationError,
    Evaluator,
    Measurement,
    correct,
    pack,
    percent,
    predict,
)
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import Several, balanced, sloping
from kdtune.settings import Count, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Data
    from kdtune.evaluation.subject import Context, Subject

PACKAGE = "pyautoattack"
TARGETS = 9  # classes that the targeted attacks try, at most
CLASSES = 4  # at least: the targeted loss divides by a difference of the first, third and fourth logit
# Steps of APGD-CE, for every image; of the targeted attacks and queries of Square, for one that still stands.
FIRST, TARGETED, QUERIES = 100, 2 * 100 * TARGETS, 5_000
STANDING = 0.1  # share of images that stand after the first, in estimates of cost


class Autoattack(Evaluator):
    """The standard version: APGD on the cross-entropy, targeted APGD and FAB, Square with 5,000 queries.

    `robust/autoattack` is conditional: not broken, among images right when clean; `/unconditional`, among all. The
    first of `eps` is the headline, further ones are `robust/autoattack@<eps>`. `robust/autoattack/clean` is the
    accuracy on the same images. Where none is right when clean, conditional metrics are absent.
    Arrays: packed bits [ceil(N / 8)] under the metric's name and `robust/autoattack/clean`;
    `robust/autoattack/images`, the attacked images' places among those measured on, int64 [N].
    """

    eps: Annotated[tuple[Annotated[Pixels, Field(gt=0)], ...], *Several] = (0.031,)  # pixel units, images in [0, 1]
    images: Count = 1000  # at most so many images, drawn once, balanced by class

    version: ClassVar[int] = 2
    conditional: ClassVar[bool] = True
    needs_pixels: ClassVar[bool] = True

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        found = [Metric("robust/autoattack/clean", better="higher")]
        for eps in self.eps:
            name, first = self._name(eps), eps == self.eps[0]
            found.append(Metric(name, better="higher", headline=first, always=False))
            found.append(Metric(f"{name}/unconditional", better="higher", headline=first))
        return tuple(found)

    def _name(self, eps: float) -> str:
        return "robust/autoattack" + ("" if eps == self.eps[0] else f"@{eps:g}")

    def preflight(self, data: Data, context: Context) -> None:
        super().preflight(data, context)
        lacking = []
        if find_spec(PACKAGE) is None:
            lacking.append(
                f"needs the package {PACKAGE}, which is not installed: pip install 'kdtune[autoattack]', or take "
                "autoattack out of `evaluation`"
            )
        if data.classes < CLASSES:
            lacking.append(f"needs {CLASSES} classes; {data.title} has {data.classes}")
        if lacking:
            raise EvaluationError(f"evaluation.autoattack {'; and it '.join(lacking)}")

    def passes(self, test: int, validation: int) -> int:
        each = GRADIENT * FIRST + STANDING * (GRADIENT * TARGETED + QUERIES)
        return round(each) * len(self.eps) * min(self.images, test) + test + validation

    def measure(self, subject: Subject) -> Measurement:
        network, data, split, seed = subject.network, subject.data, subject.split, subject.seed
        self.preflight(data, subject.context)
        places = balanced(split.labels.cpu().numpy(), self.images, seed)
        images, labels = inputs(split.images[places]), split.labels[places]
        clean = correct(predict(network, split.images[places]), labels)
        sloping(network, images[:1], labels[:1])
        metrics = {"robust/autoattack/clean": percent(clean)}
        arrays = {"robust/autoattack/clean": pack(clean), "robust/autoattack/images": places}
        for eps in self.eps:
            name = self._name(eps)
            robust = clean & standing(network, images, labels, eps, data.classes, seed)
            arrays[name] = pack(robust)
            metrics[f"{name}/unconditional"] = percent(robust)
            if clean.any():
                metrics[name] = percent(robust[clean])
        return Measurement(metrics, arrays)


def standing(network: nn.Module, images: Tensor, labels: Tensor, eps: float, classes: int, seed: int) -> np.ndarray:
    """Which images are still answered rightly after AutoAttack: bool [N].

    images: float [N, C, H, W] in [0, 1]; labels: [N]. What the package returns is put back into the ball and asked
    anew: its own count is not relied upon.
    """
    import torch
    from pyautoattack import AutoAttack

    from kdtune.attacks.pgd import evaluating, withstood
    from kdtune.randomness import seeded

    with evaluating(network), frozen(network), seeded(seed, "evaluation.autoattack"), untraced():
        attack = AutoAttack(network, norm="Linf", eps=eps, seed=seed, version="standard", device=images.device)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, classes - 1)
        found, _ = attack.run_standard_evaluation(images, labels, batch_size=BATCH)
    found = found.clamp(images - eps, images + eps).clamp(0, 1)
    batches = zip(found.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([withstood(network, {0: x}, y)[0] for x, y in batches]).cpu().numpy()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, weights ask for no gradient: FAB calls backward(), which would leave one in `.grad`."""
    asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def untraced() -> Iterator[None]:
    """Inside, a debugger's or a coverage tool's trace may be switched off, as the package does; afterwards it is on."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
