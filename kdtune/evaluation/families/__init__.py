"""The nineteen corruption families of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019), at five severities.

Constants are those that CIFAR-10-C was made with (hendrycks/robustness, make_cifar_c.py), for images of 32 x 32. For
other sizes lengths grow with the shorter side; patterns that lie over an image (snow, frost, fog, spatter) are drawn at
32 x 32 and resized. What differs from CIFAR-10-C at 32 x 32: other random numbers, and frost, whose photographs are
replaced by random ice of their colours and grain. Names are known here without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 500  # images that share a stream of random numbers: part of what an image's corruption is
SEVERITIES = (1, 2, 3, 4, 5)
USUAL = {
    "gaussian_noise": "noise",
    "shot_noise": "noise",
    "impulse_noise": "noise",
    "defocus_blur": "blur",
    "glass_blur": "blur",
    "motion_blur": "blur",
    "zoom_blur": "blur",
    "snow": "weather",
    "frost": "weather",
    "fog": "weather",
    "brightness": "weather",
    "contrast": "digital",
    "elastic_transform": "digital",
    "pixelate": "digital",
    "jpeg_compression": "digital",
}
FAMILIES = USUAL | {"speckle_noise": "noise", "gaussian_blur": "blur", "spatter": "spatter", "saturate": "digital"}


def unsuited(channels: int) -> dict[str, str]:
    """Families that mean nothing for images of so many channels, with the reason."""
    return {} if channels == 3 else {"saturate": "grey images have no saturation"}


def corrupt(images: Tensor, family: str, severity: int, seed: int) -> Tensor:
    """Corrupted images, uint8 [N, C, H, W] as they came, C being 1 or 3, on their device.

    Numbers are drawn on the CPU, so that they are the same on every device. As in CIFAR-10-C values are cut, not
    rounded, to 256 levels.
    """
    import torch

    from kdtune.evaluation.families.drawn import Drawn
    from kdtune.evaluation.families.filters import cut

    function = getattr(import_module(f"{__name__}.{FAMILIES[family]}"), family)
    made = [images.new_empty(0, *images.shape[1:])]
    for block, part in enumerate(images.split(BLOCK)):
        numbers = Drawn(seed, f"evaluation.corruptions.{family}.{severity}.{block}", images.device)
        made.append((255 * cut(function(part.float() / 255, severity, numbers))).round().to(torch.uint8))
    return torch.cat(made)
