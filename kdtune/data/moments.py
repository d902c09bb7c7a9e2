"""Mean and standard deviation of every channel, and images moved to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from kdtune.data.error import DataError
from kdtune.settings import Pixels, Settings

if TYPE_CHECKING:
    from torch import Tensor


class Moments(Settings):
    """Per-channel mean and standard deviation on the [0, 1] scale."""

    mean: tuple[Pixels, ...]
    std: tuple[Annotated[Pixels, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _of_the_same_channels(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} channels and std {len(self.std)}; both have one number a channel"
            )
        return self


def moved_to(moments: Moments, images: Tensor) -> Tensor:
    """Images float [N, C, H, W], each channel stretched and shifted as a whole so that over all images its mean and
    standard deviation (uncorrected) are these. Nothing is cut off: pixels may leave [0, 1]. Errors: DataError.
    """
    if len(moments.mean) != images.shape[1]:
        raise DataError(f"dataset.moments has {len(moments.mean)} channels, and the images have {images.shape[1]}")
    channels = images.double().transpose(0, 1).flatten(1)
    mean, std = channels.mean(1), channels.std(1, correction=0)
    if not std.all():
        raise DataError("dataset.moments: a channel is the same everywhere; it cannot be given a deviation")
    factor = std.new_tensor(moments.std) / std
    offset = std.new_tensor(moments.mean) - factor * mean
    return images * factor.float().view(-1, 1, 1) + offset.float().view(-1, 1, 1)
