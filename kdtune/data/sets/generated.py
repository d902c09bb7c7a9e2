"""Sets that are drawn instead of read, from `dataset.seed`."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from math import prod
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy
from pydantic import ConfigDict, Field, model_validator

from kdtune.data.dataset import Dataset
from kdtune.data.files import Arrays
from kdtune.data.sets.published import content_digest
from kdtune.settings import Count, Positive

MOST = 1_000_000_000  # numbers of a set: what is more is a slip of the hand


class Generated(Dataset):
    """Inputs in a number of `classes`."""

    model_config = ConfigDict(serialize_by_alias=True)
    shape_is_known: ClassVar[bool] = True

    of: Annotated[int, Field(alias="classes", strict=True, ge=2, le=256)]

    def classes(self) -> int:
        return self.of

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.of)))

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Self:
        if (numbers := max(self.counts()) * prod(self.shape())) > MOST:
            raise ValueError(f"{numbers:,} numbers would be drawn; {MOST:,} at most")
        return self

    @property
    def bare(self) -> Self:
        return super().bare.model_copy(update={"seed": self.seed})


class Unrelated(Generated):
    """`count` inputs, whose labels say nothing of them. Tested on is what was trained on: how well it fits."""

    count: Count

    @abstractmethod
    def inputs(self, generator: numpy.random.Generator) -> numpy.ndarray:
        """uint8 or float32, [count, *shape]"""

    def counts(self) -> tuple[int, int]:
        return self.count, self.count

    def digest(self, data_dir: Path) -> str:
        """Of the numbers drawn, and of how they lie: other sizes may have the same bytes."""
        told = f"{self.key} {self.shape()} {self.of} {content_digest(self.read(data_dir))}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def read(self, data_dir: Path) -> Arrays:
        generator = numpy.random.Generator(numpy.random.PCG64(self.seed))
        labels = generator.integers(self.of, size=self.count)
        drawn = self.inputs(generator), labels.astype(numpy.int64)
        return Arrays(self.class_names, {"train": drawn, "test": drawn})


class Points(Unrelated):
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


class UniformNoise(Unrelated):
    """Images of `size`, [channels, height, width], of which every pixel is one of 256 grey levels, all as likely."""

    size: tuple[Count, Count, Count]

    @property
    def title(self) -> str:
        return f"{self.count} images of uniform noise"

    def shape(self) -> tuple[int, int, int]:
        return self.size

    def inputs(self, generator: numpy.random.Generator) -> numpy.ndarray:
        return generator.integers(256, size=(self.count, *self.size), dtype=numpy.uint8)


class Gaussian(Generated):
    """Points of a subspace: x = U z with z ~ N(0, std^2 I) of `rank` numbers and U orthonormal, `dimension` x `rank`;
    `count` of them to train on, and as many to test on. `rank: null`: of the whole space, x = z.

    Labels, those of test points too, are the classes that the run's teacher gives, its largest output: a run without a
    teacher cannot learn from them, and the teacher is one that was not trained on them (papers C.2).
    """

    of_floats: ClassVar[bool] = True
    labelled: ClassVar[bool] = False

    dimension: Count
    rank: Count | None = None
    std: Positive
    count: Count

    @model_validator(mode="after")
    def _has_room_for_its_subspace(self) -> Self:
        if self.rank is not None and self.rank > self.dimension:
            raise ValueError(f"rank: {self.rank} of {self.dimension} dimensions; a subspace has no more than the space")
        return self

    @property
    def title(self) -> str:
        return f"Gaussian points of rank {self.rank or self.dimension} in {self.dimension} dimensions"

    @property
    def low_rank(self) -> bool:
        return self.rank not in (None, self.dimension) and self.moments is None

    def shape(self) -> tuple[int, int, int]:
        return (self.dimension, 1, 1)

    def counts(self) -> tuple[int, int]:
        return self.count, self.count

    def digest(self, data_dir: Path) -> str:
        """Of what defines it, not of its numbers: products of matrices differ in their last bits between machines. Of
        the set's own settings alone: those that all sets have do not change what is drawn."""
        drawn = [self.dimension, self.rank or self.dimension, self.std, self.of, self.count, self.seed]
        return hashlib.sha256(f"{self.key} 1 {json.dumps(drawn)}".encode()).hexdigest()[:16]

    def subspace(self) -> numpy.ndarray | None:
        """Where `moments` moves all points, nobody says where to."""
        return self._columns() if self.moments is None else None

    def _columns(self) -> numpy.ndarray:
        if self.rank is None or self.rank == self.dimension:
            return numpy.eye(self.dimension)
        columns, upper = numpy.linalg.qr(self._stream("subspace").standard_normal((self.dimension, self.rank)))
        return columns * numpy.sign(upper.diagonal())  # of the two signs of each, the same on every machine

    def read(self, data_dir: Path) -> Arrays:
        """Labels are stand-ins, every class as often: there is no teacher here."""
        labels = numpy.arange(self.count, dtype=numpy.int64) % self.of
        return Arrays(self.class_names, {part: (self._points(part), labels) for part in ("train", "test")})

    def _points(self, part: str) -> numpy.ndarray:
        columns = self._columns()
        found = self.std * self._stream(part).standard_normal((self.count, columns.shape[1])) @ columns.T
        return found.astype(numpy.float32).reshape(self.count, *self.shape())

    def _stream(self, part: str) -> numpy.random.Generator:
        """Of its own for each part: points are the same whatever the subspace is, and it whatever their number."""
        return numpy.random.Generator(numpy.random.PCG64([self.seed, *part.encode()]))
