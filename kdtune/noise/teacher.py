"""Noise in the teacher's response, while it teaches."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from kdtune.noise.knob import Knob
from kdtune.settings import Count, Positive, Rate, Scale, Temperature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.randomness import Draw


class TeacherKnob(Knob, home="kdtune.noise.teacher"):
    """The family of knobs at `teacher`.

    A knob may also reach into the teacher itself: `prepare(teacher)` is called at the beginning of every epoch, after
    the teacher was put in eval mode.
    """

    @abstractmethod
    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        """What the teacher says instead of logits float [N, K]."""


class Dropout(TeacherKnob):
    """Fickle Teacher: the teacher's dropout stays on while it teaches (Arani et al., arXiv 1910.05057, section 4.1).

    The response is one stochastic pass, as in the paper; with `passes` the mean of the logits of so many. Batch
    normalisation stays in eval mode. `bn: train` is the ablation of papers A.7, row 5: it normalises by the
    statistics of the batch shown. The running averages are left as they are: a layer that normalises by the batch
    never reads them, so updating them would change no answer, only the teacher. At rate 0 all of this is off. The masks
    come from torch's global generator, which is the teacher's own meanwhile.
    """

    strength: ClassVar[str] = "rate"
    rate: Rate  # probability that a unit is zeroed; the others are scaled by 1 / (1 - rate)
    bn: Literal["eval", "train"] = "eval"
    passes: Count = 1

    @property
    def asks(self) -> int:
        return self.passes

    def layers(self, network: nn.Module) -> list[nn.Module]:
        from torch.nn.modules.dropout import _DropoutNd

        return [layer for layer in network.modules() if isinstance(layer, _DropoutNd)]

    def prepare(self, network: nn.Module) -> None:
        """Switch the dropout layers on at `rate`. `network.eval()` switches them off again, and the batch statistics.

        Raises ValueError if the network has no such layers: it would answer without noise and nobody would notice.
        """
        from torch.nn.modules.batchnorm import _BatchNorm

        if self.off:
            return
        if not (layers := self.layers(network)):
            raise ValueError(
                f"noise.teacher.dropout: rate {self.rate} is asked for, but the teacher ({type(network).__name__}) has "
                "no dropout layer to switch on; choose a teacher model that has some, or leave the knob out"
            )
        for layer in layers:
            layer.p = self.rate  # type: ignore[assignment]
            layer.train()
        if self.bn == "eval":
            return
        if not (normalising := [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]):
            raise ValueError(
                f"noise.teacher.dropout: bn: train is asked for, but the teacher ({type(network).__name__}) has no "
                "batch normalisation; leave bn out"
            )
        for norm in normalising:
            norm.track_running_stats = False  # in training mode: averages and their counter are not written
            norm.train()

    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        return logits  # the noise is in them already

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the units that dropout set to zero, among those that were not zero (as after a ReLU) before."""
        units = int(before.count_nonzero())
        return 1 - int(after.count_nonzero()) / units if units else math.nan


class SignalNoise(TeacherKnob):
    """Signal-dependent noise: z_i becomes (1 + delta) z_i with delta ~ N(0, sigma^2), drawn anew for every sample and
    batch (Arani et al., arXiv 1910.05057, figures 11 and 12).

    One delta per logit; `per: sample` draws one for all logits of a sample, which makes its temperature random and
    nothing else (the paper does not say which; papers A.7, row 17).
    """

    strength: ClassVar[str] = "sigma"
    draws_globally: ClassVar[bool] = False
    sigma: Scale  # standard deviation of delta, without unit: relative to each logit
    per: Literal["logit", "sample"] = "logit"

    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        delta = draw.normal(logits if self.per == "logit" else logits[:, :1])
        return logits * (1 + self.sigma * delta)

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Root mean square of delta, seen in the logits that are not zero."""
        seen = before != 0
        return float((after[seen].double() / before[seen].double() - 1).square().mean().sqrt())


class Swap(TeacherKnob):
    """Random swapping of softened outputs (Arani et al., arXiv 1910.05057, figures 13 and 14): a sample's outputs are
    sorted, v_1 >= ... >= v_K, and neighbours v_i, v_i+1 that differ by less than `threshold` change places with
    probability `rate`, each pair for itself, one after the other from the largest down.

    `pairs: top2` looks at the first pair only, `all` at every one. Which pairs may be swapped is decided by the outputs
    as they came; an output that is swapped goes on to meet its next neighbour, and so can fall by several places.
    `difference: relative` is |a - b| / max(|a|, |b|), `absolute` |a - b|. They are differences of the probabilities
    softmax(z / temperature), `on: logits` of the logits themselves. The paper states neither rates nor thresholds nor
    which difference is meant (papers A.7, row 18).

    The logits change places, which is exact: softmax treats all classes alike, so to permute its results is to permute
    what went in, at every temperature. Unless stated, `temperature` is the distillation's.
    """

    strength: ClassVar[str] = "rate"
    draws_globally: ClassVar[bool] = False
    rate: Rate  # probability that a pair below the threshold is swapped
    pairs: Literal["top2", "all"]
    threshold: Positive
    difference: Literal["relative", "absolute"] = "relative"
    on: Literal["probabilities", "logits"] = "probabilities"
    temperature: Temperature | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.on == "logits" and self.temperature is not None:
            raise ValueError("temperature is set, but on: logits compares what no temperature has softened; remove it")
        if self.on == "probabilities" and self.threshold > 1:
            raise ValueError(f"threshold is {self.threshold}, but no two probabilities differ by more than 1")
        return self

    def softened_at(self, temperature: float) -> Self:
        if self.on == "logits" or self.temperature is not None:
            return self
        return self.model_copy(update={"temperature": temperature})

    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        """The same logits in other places. Raises ValueError where softened outputs have no temperature."""
        import torch

        values, order = logits.sort(dim=1, descending=True, stable=True)
        below = self.near(values)
        swapped = (draw.uniform(below.to(logits.dtype)) < self.rate) & below
        # The value that stands at place i in the end: the next one where the pair (i, i + 1) was swapped, else the one
        # that came down to i, which is the first of the unbroken row of swaps that ends there.
        places = torch.arange(values.shape[1], device=logits.device)
        swap_here = torch.zeros_like(values, dtype=torch.bool)
        swap_here[:, : swapped.shape[1]] = swapped
        unbroken = swap_here.roll(1, dims=1)  # the pair before place i was swapped; the last place has no pair
        came_down = torch.where(unbroken, 0, places).cummax(dim=1).values
        source = torch.where(swap_here, places + 1, came_down)
        return torch.empty_like(logits).scatter_(1, order, values.gather(1, source))

    @property
    def looked_at(self) -> int | None:
        """How many pairs of neighbours, from the largest down; None: all."""
        return 1 if self.pairs == "top2" else None

    def near(self, values: Tensor) -> Tensor:
        """Which neighbours among sorted logits [N, K] may be swapped: bool [N, K - 1], or [N, 1] for the top two."""
        if self.on == "probabilities":
            if self.temperature is None:
                raise ValueError("noise.teacher.swap: softened outputs have a temperature, and none is given")
            values = (values / self.temperature).softmax(dim=1)
        high, low = values[:, :-1][:, : self.looked_at], values[:, 1:][:, : self.looked_at]
        apart = high - low
        if self.difference == "relative":
            apart = apart / high.abs().maximum(low.abs())  # 0 / 0: two zeros; swapped or not, it is the same
        return apart < self.threshold

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the pairs below the threshold that were swapped; NaN without such pairs. Ties cannot show it.

        Every swap lowers one class's logit for good: in each chain of swaps all classes but the last go down.
        """
        values = before.sort(dim=1, descending=True, stable=True).values
        pairs = int((self.near(values) & (values.diff(dim=1)[:, : self.looked_at] < 0)).sum())
        return int((after < before).sum()) / pairs if pairs else math.nan
