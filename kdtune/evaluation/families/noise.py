"""Noise of every pixel and channel by itself. Images float [N, C, H, W] in [0, 1]; results may lie outside."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtune.evaluation.families.drawn import Drawn

GAUSSIAN = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation
SHOT = (500, 250, 100, 75, 50)  # photons of a white pixel
IMPULSE = (0.01, 0.02, 0.03, 0.05, 0.07)  # share of values that turn 0 or 1
SPECKLE = (0.06, 0.10, 0.12, 0.16, 0.20)  # standard deviation for a white pixel


def gaussian_noise(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    return images + GAUSSIAN[severity - 1] * drawn.normal(*images.shape)


def shot_noise(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    photons = SHOT[severity - 1]
    return drawn.poisson(images * photons) / photons


def impulse_noise(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    struck = drawn.uniform(*images.shape) < IMPULSE[severity - 1]
    salt = drawn.uniform(*images.shape) < 0.5
    return torch.where(struck, salt.to(images), images)


def speckle_noise(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    return images + images * SPECKLE[severity - 1] * drawn.normal(*images.shape)
