"""Sets that are drawn instead of read: from `dataset.seed`, uniformly, with labels that say nothing of the inputs."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from math import prod
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy
from pydantic import ConfigDict, Field, model_validator

from kdtune.data.dataset import Dataset
from kdtune.data.files import Arrays
from kdtune.data.sets.published import content_digest
from kdtune.settings import Count

MOST = 1_000_000_000  # numbers of a set: what is more is a slip of the hand


class Generated(Dataset):
    """`count` inputs, each with one of `classes` labels. What is tested on is what was trained on: how well it fits."""

    model_config = ConfigDict(serialize_by_alias=True)
    shape_is_known: ClassVar[bool] = True

    count: Count
    of: Annotated[int, Field(alias="classes", strict=True, ge=2, le=256)]

    @abstractmethod
    def inputs(self, generator: numpy.random.Generator) -> numpy.ndarray:
        """uint8 or float32, [count, *shape]"""

    def classes(self) -> int:
        return self.of

    def counts(self) -> tuple[int, int]:
        return self.count, self.count

    def digest(self, data_dir: Path) -> str:
        """Of the numbers drawn, and of how they lie: other sizes may have the same bytes."""
        told = f"{self.key} {self.shape()} {self.of} {content_digest(self.read(data_dir))}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Self:
        if (numbers := self.count * prod(self.shape())) > MOST:
            raise ValueError(f"{numbers:,} numbers would be drawn; {MOST:,} at most")
        return self

    def read(self, data_dir: Path) -> Arrays:
        generator = numpy.random.Generator(numpy.random.PCG64(self.seed))
        labels = generator.integers(self.of, size=self.count)
        drawn = self.inputs(generator), labels.astype(numpy.int64)
        return Arrays(tuple(map(str, range(self.of))), {"train": drawn, "test": drawn})

    @property
    def bare(self) -> Self:
        return super().bare.model_copy(update={"seed": self.seed})


class Points(Generated):
    """Points in [0, 1]^`dimension`. They are not images, and may go anywhere: an attack is not held within [0, 1]."""

    of_floats: ClassVar[bool] = True

    dimension: Count

    @property
    def title(self) -> str:
        return f"{self.count} points in {self.dimension} dimensions"

    def shape(self) -> tuple[int, int, int]:
        return (self.dimension, 1, 1)

    def inputs(self, generator: numpy.random.Generator) -> numpy.ndarray:
        return generator.random((self.count, *self.shape()), dtype=numpy.float32)


class UniformNoise(Generated):
    """Images of `size`, [channels, height, width], of which every pixel is one of 256 grey levels, all as likely."""

    size: tuple[Count, Count, Count]

    @property
    def title(self) -> str:
        return f"{self.count} images of uniform noise"

    def shape(self) -> tuple[int, int, int]:
        return self.size

    def inputs(self, generator: numpy.random.Generator) -> numpy.ndarray:
        return generator.integers(256, size=(self.count, *self.size), dtype=numpy.uint8)
