"""Projected gradient descent on gradients averaged over random neighbours of the iterate.

A front-end that is flat or jagged on a scale below the ball's hides the slope of the network behind it from an exact
gradient: steep steps have none between their edges, ripples one of their own. The mean over neighbours sees across
them. It is what expectation over transformation does for random front-ends (Athalye et al. 2018, section 4.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdtune.attacks.pgd import evaluating, gradient, margin
from kdtune.randomness import Draw

REACH = 0.5  # of neighbours, in units of eps. Measured: 1 finds less where steps are not so steep
BATCH = 500  # neighbours that are asked at once
STRIDE = 2.5  # steps are STRIDE * eps / steps, so that the ball can be crossed (Madry et al. 2018, appendix)


def smoothed(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    eps: float,
    steps: int,
    neighbours: int,
    draw: Draw,
) -> Tensor:
    """The first iterate that is misclassified, else the last: [N, C, H, W]; the loss is the margin.

    images, start: [N, C, H, W] in [0, 1]; labels: [N]; eps: radius in pixel units; `neighbours` gradients make a step;
    draw: a stream of the CPU, so that neighbours are the same on every device. An image is asked about no more once it
    is misclassified; its neighbours do not depend on other images. The network is in eval mode meanwhile.
    Raises FloatingPointError where a gradient is not finite.
    """
    lowest, highest = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    iterate, finite = start.clamp(lowest, highest), images.new_ones((), dtype=torch.bool)
    blank = torch.empty(images.shape)
    with evaluating(network):
        for _ in range(steps):
            with torch.no_grad():
                asked = (network(iterate).argmax(1) == labels).nonzero()[:, 0]
            if not len(asked):
                break
            here = iterate[asked]
            offsets = torch.stack([draw.uniform(blank) for _ in range(neighbours)]).to(images.device)[:, asked] * 2 - 1
            beside = (here + REACH * eps * offsets).clamp(0, 1).flatten(0, 1)
            answers = labels[asked].repeat(neighbours)
            slopes = [
                gradient(network, *part, margin) for part in zip(beside.split(BATCH), answers.split(BATCH), strict=True)
            ]
            uphill = torch.cat(slopes).view_as(offsets).sum(0)
            finite &= uphill.isfinite().all()
            there = here + STRIDE * eps / steps * uphill.sign()
            iterate[asked] = there.clamp(lowest[asked], highest[asked])
    if not finite:  # looked at only here: a look waits for the GPU
        raise FloatingPointError("the margin has gradients that are not finite; the network cannot be attacked with it")
    return iterate
