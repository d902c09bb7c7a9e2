"""How a run is optimised: what `recipe:` may say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kdtune.optimization.optimizers import Optimizer
from kdtune.optimization.schedules import Schedule
from kdtune.settings import Count, Epochs, Rate, Settings, Text


class Crop(Settings):
    """A random window of the image's own size out of the image padded by `padding` pixels on each side."""

    padding: Count
    mode: Literal["reflect", "zero"]


class Flip(Settings):
    """Left and right exchanged with probability one half."""


class Augmentation(Settings):
    crop: Crop | None = None
    flip: Flip | None = None

    @property
    def views(self) -> int:
        """How many views of an image there are: 162 for a crop with padding 4 and a flip."""
        places = 1 if self.crop is None else (2 * self.crop.padding + 1) ** 2
        return places * (1 if self.flip is None else 2)


class Keep(Settings):
    """A run ends with the weights of its best epoch, the first of equals, and not with those of the last, which are
    kept beside them (`of: last` at an evaluator).

    `best` names what the history has of the images held out: val/accuracy, or what an entry of `evaluation` with
    `on: val` and `every` measures. Test images choose nothing.
    """

    best: Annotated[Text, Field(pattern="^val/")]


class Average(Settings):
    """Beside the weights that a run ends with, the mean of those at the end of every epoch that begins at or after this
    fraction of the run, of the last one at least (Izmailov et al. 2018, arXiv 1803.05407). `of: average` at an
    evaluator measures it."""

    model_config = ConfigDict(serialize_by_alias=True)

    starts: Annotated[Rate, Field(alias="from", lt=1)]


class Recipe(Settings):
    """How a run is optimised.

    `precision: bfloat16`: networks compute in torch's autocast while they train, teachers too; weights, losses and all
    that is measured stay float32. It saves time where the device multiplies bfloat16 faster, which not every CPU with
    avx512_bf16 does (benchmarks/README.md).
    """

    optimizer: Optimizer
    schedule: Schedule
    augmentation: Augmentation = Augmentation()
    precision: Literal["float32", "bfloat16"]
    batch_size: Count
    epochs: Epochs
    keep: Keep | None = None  # None: the weights of the last epoch
    average: Average | None = None
