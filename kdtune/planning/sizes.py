"""How large data sets and networks are, as far as an estimate has to know."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kdtune.models.model import Model, Shape

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset


@dataclass(frozen=True)
class Images:
    """What an estimate has to know of a data set."""

    shape: Shape
    classes: int
    train: int  # trained on
    validation: int
    test: int
    repeat: int = 1  # how often an epoch shows each


@lru_cache(maxsize=256)
def model_cost(model: Model, shape: Shape, classes: int) -> tuple[int, int]:
    """`Model.cost`, remembered: the runs of a plan have few models."""
    return model.cost(shape, classes)


@lru_cache(maxsize=64)
def images(dataset: Dataset) -> Images:
    """The sizes of a data set. Raises DataError where its folder cannot be read."""
    total, test = dataset.counts()[0], (dataset.test or dataset).counts()[1]
    kept, held_out = dataset.sizes(total)
    return Images(dataset.shape(), dataset.classes(), kept - held_out, held_out, test, dataset.repeat or 1)
