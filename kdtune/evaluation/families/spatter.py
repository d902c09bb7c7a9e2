"""Spatter: drops of water, or mud, over images float [N, C, H, W] in [0, 1].

Water is lit like relief: by OpenCV's Canny edges, the distance from them, equalised, and a slanting light.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from kdtune.evaluation.families.drawn import Drawn
from kdtune.evaluation.families.filters import SIDE, correlate, cut, fitted, gaussian, painted

# Mean, deviation and sigma of the liquid, from where it shows; then, for water its opacity, for mud sigma of its rim.
WATER = {1: (0.62, 0.1, 0.7, 0.7, 0.5), 2: (0.65, 0.1, 0.8, 0.7, 0.5), 3: (0.65, 0.3, 1, 0.69, 0.5)}
MUD = {4: (0.65, 0.1, 0.7, 0.69, 0.6), 5: (0.65, 0.1, 0.5, 0.68, 0.6)}
TURQUOISE = (175 / 255, 238 / 255, 238 / 255)
BROWN = (63 / 255, 42 / 255, 20 / 255)
OPAQUE = 0.8  # mud thinner than this is none

LOW, HIGH = 50, 150  # Canny's thresholds, in grey levels
FAR = 20.0  # pixels; longer distances from an edge count as this
STEPS = {(0, 1): 1, (1, 1): 1.4, (1, 2): 2.1969}  # OpenCV's lengths of ways to pixels nearby, in every direction
SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
BOX = np.full((3, 3), 1 / 9)
LIGHT = np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])


def spatter(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    mean, deviation, sigma, shown, last = (WATER | MUD)[severity]
    liquid = gaussian(mean + deviation * drawn.normal(len(images), 1, SIDE, SIDE), sigma)
    if severity in WATER:
        drops = last * relief(torch.where(liquid < shown, 0, 255 * cut(liquid)))
        return images + fitted(drops, images) * painted(TURQUOISE, images)
    mud = gaussian((liquid > shown).float(), last)
    mud = fitted(torch.where(mud < OPAQUE, 0, mud), images)
    return images * (1 - mud) + mud * painted(BROWN, images)


def relief(liquid: Tensor) -> Tensor:
    """Drops as light, the brightest 1, from the liquid's grey levels [N, 1, H, W]."""
    depth = distance(canny(liquid), FAR)
    depth = equalised((correlate(depth, BOX, "mirror") + 1e-4).floor())
    depth = correlate(depth, LIGHT, "mirror").clamp(0, 255)
    lit = liquid * correlate(depth, BOX, "mirror").round()
    return lit / lit.amax((2, 3), keepdim=True).clamp(min=1e-6)


def canny(levels: Tensor) -> Tensor:
    """Edges (Canny 1986) of grey levels [N, 1, H, W]: bool, with OpenCV's 3 x 3 gradient and its sum of absolutes."""
    x, y = correlate(levels, SOBEL, "edge"), correlate(levels, SOBEL.T, "edge")
    size = x.abs() + y.abs()
    around = pad(size, (1, 1, 1, 1))
    height, width = size.shape[2:]

    def beside(down: int, right: int) -> Tensor:
        return around[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    flat, steep = y.abs() < 0.41421356 * x.abs(), y.abs() > 2.41421356 * x.abs()  # tangents of 22.5 and 67.5 degrees
    falling = (x < 0) == (y < 0)
    slanting = torch.where(
        falling, torch.maximum(beside(-1, -1), beside(1, 1)), torch.maximum(beside(-1, 1), beside(1, -1))
    )
    ridge = torch.where(flat, (size > beside(0, -1)) & (size >= beside(0, 1)), size > slanting)
    ridge = torch.where(steep, (size > beside(-1, 0)) & (size >= beside(1, 0)), ridge)
    weak = ridge & (size > LOW)
    edges = weak & (size > HIGH)
    while True:  # weak edges that touch strong ones, and so on
        grown = weak & (max_pool2d(edges.float(), 3, 1, 1) > 0)
        if torch.equal(grown, edges):
            return edges
        edges = grown


def distance(edges: Tensor, far: float) -> Tensor:
    """Every pixel's way to the nearest edge, `far` at most: float [N, 1, H, W], along STEPS, about 2 % off Euclid's."""
    height, width = edges.shape[2:]
    ways = {
        (y * down, x * right): length
        for steps, length in STEPS.items()
        for y, x in (steps, steps[::-1])
        for down in (-1, 1)
        for right in (-1, 1)
    }
    near = torch.where(edges, 0, torch.full(edges.shape, far, device=edges.device))
    while True:
        around, nearer = pad(near, (2, 2, 2, 2), value=far), near
        for (down, right), length in ways.items():
            there = around[:, :, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
            nearer = torch.minimum(nearer, there + length)
        if torch.equal(nearer, near):
            return near
        near = nearer


def equalised(levels: Tensor) -> Tensor:
    """Histogram equalisation of whole grey levels [N, 1, H, W], each image by itself, as OpenCV does it."""
    flat = levels.long().flatten(1)
    counts = torch.zeros(len(flat), 256, device=levels.device).scatter_add_(
        1, flat, torch.ones_like(flat, dtype=torch.float)
    )
    lowest = counts.gather(1, flat.amin(1, keepdim=True))
    others = flat.shape[1] - lowest
    table = ((counts.cumsum(1) - lowest) * (255 / others.clamp(min=1))).round().clamp(min=0)
    return torch.where(others[:, :, None, None] > 0, table.gather(1, flat).view(levels.shape), levels)
