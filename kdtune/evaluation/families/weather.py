"""Weather: patterns drawn at 32 x 32 over images float [N, C, H, W] in [0, 1]; results may lie above 1."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtune.evaluation.families.drawn import Drawn
from kdtune.evaluation.families.filters import Q16, SIDE, cut, fitted, gaussian, grey, motion, painted, zoomed

SNOW = (  # mean and deviation of the flakes, their size, from where they show; radius and sigma of the fall; whiteness
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # weight of the image, of the ice
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # thickness, decay of the plasma from octave to octave
BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)  # added to the value of HSV

# Mean colour and deviation of CIFAR-10-C's five photographs of ice at the scale it uses them. Their grain, measured as
# autocorrelation at 1, 2, 4 and 8 pixels (0.36, 0.27, 0.19, 0.12 on average), is that of white noise mixed with noise
# smoothed by 1 and by 4 pixels in these shares of variance.
ICE = (
    (0.304, 0.584, 0.650, 0.057),
    (0.787, 0.805, 0.841, 0.071),
    (0.787, 0.805, 0.841, 0.071),
    (0.541, 0.601, 0.649, 0.101),
    (0.440, 0.483, 0.528, 0.136),
)
GRAIN = {0: 0.56, 1: 0.2, 4: 0.24}


def snow(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    mean, deviation, size, shown, radius, sigma, clear = SNOW[severity - 1]
    flakes = zoomed(mean + deviation * drawn.normal(len(images), 1, SIDE, SIDE), size)
    flakes = cut(torch.where(flakes < shown, 0, flakes))
    fallen = cut(motion(flakes, radius, sigma, drawn.uniform(len(images), low=-135, high=-45)), Q16)
    white = torch.maximum(images, grey(images) * 1.5 + 0.5)
    return clear * images + (1 - clear) * white + fitted(fallen + fallen.rot90(2, (2, 3)), images)


def frost(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    kept, weight = FROST[severity - 1]
    return kept * images + weight * ice(images, drawn)


def ice(images: Tensor, drawn: Drawn) -> Tensor:
    """Random fields with colours, contrast and grain of the photographs: [N, C, H, W] in [0, 1]."""
    kind = torch.tensor(ICE, device=images.device)[drawn.integers(0, len(ICE), len(images))]
    grain = torch.zeros(len(images), 1, SIDE, SIDE, device=images.device)
    for sigma, share in GRAIN.items():
        smooth = gaussian(drawn.normal(len(images), 1, SIDE, SIDE), sigma, "symmetric")
        grain += share**0.5 * smooth / smooth.std()
    return (painted(kind[:, :3], images) + fitted(kind[:, 3].view(-1, 1, 1, 1) * grain, images)).clamp(0, 1)


def fog(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """The image's brightest value stays the brightest."""
    thickness, decay = FOG[severity - 1]
    brightest = images.amax((1, 2, 3), keepdim=True)
    clouds = fitted(plasma(len(images), decay, drawn), images)
    return (images + thickness * clouds) * brightest / (brightest + thickness)


def plasma(count: int, decay: float, drawn: Drawn, side: int = SIDE) -> Tensor:
    """Clouds in [0, 1] by the diamond-square algorithm on a torus: [count, 1, side, side], side a power of two.

    What a point differs from its neighbours' mean by is uniform, up to wobble^2; wobble falls by `decay` per octave.
    """
    height, wobble, step = torch.zeros(count, side, side, device=drawn.device), 100.0, side

    def mean(four: Tensor) -> Tensor:
        return four / 4 + drawn.uniform(*four.shape, low=-1, high=1) * wobble**2

    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]
        sides = corners + corners.roll(-1, 1)
        height[:, half::step, half::step] = mean(sides + sides.roll(-1, 2))
        middles = height[:, half::step, half::step]
        height[:, ::step, half::step] = mean(middles + middles.roll(1, 1) + corners + corners.roll(-1, 2))
        height[:, half::step, ::step] = mean(middles + middles.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wobble = half, wobble / decay
    height -= height.amin((1, 2), keepdim=True)
    return (height / height.amax((1, 2), keepdim=True))[:, None]


def brightness(images: Tensor, severity: int, drawn: Drawn) -> Tensor:
    """HSV's value, the largest channel, raised; hue and saturation kept, which is to scale all channels alike."""
    value = images.amax(1, keepdim=True)
    raised = (value + BRIGHTNESS[severity - 1]).clamp(max=1)
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)
