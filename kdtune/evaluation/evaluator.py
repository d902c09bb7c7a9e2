"""What every evaluator is: a kind whose results are kept under a hash of its settings; and how a network is read."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, model_validator

from kdtune.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.evaluation.subject import Subject

BATCH = 500  # fixed: float32 logits differ in their last bits between batch sizes
GRADIENT = 3  # forward passes that one pass with its gradient costs
REPEATABLE = 1e-4  # largest difference of logits between two passes; AutoAttack's bound (checks.py)


class EvaluationError(Exception):
    """A network that must not be measured: it answers at random, or not with finite float32 logits."""


@dataclass(frozen=True)
class Measurement:
    """Metrics by name (rates in percent), and arrays by name: what numbers can be read off again later."""

    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator(Kind, home="kdtune.evaluation"):
    """The family of evaluators. Results are kept under `hash`: raise `version` when the same keys give other numbers.

    Beside each stand `on: val`, which measures on the images held out, under `val/`, and `of: last | average`, other
    weights of the same run.
    """

    version: ClassVar[int]
    also_held_out: ClassVar[bool] = True  # whether `on: val` means something

    on: Literal["val"] | None = None
    of: Literal["last", "average"] | None = None

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.of is not None:
            raise ValueError(f"of: {self.of}: a run keeps one set of weights so far; remove it")
        if self.on is not None and not self.also_held_out:
            raise ValueError(f"on: {self.on}: {self.key} is not measured on held-out images by itself; remove it")
        return self

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Metrics and arrays of `subject.network` on `subject.split`.

        Raises EvaluationError or FloatingPointError for a network that cannot be measured.
        """

    def measured(self, subject: Subject) -> Measurement:
        """What `measure` gives for the images that are asked for, under names that say so."""
        found = self.measure(subject.on(self.on))
        metrics = {f"{self.prefix}{name}": value for name, value in found.metrics.items()}
        arrays = {f"{self.prefix}{name}": value for name, value in found.arrays.items()}
        return Measurement(metrics, arrays)

    @property
    def prefix(self) -> str:
        return "val/" if self.on == "val" else ""

    def preflight(self) -> None:
        """Raises EvaluationError where this machine lacks what the evaluator needs. Called once, before any run."""

    def passes(self, test: int, validation: int) -> int:
        """About how many images go forward through the network, of sets of these sizes; a gradient counts GRADIENT."""
        return test + validation

    @property
    def writes(self) -> str:
        """What its metrics' names begin with, as far as settings tell; two entries of a sweep may not share it."""
        return self.key

    @property
    def writes_under(self) -> str:
        return f"{self.prefix}{self.writes}"

    @property
    def hash(self) -> str:
        """12 hex digits of a SHA-256 over name, version and every field that is not None, defaults included.

        None is "off" and leaves no trace, so that a new option keeps the results there are. A setting with a method
        `identity` counts by what that gives: a folder is its content, not its path.
        """
        stated = {name: getattr(self, name) for name in type(self).model_fields}
        fields = {name: _content(value) for name, value in stated.items() if value is not None}
        text = json.dumps({"name": self.key, "version": self.version, "fields": fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of images, float32 [N, K] on the CPU, in eval mode, in batches of fixed size and order.

    images: uint8 [N, C, H, W] on the network's device. The first batch is asked twice.
    Raises EvaluationError where the answers differ, or are no finite float32 logits, or where there is no image.
    """
    import torch

    from kdtune.attacks.pgd import evaluating

    if not len(images):
        raise EvaluationError("there are no images to evaluate on")
    logits: list[Tensor] = []
    with evaluating(network), torch.no_grad():
        for batch in images.split(BATCH):
            answer = checked(network(pixels(batch)), len(batch))
            if not logits and (answer - network(pixels(batch))).abs().max() > REPEATABLE:
                raise EvaluationError("logits differ for the same images; a noise source is still on")
            logits.append(answer.cpu())
    return torch.cat(logits)


def checked(answer: Tensor, count: int) -> Tensor:
    """The answer of a network to `count` images, if it is finite float32 logits [count, K]; else EvaluationError."""
    import torch

    if answer.dim() != 2 or answer.dtype != torch.float32:
        came, wanted = f"{answer.dtype} {list(answer.shape)}", f"torch.float32 [{count}, classes]"
        raise EvaluationError(f"the network answers with {came} where {wanted} was expected")
    if not answer.isfinite().all():
        broken = int((~answer.isfinite()).any(1).sum())
        raise EvaluationError(f"logits are not finite for {broken} of {count} images; has the run diverged?")
    return answer


def pixels(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], as networks take them."""
    return images.float() / 255


def correct(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Whether the largest logit is the label's: bool [N]. `logits` lie on the CPU, as `predict` gives them."""
    return (logits.argmax(1) == labels.cpu()).numpy()


def percent(bits: np.ndarray) -> float:
    """The share of true bits, in percent."""
    return 100 * float(bits.mean())


def pack(bits: np.ndarray) -> np.ndarray:
    """Bits along the last axis, eight to a byte: uint8 [..., ceil(N / 8)], the tail filled with zeros."""
    return np.packbits(bits, axis=-1)


def unpack(packed: np.ndarray, count: int) -> np.ndarray:
    """The first `count` bits of what `pack` wrote: bool [..., count]."""
    return np.unpackbits(packed, axis=-1, count=count).astype(bool)


def _content(value: Any) -> Any:
    """A field's value as JSON."""
    if hasattr(value, "identity"):
        return value.identity()
    if isinstance(value, Kind):
        return value.dumped()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
