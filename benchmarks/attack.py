"""PGD beside a public library's, with every number that the paper takes: `python benchmarks/attack.py [--rounds 5]`.

Accuracies after 10, 15 and 20 steps, the lowest of five restarts. foolbox is asked for each of these attacks by itself,
as its interface has it; ours reads all step counts off one pass, and under `report: worst` gives up images that are
broken. The network is a small CNN that knows scikit-learn's digits, at a radius that leaves few of them. One thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import foolbox
import measuring
import torch
from torch import nn

from kdtune.data.loading import Data, inputs, load
from kdtune.data.sets.published import Digits
from kdtune.evaluation.pgd import PGD
from kdtune.evaluation.subject import Context, Subject
from kdtune.losses.ce import CE
from kdtune.models.small import CNN
from kdtune.noise.noise import Noise
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step
from kdtune.recipe import Recipe
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train
from kdtune.training.network import build_network, placed

EPS, STEP, STEPS, RESTARTS = 0.15, 0.02, (10, 15, 20), 5


def trained(data: Data, epochs: int = 8) -> nn.Module:
    schedule = Step(milestones=(0.6,), factor=0.1)
    recipe = Recipe(
        optimizer=SGD(lr=0.05, momentum=0.9), schedule=schedule, precision="float32", batch_size=32, epochs=epochs
    )
    device = data.train.images.device
    network = placed(build_network(CNN(width=16), None, 0, data.shape, data.classes), device)
    train(network, data.train, recipe, Lesson(data.classes, 0, Noise(), CE(), device=device), 0)
    return network.eval()


def public(network: nn.Module, data: Data) -> Callable[[], None]:
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=str(data.test.images.device))
    images, labels = inputs(data.test.images), data.test.labels

    def attack() -> None:
        for steps in STEPS:
            of_steps = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=STEP, random_start=True)
            for _ in range(RESTARTS):
                of_steps(model, images, labels, epsilons=EPS)

    return attack


def ours(network: nn.Module, data: Data, worst: bool) -> Callable[[], object]:
    subject = Subject(network, data, Context(Path("nowhere"), str(data.test.images.device)))
    evaluator = PGD(eps=EPS, step=STEP, steps=STEPS, restarts=RESTARTS, report="worst" if worst else None)
    return lambda: evaluator.measured(subject)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = load(Digits(), Path("nowhere"))
    network = trained(data)
    ways: dict[str, Callable[[], object]] = {
        "foolbox, one by one": public(network, data),
        "kdtune, every number": ours(network, data, worst=False),
        "kdtune, report: worst": ours(network, data, worst=True),
    }
    standing = PGD(eps=EPS, step=STEP, steps=STEPS, restarts=RESTARTS).measured(
        Subject(network, data, Context(Path("nowhere")))
    )
    print(f"{len(data.test)} images, of which {standing.metrics['robust/pgd20/worst_unconditional']:.1f} % withstand")
    found = measuring.in_turn(ways, asked.rounds)
    print(measuring.table(found, "foolbox, one by one"))
    print(f"wrote {measuring.write('attack', {'seconds': measuring.plain(found), 'standing': standing.metrics})}")


if __name__ == "__main__":
    main()
