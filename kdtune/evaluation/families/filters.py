"""Filters and resampling of image batches [N, C, H, W], on their device.

Sums of shifted images instead of convolutions: the same numbers whatever a GPU's TF32 switches say.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

SIDE = 32  # pixels; the size that constants are for
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV and Pillow turn colour to grey
NOTHING = 1e-6  # weights below are left out
Q16 = 0.5 / 257  # of 256 levels: half of one of ImageMagick's 65,536, to which it rounds before it cuts


def scale(images: Tensor) -> float:
    """How much longer a length is than in images of 32 x 32."""
    return min(images.shape[2:]) / SIDE


def cut(images: Tensor, forgiven: float = 1e-3) -> Tensor:
    """Clipped to [0, 1] and cut to 256 levels; a thousandth of one is forgiven, as float32 has k / 255 * 255 < k."""
    return (images.clamp(0, 1) * 255 + forgiven).floor() / 255


def rounded(images: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to 256 levels, halves up, and what float32 left just below a half."""
    return (images.clamp(0, 1) * 255 + 0.5 + 1e-4).floor() / 255


def grey(images: Tensor) -> Tensor:
    """Luminance [N, 1, H, W]."""
    return images if images.shape[1] == 1 else (images * images.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def painted(colours: Sequence[float] | Tensor, images: Tensor) -> Tensor:
    """RGB colours as [-1, C, 1, 1]: as they are for colour images, their luminance for grey ones."""
    colour = torch.as_tensor(colours, dtype=images.dtype, device=images.device).view(-1, 3, 1, 1)
    return colour if images.shape[1] == 3 else grey(colour)


def inside(index: Tensor, size: int, border: str) -> Tensor:
    """Places outside [0, size) led back: to the edge, mirrored at the last pixel, or symmetrically behind it."""
    if border == "edge":
        return index.clamp(0, size - 1)
    period = max(2 * (size - 1), 1) if border == "mirror" else 2 * size
    index = index.remainder(period)
    return torch.minimum(index, (period if border == "mirror" else period - 1) - index)


def correlate(images: Tensor, kernel: np.ndarray, border: str) -> Tensor:
    """Correlation with one kernel of odd sides [h, w] for all channels."""
    height, width = images.shape[2:]
    down, right = (side // 2 for side in kernel.shape)
    rows = torch.arange(-down, height + down, device=images.device)
    columns = torch.arange(-right, width + right, device=images.device)
    wide = images.index_select(2, inside(rows, height, border)).index_select(3, inside(columns, width, border))
    total = torch.zeros_like(images)
    for y, x in np.argwhere(np.abs(kernel) > NOTHING):
        total += float(kernel[y, x]) * wide[:, :, y : y + height, x : x + width]
    return total


def gaussian(images: Tensor, sigma: float, border: str = "edge", truncate: float = 4.0) -> Tensor:
    """Gaussian filter, its kernel sampled at whole pixels up to `truncate` sigma (as scipy.ndimage does)."""
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return images
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    return correlate(correlate(images, kernel[:, None], border), kernel[None], border)


def motion(images: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """ImageMagick's motion blur: every pixel is the mean of a trail that starts at it, weighted by half a Gaussian.

    degrees: each image's direction [N], from right to down. The trail has 2 radius + 1 nearest pixels, edges repeated.
    What comes out is to be cut to 256 levels, Q16 forgiven, as ImageMagick 6.9 (16 bits) does with 8-bit images.
    """
    count, channels, height, width = images.shape
    weights = np.exp(-0.5 * (np.arange(2 * ceil(radius) + 1) / sigma) ** 2)
    weights /= weights.sum()
    angles = degrees.double().cpu().deg2rad()  # ceil must fall alike on every device
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    flat, total = images.flatten(2), torch.zeros_like(images)
    for step, weight in enumerate(weights):
        if weight < NOTHING:
            break
        down, right = (
            (step * part - 0.5).ceil().long().to(images.device)[:, None] for part in (angles.sin(), angles.cos())
        )
        y, x = inside(rows + down, height, "edge"), inside(columns + right, width, "edge")
        source = (y[:, :, None] * width + x[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
        total += float(weight) * flat.gather(2, source).view(images.shape)
    return total


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of the images, enlarged linearly so that it fills them; corners of crop and result coincide."""
    for axis in (2, 3):
        size = images.shape[axis]
        kept = ceil(size / factor)
        large = round(kept * factor)
        place = (np.arange(size) + (large - size) // 2) * ((kept - 1) / max(large - 1, 1))
        low = np.minimum(np.floor(place).astype(int), kept - 1)
        share = images.new_tensor(place - low).view((-1, 1) if axis == 2 else (-1,))
        first = (size - kept) // 2
        near, far = (torch.from_numpy(first + np.minimum(low + i, kept - 1)).to(images.device) for i in (0, 1))
        start = images.index_select(axis, near)
        images = start + share * (images.index_select(axis, far) - start)
    return images


def sampled(images: Tensor, rows: Tensor, columns: Tensor, border: str) -> Tensor:
    """Images at real coordinates [N, H, W], in pixels, bilinearly."""
    count, channels, height, width = images.shape
    flat, total = images.flatten(2), torch.zeros_like(images)
    top, left = rows.floor(), columns.floor()
    for down in (0, 1):
        for right in (0, 1):
            y, x = inside(top.long() + down, height, border), inside(left.long() + right, width, border)
            weight = (1 - (rows - top - down).abs()) * (1 - (columns - left - right).abs())
            source = (y * width + x).view(count, 1, -1).expand(-1, channels, -1)
            total += weight[:, None] * flat.gather(2, source).view(images.shape)
    return total


def fitted(layers: Tensor, images: Tensor) -> Tensor:
    """Layers [N, 1, 32, 32] as large as the images."""
    if layers.shape[2:] == images.shape[2:]:
        return layers
    return interpolate(layers, images.shape[2:], mode="bilinear", antialias=True)
