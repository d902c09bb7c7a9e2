"""Blur. Images float [N, C, H, W] in [0, 1]; lengths in pixels at 32 x 32."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from torch import Tensor

from kdtune.evaluation.families.drawn import Drawn
from kdtune.evaluation.families.filters import Q16, correlate, cut, gaussian, motion, scale, zoomed

DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # radius of the disk, sigma of its rim
GLASS = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))  # sigma, reach of a swap, rounds
MOTION = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))  # radius, sigma
ZOOM = (1.06, 1.11, 1.16, 1.21, 1.26)  # factors from 1 up to this take part, in steps of 0.01
GAUSSIAN = (0.4, 0.6, 0.7, 0.8, 1)  # sigma


def defocus_blur(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    radius, rim = DEFOCUS[severity - 1]
    return correlate(images, disk(radius * scale(images), rim * scale(images), scale(images)), "mirror")


def disk(radius: float, rim: float, grain: float = 1) -> np.ndarray:
    """A disk of equal weights, softened by a Gaussian that reaches `grain` pixels, one at least (as cv2's of 3 x 3).

    Radii below 1 are a single pixel: there the rim is the blur.
    """
    reach = max(1, round(grain))
    half = ceil(radius) + reach
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    weights = (x**2 + y**2 <= radius**2).astype(float)
    soft = np.exp(-0.5 * (np.arange(-reach, reach + 1) / rim) ** 2)
    for axis in (0, 1):
        weights = np.apply_along_axis(np.convolve, axis, weights, soft / soft.sum(), mode="same")
    return weights / weights.sum()


def glass_blur(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """Blurred, every inner pixel replaced by one close by, blurred again.

    The loop behind CIFAR-10-C means to swap pixels but copies one (it assigns views of one array to each other), and
    goes from the last pixel to the first, reaching back only. So it copies what was there before: all pixels at once.
    """
    sigma, reach, rounds = GLASS[severity - 1]
    sigma, reach = sigma * scale(images), max(1, round(reach * scale(images)))
    count, channels, height, width = images.shape
    made = cut(gaussian(images, sigma))
    row, column = (torch.arange(size, device=images.device) for size in (height, width))
    inner = torch.outer((row > reach) & (row <= height - reach), (column > reach) & (column <= width - reach))
    for _ in range(rounds):
        right, down = drawn.integers(-reach, reach, 2, count, height, width)
        y, x = row[:, None] + down * inner, column + right * inner
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)  # a reach beyond 1 looks forward too
        source = (y * width + x).view(count, 1, -1).expand(-1, channels, -1)
        made = made.flatten(2).gather(2, source).view(images.shape)
    return gaussian(made, sigma)


def motion_blur(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    radius, sigma = MOTION[severity - 1]
    degrees = drawn.uniform(len(images), low=-45, high=45)
    return cut(motion(images, radius * scale(images), sigma * scale(images), degrees), Q16)


def zoom_blur(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """The mean of the image, as it is, and enlarged by every factor."""
    total, factors = images.clone(), np.arange(1, ZOOM[severity - 1], 0.01)  # the recipe's own roundings
    for factor in factors:
        total += zoomed(images, float(factor))
    return total / (len(factors) + 1)


def gaussian_blur(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    return gaussian(images, GAUSSIAN[severity - 1] * scale(images))
