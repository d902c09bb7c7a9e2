"""What cameras and files do. Images float [N, C, H, W] in [0, 1]; lengths as shares of the shorter side."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdtune.evaluation.families.drawn import Drawn
from kdtune.evaluation.families.filters import gaussian, rounded, sampled

CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
ELASTIC = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)  # of the side's pixels
JPEG = (80, 65, 58, 50, 40)  # quality
SATURATE = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))  # factor, then what is added


def contrast(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * CONTRAST[severity - 1] + means


def elastic_transform(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """A random affine map, then every pixel from a place nearby. ELASTIC: how far, how smooth, how far corners move.

    The affine part shrinks with severity as the local one grows: severity 2 is milder than 1, as in CIFAR-10-C.
    """
    count, _, height, width = images.shape
    side = min(height, width)
    far, smooth, corner = (side * share for share in ELASTIC[severity - 1])
    y, x = torch.meshgrid(*(torch.arange(float(size), device=images.device) for size in (height, width)), indexing="ij")
    matrix = affine(height, width, drawn.uniform(count, 3, 2, low=-corner, high=corner)).to(images)
    columns, rows = (across * x + down * y + start for across, down, start in matrix.permute(2, 1, 0)[..., None, None])
    images = sampled(images, rows, columns, "mirror")
    right, down = far * gaussian(drawn.uniform(2, count, height, width, low=-1, high=1), smooth, "symmetric", 3)
    return sampled(images, y + down, x + right, "symmetric")


def affine(height: int, width: int, moves: Tensor) -> Tensor:
    """Maps (x, y, 1) of a result to (x, y) in the image, as float64 [N, 3, 2] on the CPU.

    They take three corners of a square around the centre, each moved by `moves` [N, 3, 2] (in x and y), back to where
    they were. As in CIFAR-10-C, the centre's row is taken for its x, which only matters where sides differ.
    """
    corners = torch.tensor([[1.0, 1, 1], [1, -1, 1], [-1, -1, 1]], dtype=torch.float64)
    corners[:, :2] = corners[:, :2] * (min(height, width) // 3) + torch.tensor([height // 2, width // 2])
    moved = corners.repeat(len(moves), 1, 1)
    moved[:, :, :2] += moves.double().cpu()
    return torch.linalg.solve(moved, corners[None, :, :2].expand(len(moves), -1, -1))


def pixelate(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """Fewer pixels, then as many as before, by Pillow's box filter, which rounds after each axis, columns first."""
    height, width = images.shape[2:]
    fewer = [int(size * PIXELATE[severity - 1]) for size in (height, width)]
    for before, after in (((height, width), fewer), (fewer, (height, width))):
        down, right = (box(*sizes).to(images.device) for sizes in zip(before, after, strict=True))
        images = rounded(torch.einsum("nchw,vw->nchv", images.double(), right))
        images = rounded(torch.einsum("nchw,vh->ncvw", images, down))
    return images.float()


@lru_cache(maxsize=64)
def box(before: int, after: int) -> Tensor:
    """Weights [after, before] of Pillow's box filter along one axis, float64: what it makes of single bright pixels."""
    bright = Image.fromarray(np.eye(before, dtype=np.float32))
    return torch.from_numpy(np.array(bright.resize((after, before), Image.Resampling.BOX)).T.astype(float))


def saturate(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """HSV's saturation s to factor * s + added; hue and value kept. Grey pixels have hue 0: they turn red."""
    factor, added = SATURATE[severity - 1]
    value = images.amax(1, keepdim=True)
    below = value - images  # value * saturation * a share that the hue decides
    most = below.amax(1, keepdim=True)
    saturation = most / value.clamp(min=1e-6)
    wanted = (factor * saturation + added).clamp(0, 1)
    red = value * images.new_tensor([0.0, 1, 1]).view(1, 3, 1, 1)
    return value - wanted * torch.where(most > 0, below / saturation.clamp(min=1e-6), red)


def jpeg_compression(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """Through Pillow's encoder on the CPU, colours at half resolution (4:2:0)."""
    levels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    made = np.empty_like(levels)
    for image, result in zip(levels, made, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=JPEG[severity - 1])
        result[:] = np.asarray(Image.open(file)).reshape(image.shape)
    return torch.from_numpy(made).permute(0, 3, 1, 2).to(images) / 255
