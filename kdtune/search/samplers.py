"""Samplers: who proposes the next point, by what is known of earlier ones. Optuna's, made anew for every proposal."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from kdtune.kinds import Kind
from kdtune.settings import Count

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Sampler(Kind, home="kdtune.search.samplers"):
    """Proposes points."""

    @abstractmethod
    def build(self, seed: int) -> BaseSampler:
        """Optuna's sampler; `seed` is of 32 bits."""


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
