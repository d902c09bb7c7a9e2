"""A copy of a network that is sure to have an adversarial example near each of a few images: to try an attack on.

The binarization test of Zimmermann, Brendel, Tramer and Carlini 2022, "Increasing Confidence in Adversarial Robustness
Evaluations" (arXiv 2206.13991): behind the network's own features stands, for each image, a linear readout of two
classes. The image and random points of its ball are of class 0, one more, on the ball's surface, is of class 1. An
attack that does not find class 1 there cannot be trusted to find it in the network itself. Differences from their code
(google-research/active-adversarial-tests, f5bb425) are stated with the evaluator `planted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdtune.attacks.pgd import evaluating
from kdtune.randomness import Draw

BATCH = 500  # images that are asked at once
CORNERS = 10  # that are tried for an image, until one can be told from the points of class 0
# In units of the mean variance of a feature. Measured on digits: at 0.01 the readout looks at units that hardly ever
# answer, which have no gradient where an attack starts, and PGD misses 4 % in a network trained with PGD; at 1 none.
RIDGE = 1.0
CLOSE = 0.9  # where class 1 begins, on the way from the outermost point of class 0 (0) to the corner (1)
CLEAR = 0.01  # of the way from the image to the corner: by how much at least the corner lies beyond that point
VARIES = 1e-4  # of its size: features that vary less over a ball vary by float32's rounding
APART = 3.0  # radii between two images at least: neighbours of an iterate lie up to 1.5 from its image


@dataclass(frozen=True)
class Readout:
    """Of one image: (features - centre) @ direction is 0 at the image, 1 where class 1 begins. Float64 [D] each."""

    centre: Tensor
    direction: Tensor


class Binarized(nn.Module):
    """The network with a readout of two classes around each of `images` [M, C, H, W] in place of its classifier.

    Logits [N, 2]. An image is put to the readout of the nearest of `images` in the l-infinity norm. `sure`: by how much
    the logit of class 0 is above the other at these themselves.
    """

    def __init__(self, network: nn.Module, images: Tensor, readouts: list[Readout], sure: float) -> None:
        super().__init__()
        self.network, self.images, self.sure = network, images.flatten(1), sure
        self.centre = torch.stack([each.centre for each in readouts]).float()
        self.direction = torch.stack([sure * each.direction for each in readouts]).float()

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            nearest = torch.cdist(images.flatten(1), self.images, p=torch.inf).argmin(1)
        away = features(self.network, images) - self.centre[nearest]
        lead = ((away * self.direction[nearest]).sum(1) - self.sure) / 2
        return torch.stack([-lead, lead], 1)


@dataclass(frozen=True)
class Plants:
    """What `plant` made: the copy; which of the images [N] have an example, bool [N]; and the examples [M, C, H, W]."""

    copy: Binarized
    planted: Tensor
    examples: Tensor


def features(network: Any, images: Tensor) -> Tensor:
    """What a network's classifier is given, [N, D]; of one that does not tell it the logits, whose linear readouts are
    such of its features too."""
    found: Tensor = network.features(images) if hasattr(network, "features") else network(images)
    return found


def corners(image: Tensor, radius: float, count: int, draw: Draw) -> Tensor:
    """Random corners [count, C, H, W] of the l-infinity ball around an image [C, H, W], cut off at [0, 1]."""
    signs = (draw.uniform(torch.empty(count, *image.shape)) < 0.5).to(image.dtype) * 2 - 1
    return (image + radius * signs.to(image.device)).clamp(0, 1)


def around(image: Tensor, radius: float, count: int, draw: Draw) -> Tensor:
    """Points of that ball [count, C, H, W], half of them corners, the others uniform.

    Without corners in class 0 a readout would tell how far away a point is, and any corner would be an example: of
    networks that take means over positions nine in ten were, on MNIST.
    """
    half = count // 2
    offsets = draw.uniform(torch.empty(count - half, *image.shape)) * 2 - 1
    within = (image + radius * offsets.to(image.device)).clamp(0, 1)
    return torch.cat([corners(image, radius, half, draw), within])


def fitted(zero: Tensor, ones: Tensor) -> tuple[Readout, int] | None:
    """Fisher's linear discriminant between points of class 0 and one of class 1, and which one that is.

    zero: features [P, D], float64, the image's first; ones: [Q, D], candidates, of which the first is taken that lies
    clearly beyond all of class 0. None where none does.
    """
    middle = zero.mean(0)
    known, asked = zero - middle, ones - middle
    variance = known.square().mean()
    if not variance.sqrt() > VARIES * zero.square().mean().sqrt():
        return None
    ridge = RIDGE * variance * torch.eye(zero.shape[1], dtype=zero.dtype, device=zero.device)
    ways = torch.linalg.solve(known.T @ known / len(known) + ridge, asked.T)  # [D, Q]: a direction for each candidate
    outermost = ((known - known[0]) @ ways).max(0).values
    reached = ((asked - known[0]) * ways.T).sum(1)
    clear = (reached - outermost > CLEAR * reached.abs()).nonzero()[:, 0]
    if not len(clear):
        return None
    first = int(clear[0])
    begins = outermost[first] + CLOSE * (reached[first] - outermost[first])
    return Readout(zero[0], ways[:, first] / begins), first


def plant(network: nn.Module, images: Tensor, eps: float, points: int, sure: float, draw: Draw) -> Plants | None:
    """A copy of the network with an adversarial example within `eps` of as many of the images as can be.

    images: [N, C, H, W] in [0, 1]; eps: pixel units; points: how many random ones of each ball are of class 0; sure:
    see `Binarized`, above 0; draw: a stream of the CPU, so that points are the same on every device. Left out are
    images none of whose CORNERS can be told from these points, and those whose ball lies by that of an earlier one.
    None where nothing could be planted. The network is in eval mode meanwhile.
    Raises FloatingPointError for features that are not finite.
    """
    readouts: list[Readout] = []
    examples: list[Tensor] = []
    places: list[int] = []
    with evaluating(network), torch.no_grad():
        for place, image in enumerate(images):
            offered = corners(image, eps, CORNERS, draw)
            asked = torch.cat([image[None], around(image, eps, points, draw), offered])
            seen = torch.cat([features(network, part) for part in asked.split(BATCH)]).double()
            if not seen.isfinite().all():
                raise FloatingPointError("features are not finite on random points near an image")
            if any((images[other] - image).abs().max() <= APART * eps for other in places):
                continue
            if (fit := fitted(seen[:-CORNERS], seen[-CORNERS:])) is not None:
                readouts.append(fit[0])
                examples.append(offered[fit[1]])
                places.append(place)
    if not readouts:
        return None
    copy, wanted = Binarized(network, images[places], readouts, sure), torch.stack(examples)
    with evaluating(copy), torch.no_grad():  # what stands in float64 has to in float32, too
        stands = (copy(wanted).argmax(1) == 1) & (copy(images[places]).argmax(1) == 0)
    kept = [place for place, each in enumerate(stands.tolist()) if each]
    if not kept:
        return None
    planted = torch.zeros(len(images), dtype=torch.bool)
    planted[[places[place] for place in kept]] = True
    copy = Binarized(network, images[planted.to(images.device)], [readouts[place] for place in kept], sure)
    return Plants(copy, planted, wanted[kept])
