"""How a run is optimised: what `recipe:` may say."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from kdtune.settings import Count, Flag, Fraction, OneOf, Positive, Rate, Scale, Settings


class SGD(Settings):
    """Stochastic gradient descent (torch.optim.SGD)."""

    lr: Positive
    momentum: Rate = 0.0
    weight_decay: Scale = 0.0
    nesterov: Flag = False


class Optimizer(OneOf):
    sgd: SGD | None = None


class Step(Settings):
    """The learning rate is multiplied by `factor` at each milestone, a fraction of the run's epochs."""

    milestones: tuple[Fraction, ...]
    factor: Positive

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError("milestones must rise")
        return milestones


class Schedule(OneOf):
    step: Step | None = None


class Crop(Settings):
    """A random window of the image's own size out of the image padded by `padding` pixels on each side."""

    padding: Count
    mode: Literal["reflect", "zero"]


class Flip(Settings):
    """Left and right exchanged with probability one half."""


class Augmentation(Settings):
    crop: Crop | None = None
    flip: Flip | None = None


class Recipe(Settings):
    """How a run is optimised."""

    optimizer: Optimizer
    schedule: Schedule
    augmentation: Augmentation = Augmentation()
    precision: Literal["float32"]
    batch_size: Count
    epochs: Count
