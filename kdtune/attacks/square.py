"""The Square Attack in the l-infinity ball: random search that asks for logits only (Andriushchenko et al. 2020).

It sees no gradient, so a network cannot hide from it by having none. Algorithms 1 and 2 of the paper (arXiv 1912.00049)
with the margin as loss; first share of pixels and its halvings as in AutoAttack's code. The paper states the halvings
for 10,000 queries; where the budget is another one they are moved in proportion, as its own code does, so that squares
become as small whatever it is. AutoAttack's class can do that, but its standard version switches it off
(`resc_schedule=False` in autoattack.py): its 5,000 queries are the first half of those 10,000.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from kdtune.attacks.pgd import evaluating, wrong
from kdtune.randomness import Draw

SHARE = 0.8  # of the pixels in the first squares
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries; other budgets in proportion


def square(network: nn.Module, images: Tensor, labels: Tensor, eps: float, queries: int, draw: Draw) -> Tensor:
    """The image of each ball that came out worst for the right class after `queries` forward passes: [N, C, H, W].

    images: [N, C, H, W] in [0, 1]; labels: [N]; eps: radius in pixel units; draw: a stream of the CPU, so that squares
    are the same on every device. An image is asked about no more once it is misclassified; an image's squares do not
    depend on that of others. The network is in eval mode meanwhile.
    """
    count, channels, height, width = images.shape
    lowest, highest = (images - eps).clamp(min=0), (images + eps).clamp(max=1)

    def uniform(*shape: int) -> Tensor:
        return draw.uniform(torch.empty(shape)).to(images.device)

    def signs(*shape: int) -> Tensor:
        return (uniform(*shape) < 0.5).to(images.dtype) * 2 - 1

    worst = (images + eps * signs(count, channels, 1, width)).clamp(lowest, highest)  # stripes: algorithm 1's start
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    with evaluating(network), torch.no_grad():
        lead = _lead(network(worst), labels)
        for query in range(1, queries):
            side = _side(query / queries, height, width)
            top, left = (
                uniform(2, count) * torch.tensor([[height], [width]], device=images.device).sub(side - 1)
            ).long()
            change = 2 * eps * signs(count, channels, 1, 1)
            asked = (lead > 0).nonzero()[:, 0]
            if not len(asked):
                break
            down, across = rows - top[asked, None], columns - left[asked, None]
            inside = ((down >= 0) & (down < side))[:, None, :, None] & ((across >= 0) & (across < side))[:, None, None]
            tried = (worst[asked] + inside * change[asked]).clamp(lowest[asked], highest[asked])
            found = _lead(network(tried), labels[asked])
            better = found < lead[asked]
            worst[asked[better]], lead[asked[better]] = tried[better], found[better]
    return worst


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The right logit minus the largest wrong one: [N]."""
    return logits.gather(1, labels[:, None])[:, 0] - wrong(logits, labels)


def _side(spent: float, height: int, width: int) -> int:
    """The side of the squares in pixels, when this share of the queries is spent."""
    share = SHARE / 2 ** sum(spent * 10_000 > limit for limit in HALVED_AT)
    return min(max(1, round(sqrt(share * height * width))), height, width)
