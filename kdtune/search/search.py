"""`search:` of a sweep file: knobs that are proposed, one point after the other, instead of listed.

search:
  trials: 40
  seeds: 2
  objectives: {val/accuracy: max}
  sampler: {tpe: {startup: 10}}
  constraints: {val/ece: {max: 8.0}}
  lag: 8
  space: {sigma: {loguniform: [0.01, 0.5]}, temperature: {quniform: [1, 10, 0.5]}}
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count, islice
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from kdtune.search.samplers import Sampler
from kdtune.search.space import Distribution
from kdtune.settings import Count, Real, Seeds, Settings, Text, Whole

Direction = Literal["max", "min"]
MOST = 2  # objectives: of more nearly every point is on the front
T = TypeVar("T")


def _of_held_out_images(named: dict[str, T]) -> dict[str, T]:
    if wrong := [name for name in named if not name.startswith("val/")]:
        raise ValueError(f"{wrong[0]} is not of held-out images; a search goes by val/accuracy or another val/* metric")
    return named


def _few(objectives: dict[str, Direction]) -> dict[str, Direction]:
    if len(objectives) > MOST:
        raise ValueError(f"came {len(objectives)} objectives; at most {MOST} would do")
    return objectives


Objectives = Annotated[
    dict[Text, Direction], Field(min_length=1), AfterValidator(_of_held_out_images), AfterValidator(_few)
]


class Bounds(Settings):
    """What a metric may be at least, at most or both, in its own unit."""

    min: Real | None = None
    max: Real | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("bounds nothing: {max: 8.0}, {min: 50.0} or both would do")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        return self

    def __str__(self) -> str:
        ends = (("at least", self.min), ("at most", self.max))
        return " and ".join(f"{word} {end:g}" for word, end in ends if end is not None)

    def excess(self, value: float) -> Iterator[float]:
        """How far a value is beyond each bound; 0 or less where it keeps it."""
        if self.min is not None:
            yield self.min - value
        if self.max is not None:
            yield value - self.max


Constraints = Annotated[dict[Text, Bounds], AfterValidator(_of_held_out_images)]


class Confirm(Settings):
    """The best points once more, with seeds that have chosen nothing: what is chosen by a number is better by it than
    it is."""

    points: Count  # how many; with two objectives those of the front that dominate most
    seeds: Count  # how many: the first that the search itself does not use

    def those(self, used: Collection[int]) -> tuple[int, ...]:
        """Its seeds, where the search uses these."""
        return tuple(islice((seed for seed in count() if seed not in used), self.seeds))


class Search(Settings):
    """What is proposed, by whom, and what for."""

    trials: Count  # proposals, the grid's among them; with more of them a search goes on
    objectives: Objectives  # one or two metrics of held-out images: max or min
    sampler: Sampler
    lag: Count  # proposal n is made by what is known of 0 to n - lag: so many are under way at a time
    space: Annotated[dict[Text, Distribution], Field(min_length=1)]  # axes by name, each a `$name`
    seeds: Seeds | None = None  # a proposal is so many runs, its value their mean; None: the sweep's own
    seed: Whole = 0  # another one is another search
    teachers: Literal["many"] | None = None  # a continuous axis of the teacher's: a pool for each proposal
    confirm: Confirm | None = None
    constraints: Constraints | None = None  # of other metrics of held-out images: what breaks one is never best

    @property
    def metrics(self) -> tuple[str, ...]:
        """What must be measured of a proposal: objectives, then what constraints bound and is none of these."""
        return tuple(dict.fromkeys((*self.objectives, *(self.constraints or ()))))

    def excess(self, value: Sequence[float]) -> list[float]:
        """How far a proposal is beyond each bound. `value`: means by `metrics`."""
        of = dict(zip(self.metrics, value, strict=True))
        return [each for name, bounds in (self.constraints or {}).items() for each in bounds.excess(of[name])]

    def counted(self, value: Sequence[float] | None) -> tuple[float, ...] | None:
        """The objectives of a proposal that keeps all bounds; None for another, or one without a value."""
        if value is None or any(each > 0 for each in self.excess(value)):
            return None
        return tuple(value[: len(self.objectives)])
