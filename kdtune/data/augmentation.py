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


def drawn_views(count: int, augmentation: Augmentation, draw: Draw, device: torch.device | str = "cpu") -> Tensor:
    """A view for each of so many images, int64 [N] below `augmentation.views`: a place of the window, all as likely, by
    row and column, then whether it is mirrored, with probability one half. Places are drawn before flips."""
    each = torch.empty(count, 1, device=device)
    views = torch.zeros(count, dtype=torch.int64, device=device)
    if augmentation.crop is not None:
        side = 2 * augmentation.crop.padding + 1
        down, right = draw.integers(side, each), draw.integers(side, each)
        views = (down * side + right)[:, 0]
    if augmentation.flip is not None:
        views = 2 * views + (draw.uniform(each) < 0.5)[:, 0]
    return views


def viewed(images: Tensor, augmentation: Augmentation, views: Tensor) -> Tensor:
    """Images [N, C, H, W], each in a view of its own (`drawn_views`).

    A crop is a window of the image's own size at one of (2 padding + 1)^2 places in the image extended by `padding`
    pixels on every side: by reflection (the edge is not repeated; torch.nn.functional.pad's mode of that name) or by
    zeros. A flip exchanges left and right of the window.

    Errors: ValueError for images too small to be reflected that far, or to be mirrored.
    """
    crop, flip = augmentation.crop, augmentation.flip
    if crop is None and flip is None:
        return images
    count, channels, height, width = images.shape
    if flip is not None and width == 1:
        raise ValueError("augmentation.flip: inputs of one column, such as points, look the same mirrored; remove it")
    rows = torch.arange(height, device=images.device).expand(count, height)  # where each pixel comes from
    columns = torch.arange(width, device=images.device).expand(count, width)
    places = views[:, None] if flip is None else views[:, None] // 2
    if crop is not None:
        side = 2 * crop.padding + 1
        rows = rows + places // side - crop.padding
        columns = columns + places % side - crop.padding
        if crop.mode == "reflect":
            if crop.padding >= min(height, width):
                raise ValueError(f"augmentation.crop: {width} x {height} pixels cannot be reflected by {crop.padding}")
            rows, columns = _reflected(rows, height), _reflected(columns, width)
        else:
            images = pad(images, [crop.padding] * 4)
            rows, columns = rows + crop.padding, columns + crop.padding
    if flip is not None:
        columns = torch.where(views[:, None] % 2 == 1, columns.flip(1), columns)
    # over flattened pixels: on a CPU six times as fast as images[n, c, rows, columns]
    source = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).view(count, 1, -1)
    return images.flatten(2).gather(2, source.expand(-1, channels, -1)).view(count, channels, height, width)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices from 1 - size to 2 size - 2, mirrored at the first and at the last pixel."""
    return (size - 1) - ((size - 1) - index.abs()).abs()
