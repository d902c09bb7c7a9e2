"""Schedules: what the learning rate is multiplied by in the course of a run."""

from __future__ import annotations

import math
from abc import abstractmethod

from pydantic import field_validator

from kdtune.kinds import Kind
from kdtune.settings import Fraction, Positive, Rate


class Schedule(Kind, home="kdtune.optimization.schedules"):
    """The family of schedules."""

    @abstractmethod
    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor at a time of the run: `epoch`, from 0 to `epochs`, is the middle of a step, in epochs."""


class Step(Schedule):
    """The rate is multiplied by `factor` at each milestone, a fraction of the run's epochs: a milestone m of n epochs
    takes effect at epoch max(1, round(m n)), counted from 0. So the first epoch of a run is always at the full rate."""

    milestones: tuple[Fraction, ...]
    factor: Positive

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError("milestones must rise")
        return milestones

    def __call__(self, epoch: float, epochs: int) -> float:
        passed = sum(epoch >= max(1, round(milestone * epochs)) for milestone in self.milestones)
        return self.factor**passed


class Cosine(Schedule):
    """From 1 to 0 along half a cosine, step by step (Loshchilov & Hutter 2017, equation 5, without restarts).

    `warmup`: the share of the run in which the factor first rises from 0 to 1, in a straight line (Goyal et al. 2017,
    section 2.2); the cosine begins where that ends.
    """

    warmup: Rate = 0.0

    def __call__(self, epoch: float, epochs: int) -> float:
        rising = self.warmup * epochs
        if epoch < rising or rising == epochs:
            return epoch / rising
        return (1 + math.cos(math.pi * (epoch - rising) / (epochs - rising))) / 2
