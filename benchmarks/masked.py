"""Whether `masking` tells masked networks from honest ones on MNIST, and what it costs.

    python benchmarks/masked.py --data FOLDER [--images 40] [--queries 200,1000]

FOLDER is a data folder with MNIST in it, as sweeps have it. A small CNN is trained; the others are that one behind
something that spoils its gradient. A masked network should raise a flag, the honest one none.

Seen on one core of an AMD EPYC, torch 2.11, 40 images, eps 0.06, in percent that stand and seconds of that core:

                white box  smoothed  Square: 200  1,000 queries  seconds  flags, at both
    honest              5        10           35             12   5,   8  none
    stairs             70        15           32             12  13,  16  smoothed_wins, square_wins
    quantised          95        95           32             12  12,   9  zero_gradient, floor_not_reached, square_wins
    rippled            88        30           55             28  10,  10  smoothed_wins, square_wins
    astray            100        90           35             12  11,  11  floor_not_reached, smoothed_wins, square_wins

On CIFAR-10, a CNN of width 8 behind 32 levels, eps 0.016, Square alone breaks 8, 15, 18 and 22 of 31 images with 200,
500, 1,000 and 2,000 queries: on 3 x 32 x 32 a thousand find most of them too, and each further one costs as much.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, load
from kdtune.evaluation.flags import flags_of
from kdtune.evaluation.masking import Masking
from kdtune.evaluation.subject import Context, Subject
from kdtune.models.model import Model

EPS, STEP = 0.06, 0.006
MASKED = ("stairs", "quantised", "rippled", "astray")
STEPS = 16
EPOCHS, BATCH = 2, 64


class Behind(nn.Module):
    """A network that sees what a front-end makes of the images."""

    def __init__(self, front: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.front, self.network = front, network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.front(images))


def stairs(images: Tensor, steepness: float = 3200.0) -> Tensor:
    """Sixteen smooth steps: at their edges a gradient, and between them one that float32 mostly has as 0."""
    edges = (torch.arange(STEPS, device=images.device) + 0.5) / STEPS
    return torch.stack([torch.sigmoid(steepness * (images - edge)) for edge in edges]).sum(0) / STEPS


def quantised(images: Tensor) -> Tensor:
    return (images * STEPS).round() / STEPS


def rippled(images: Tensor) -> Tensor:
    """A ripple far below what changes an answer, whose slope drowns that of the network: a shattered gradient."""
    return images + 0.02 * torch.sin(500 * images)


class Reversing(torch.autograd.Function):
    @staticmethod
    def forward(context, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return -gradient


def trained(data: Data) -> nn.Module:
    """A CNN of width 8, trained on clean images."""
    torch.manual_seed(0)
    network = Model.model_validate({"cnn": {"width": 8}}).build(data.shape, data.classes)
    count = len(data.train)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=EPOCHS * -(-count // BATCH))
    for _ in range(EPOCHS):
        for places in torch.randperm(count).split(BATCH):
            optimizer.zero_grad()
            images = data.train.images[places].float() / 255
            functional.cross_entropy(network(images), data.train.labels[places]).backward()
            optimizer.step()
            rates.step()
    return network.eval()


def zoo(data: Data) -> dict[str, nn.Module]:
    """Networks by name; the first is honest."""
    honest = trained(data)
    return {
        "honest": honest,
        "stairs": Behind(stairs, honest),
        "quantised": Behind(quantised, honest),
        "rippled": Behind(rippled, honest),
        "astray": Behind(Reversing.apply, honest),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--queries", default=f"200,{Masking().queries}")
    parser.add_argument("--train-size", type=int, default=20_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # seconds are those of one core
    data = load(Dataset.model_validate({"mnist": {}, "train_size": asked.train_size}), asked.data)
    networks = zoo(data)
    print("trained", flush=True)
    for queries in map(int, asked.queries.split(",")):
        for name, network in networks.items():
            began = time.process_time()
            evaluator = Masking(eps=EPS, step=STEP, images=asked.images, queries=queries)
            found = evaluator.measure(Subject(network, data, Context(asked.data))).metrics
            print(
                f"{queries:5,} queries, {name:9}: white box {found['masking/white_box']:3.0f} %, "
                f"smoothed {found['masking/smoothed']:3.0f} %, Square {found['masking/square']:3.0f} %; "
                f"{time.process_time() - began:4.0f} s, flags: {', '.join(flags_of(found) or ()) or 'none'}",
                flush=True,
            )
