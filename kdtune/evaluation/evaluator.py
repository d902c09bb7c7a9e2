"""What every evaluator is: a kind whose results are kept under a hash of its settings; and how a network is read."""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from kdtune.data.loading import inputs
from kdtune.evaluation.flags import DEGENERATE, degenerate
from kdtune.evaluation.metric import Metric
from kdtune.extensions import codes_of
from kdtune.kinds import Kind
from kdtune.settings import Count, Text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Data
    from kdtune.evaluation.subject import Context, Subject

BATCH = 500  # fixed: float32 logits differ in their last bits between batch sizes
GRADIENT = 3  # forward passes that one pass with its gradient costs
REPEATABLE = 1e-4  # largest distance of logits of length 1 between two passes; AutoAttack's bound (checks.py)


class EvaluationError(Exception):
    """A network that must not be measured: it does not answer with finite float32 logits."""


class NotFinite(EvaluationError):
    """Logits that are no numbers: a network that training broke, though its weights may still be finite."""


UNMEASURED = ("randomised", "zero_gradient")  # flags that may stand where numbers would


class Unmeasured(EvaluationError):
    """A network of which a number would say nothing. The run goes on: the flag stands where the number would."""

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(reason)
        self.flag = flag


@dataclass(frozen=True)
class Measurement:
    """Metrics by name (rates in percent), and arrays by name: what numbers can be read off again later."""

    metrics: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


Label = Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+,-]{0,199}$")]


class Evaluator(Kind, home="kdtune.evaluation"):
    """The family of evaluators. Results are kept under `hash`: raise `version` when the same keys give other numbers.

    Beside each stand `on: val`, which measures on the images held out, under `val/`; `of: last | average`, other
    weights of the same run; and `label: TEXT`, which tells two entries of one name apart: behind an @ in the names of
    all that it measures. `every: N` measures it while runs train, too: after every so many epochs and after the last
    one, into the history under the names of its metrics. That is part of what a run is (`watch` of its description).
    """

    version: ClassVar[int]
    also_held_out: ClassVar[bool] = True  # whether `on: val` means something
    # Whether it counts among images that are right when clean: then a network that always gives one answer looks
    # robust, and the flags of `flags.degenerate` stand beside its numbers.
    conditional: ClassVar[bool] = False
    needs_pixels: ClassVar[bool] = False  # images of 8 bits, which are in [0, 1] whatever is done to them
    needs_features: ClassVar[bool] = False  # of the teacher, which several that answer as one do not have
    needs_last: ClassVar[bool] = False  # looks at the last epoch's weights beside those that `recipe.keep` kept
    needs_teacher: ClassVar[bool] = False  # says nothing of a network that learned alone

    on: Literal["val"] | None = None
    of: Literal["last", "average"] | None = None
    every: Count | None = None  # epochs
    label: Label | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, home: str | None = None, **rest: Any) -> None:
        if not hasattr(cls, "version") and not inspect.isabstract(cls):
            raise TypeError(f"{cls.__name__} has no version: write version: ClassVar[int] = 1")
        super().__pydantic_init_subclass__(home, **rest)

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.of is not None and self.every is not None:
            raise ValueError(f"every measures the network as it trains, and of: {self.of} what is kept; one of them")
        if self.needs_last and self.every is not None:
            told = "looks at the last epoch's weights, which are not there before"
            raise ValueError(f"every: {self.key} {told}; remove it")
        if self.on is not None and not self.also_held_out:
            raise ValueError(f"on: {self.on}: {self.key} is not measured on held-out images by itself; remove it")
        return self

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Metrics and arrays of `subject.network` on `subject.split`.

        Raises EvaluationError or FloatingPointError for a network that cannot be measured, Unmeasured where that is to
        be said and the run goes on.
        """

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        """Every metric that `measure` may give on this data set. Neither images nor torch are needed to say so.

        One that is not named here stands in the table all the same, but nothing is chosen by it.
        """
        return ()

    def measured(self, subject: Subject) -> Measurement:
        """What `measure` gives for the images that are asked for, under names that say so; of a network that a number
        would say nothing of, the flag that says why."""
        subject = subject.of(self.of).on(self.on)
        try:
            found = self.measure(subject)
        except Unmeasured as unmeasured:
            found = Measurement({f"flags/{unmeasured.flag}": 1.0})
        metrics = {self.column(name): value for name, value in found.metrics.items()}
        if self.conditional:
            with suppress(Unmeasured):  # which is told already
                metrics |= {f"{self.prefix}{name}": value for name, value in answering(subject).items()}
        return Measurement(metrics, {self.column(name): value for name, value in found.arrays.items()})

    def declared(self, dataset: Dataset) -> dict[str, Metric]:
        """Every metric that `measured` may give on this data set, by name.

        Headlines are of test images, and of one entry among several of a name: that without a label.
        """
        shown = self.on is None and self.of is None and self.label is None
        found = {self.column(metric.name): metric for metric in self.metrics(dataset)}
        if self.conditional:
            found |= {f"{self.prefix}flags/{name}": Metric(f"flags/{name}", "0 or 1") for name in DEGENERATE}
        told = {f"flags/{name}": Metric(f"flags/{name}", "0 or 1", always=False) for name in UNMEASURED}
        found = {self.column(name): metric for name, metric in told.items()} | found
        return {name: replace(metric, name=name, headline=metric.headline and shown) for name, metric in found.items()}

    def column(self, name: str) -> str:
        """A metric's name in the table: `val/robust/pgd20@restarts=1/worst`."""
        if self.label is not None:
            parts = name.split("/")
            of = "/".join(parts[:2])
            name = "/".join([f"{of}{',' if '@' in of else '@'}{self.label}", *parts[2:]])
        return f"{self.prefix}{name}"

    @property
    def looks_at_held_out(self) -> bool:
        """Whether it measures nothing where no images are held out."""
        return self.on == "val"

    @property
    def prefix(self) -> str:
        return ("val/" if self.on == "val" else "") + (f"{self.of}/" if self.of else "")

    @property
    def weights(self) -> frozenset[str]:
        """What of a run's weights it looks at beside those that the run ends with: "last", "average"."""
        return frozenset(({self.of} if self.of else set()) | ({"last"} if self.needs_last else set()))

    def preflight(self, data: Data, context: Context) -> None:
        """Raises EvaluationError or DataError for what the evaluator lacks on this machine and for these data.

        Called before any run starts. An evaluator that asks for more says so in its own, after this.
        """
        if self.looks_at_held_out and data.validation is None:
            raise EvaluationError(f"evaluation.{self.key}: on: val, but nothing is held out: set dataset.validation")
        measured_on = data.validation if self.on == "val" else data.test
        if self.needs_pixels and measured_on is not None and measured_on.images.is_floating_point():
            what = "are no images of 8 bits, whose pixels are in [0, 1]; take it out of `evaluation`"
            raise EvaluationError(f"evaluation.{self.key}: inputs of {data.title} {what}")

    def passes(self, test: int, validation: int) -> int:
        """About how many images go forward through the network, of sets of these sizes; a gradient counts GRADIENT."""
        return test + validation

    @property
    def writes(self) -> str:
        """What its metrics' names begin with, as far as settings tell; two entries of a sweep may not share it."""
        return self.key

    @property
    def writes_under(self) -> str:
        return f"{self.prefix}{self.writes}{f'@{self.label}' if self.label else ''}"

    @property
    def hash(self) -> str:
        """12 hex digits of a SHA-256 over name, version and every field that is not None, defaults included.

        `every` is no part of it: what is measured in the end is the same. None is "off" and leaves no trace, so that a
        new option keeps the results there are. A setting with a method `identity` counts by what that gives: a folder
        is its content, not its path.
        """
        stated = {name: getattr(self, name) for name in type(self).model_fields}
        fields = {name: _content(value) for name, value in stated.items() if value is not None and name != "every"}
        said = {"name": self.key, "version": self.version, "fields": fields}
        said |= {"extensions": codes} if (codes := codes_of(self)) else {}
        text = json.dumps(said, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of images, float32 [N, K] on the CPU, in eval mode, in batches of fixed size and order.

    images: [N, C, H, W] on the network's device, as a `Split` holds them. The first batch is asked twice.
    Raises Unmeasured where the answers differ; EvaluationError where they are no finite float32 logits, or where there
    is no image.
    """
    import torch

    from kdtune.attacks.pgd import evaluating

    if not len(images):
        raise EvaluationError("there are no images to evaluate on")
    logits: list[Tensor] = []
    with evaluating(network), torch.no_grad():
        for batch in images.split(BATCH):
            answer = checked(network(inputs(batch)), len(batch))
            if not logits and randomised(torch.stack([answer, checked(network(inputs(batch)), len(batch))])):
                raise Unmeasured("randomised", "logits differ for the same images; a noise source is still on")
            logits.append(answer.cpu())
    return torch.cat(logits)


def answering(subject: Subject) -> dict[str, float]:
    """The flags of `flags.degenerate`, 0 or 1, from the clean answers to all images that are measured on."""
    split = subject.split
    answers = predict(subject.network, split.images).argmax(1).numpy()
    return {f"flags/{name}": float(up) for name, up in degenerate(answers, split.labels.cpu().numpy()).items()}


def checked(answer: Tensor, count: int) -> Tensor:
    """The answer of a network to `count` images, if it is finite float32 logits [count, K]; else EvaluationError."""
    import torch

    if answer.dim() != 2 or answer.dtype != torch.float32:
        came, wanted = f"{answer.dtype} {list(answer.shape)}", f"torch.float32 [{count}, classes]"
        raise EvaluationError(f"the network answers with {came} where {wanted} was expected")
    if not answer.isfinite().all():
        broken = int((~answer.isfinite()).any(1).sum())
        raise NotFinite(f"logits are not finite for {broken} of {count} images; has the run diverged?")
    return answer


def randomised(answers: Tensor) -> bool:
    """Whether passes differ, each image's logits being scaled to length 1. answers: [passes, N, K].

    In float64: the squares of logits of 1e-30 are nothing in float32.
    """
    answers = answers.double()
    unit = answers / answers.norm(dim=2, keepdim=True).clamp(min=1e-100)
    return bool((unit[:, None] - unit[None]).norm(dim=3).max() > REPEATABLE)


def correct(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Whether the largest logit is the label's: bool [N]. `logits` lie on the CPU, as `predict` gives them."""
    return (logits.argmax(1) == labels.cpu()).numpy()


def percent(bits: np.ndarray) -> float:
    """The share of true bits, in percent."""
    return 100 * float(bits.mean())


def pack(bits: np.ndarray) -> np.ndarray:
    """Bits along the last axis, eight to a byte: uint8 [..., ceil(N / 8)], the tail filled with zeros."""
    return np.packbits(bits, axis=-1)


def _content(value: Any) -> Any:
    """A field's value as JSON."""
    if hasattr(value, "identity"):
        return value.identity()
    if isinstance(value, Kind):
        return value.dumped()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
