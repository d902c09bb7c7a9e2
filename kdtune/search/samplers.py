"""Samplers: who proposes the next point, by what is known of earlier ones. Optuna's, made anew for every proposal."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, Strict

from kdtune.kinds import Kind
from kdtune.settings import Count

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Sampler(Kind, home="kdtune.search.samplers"):
    """Proposes points."""

    @abstractmethod
    def build(self, seed: int) -> BaseSampler:
        """Optuna's sampler; `seed` is of 32 bits."""

    @property
    def blind(self) -> int:
        """How many proposals must be known before it looks at any; until then it draws at random."""
        return getattr(self, "startup", 0)

    def notes(self, known: Sequence[int], inside: Sequence[bool]) -> Sequence[dict[str, Any]]:
        """What Optuna's sampler would have noted of each proposal when it made it. `known`: how many proposals had
        values by then; `inside`: whether a proposal lies in the space, as only these are told to it."""
        return [{}] * len(known)


class Random(Sampler):
    """Every proposal drawn from the space, whatever is known."""

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


class TPE(Sampler):
    """The tree-structured Parzen estimator (Bergstra et al. 2011): points like the better ones of what is known, unlike
    the others and what is under way."""

    startup: Count  # so many known proposals are drawn at random before it begins; those of the grid count

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, n_startup_trials=self.startup)


class GP(Sampler):
    """A Gaussian process for each objective and constraint; proposed is what promises most, by the log of the expected
    improvement (Ament et al. 2023), of two objectives that of the hypervolume. For tens of proposals, as each costs
    seconds."""

    startup: Count  # so many known proposals are drawn at random before it begins; those of the grid count

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, n_startup_trials=self.startup)


class NSGA2(Sampler):
    """NSGA-II (Deb et al. 2002): generations whose best, by front and by distance to their neighbours on it, are
    crossed and changed. For hundreds of proposals."""

    key: ClassVar[str] = "nsga2"

    population: Annotated[int, Strict(), Field(ge=2)]  # known proposals that make a generation; the first is random

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=self.population)

    @property
    def blind(self) -> int:
        return self.population

    def notes(self, known: Sequence[int], inside: Sequence[bool]) -> Sequence[dict[str, Any]]:
        """Of which generation each proposal is: of the latest among those known when it was made, or of the next one
        once a population of that is known. Optuna notes it in the trial (`BaseGASampler.get_trial_generation`)."""
        from optuna.samplers import NSGAIISampler

        generations: list[int] = []
        for count in known:
            before = [each for each, told in zip(generations[:count], inside, strict=False) if told]
            latest = max(before, default=0)
            generations.append(latest + (before.count(latest) >= self.population))
        return [{NSGAIISampler._get_generation_key(): generation} for generation in generations]
