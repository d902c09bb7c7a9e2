"""Random crop and flip of a whole batch at once, on the device where it lies, as one gather of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from kdtune.attacks.pgd import Bounds
    from kdtune.randomness import Draw
    from kdtune.recipe import Augmentation


def refuse_zeros(augmentation: Augmentation, bounds: Bounds) -> None:
    """ValueError for a border of zeros around inputs of which 0 is not the black end: of those without bounds."""
    if bounds is None and augmentation.crop is not None and augmentation.crop.mode == "zero":
        raise ValueError("augmentation.crop: mode: zero is black where pixels are in [0, 1]; here it is not: reflect")


def augment(images: Tensor, augmentation: Augmentation, draw: Draw) -> Tensor:
    """Each image shifted and mirrored by draws of its own: [N, C, H, W] in and out, uint8 or float.

    A crop is a window of the image's own size at one of (2 padding + 1)^2 places in the image extended by `padding`
    pixels on every side: by reflection (the edge is not repeated; torch.nn.functional.pad's mode of that name) or by
    zeros. A flip exchanges left and right of the window with probability one half. Offsets are drawn before flips.

    Errors: ValueError for images too small to be reflected that far.
    """
    crop, flip = augmentation.crop, augmentation.flip
    if crop is None and flip is None:
        return images
    count, channels, height, width = images.shape
    each = torch.empty(count, 1, device=images.device)
    rows = torch.arange(height, device=images.device).expand(count, height)  # where each pixel comes from
    columns = torch.arange(width, device=images.device).expand(count, width)
    if crop is not None:
        rows = rows + draw.integers(2 * crop.padding + 1, each) - crop.padding
        columns = columns + draw.integers(2 * crop.padding + 1, each) - crop.padding
        if crop.mode == "reflect":
            if crop.padding >= min(height, width):
                raise ValueError(f"augmentation.crop: {width} x {height} pixels cannot be reflected by {crop.padding}")
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        else:
            images = pad(images, [crop.padding] * 4)
            rows, columns = rows + crop.padding, columns + crop.padding
    if flip is not None:
        columns = torch.where(draw.uniform(each) < 0.5, columns.flip(1), columns)
    # over flattened pixels: on a CPU six times as fast as images[n, c, rows, columns]
    source = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).view(count, 1, -1)
    return images.flatten(2).gather(2, source.expand(-1, channels, -1)).view(count, channels, height, width)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices from 1 - size to 2 size - 2, mirrored at the first and at the last pixel."""
    return (size - 1) - ((size - 1) - index.abs()).abs()
