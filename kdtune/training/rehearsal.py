"""A run's training, rehearsed on random images: what a step takes of time and memory hangs on shapes alone.

    python -m kdtune.training.rehearsal

is a process that rehearses one run, for `training.together`, which asks several at once how fast they are side by side.
It reads a `Part` as JSON from its standard input and answers with a `Ready`; for each further line, a number of
seconds, it trains for so long and answers with images a second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from kdtune.attacks.space import Space
from kdtune.data.loading import Split, inputs
from kdtune.evaluation.evaluator import BATCH
from kdtune.extensions import Extension, texts_of, use
from kdtune.losses.ce import CE
from kdtune.run import Run
from kdtune.training.backends import repeatable
from kdtune.training.captured import Capture
from kdtune.training.ensemble import Ensemble
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train_epoch
from kdtune.training.network import build_network, placed
from kdtune.training.together import Part, Ready

STEPS = 20  # of as many batches images are drawn
TIMED = 200  # steps of an epoch that is timed, at most; of a longer one the start weighs more here than in the run
EPOCHS = 2  # of STEPS, after which weights are compared


class Rehearsal:
    """The training of `run`, which may learn from `teachers`, epoch by epoch."""

    def __init__(self, run: Run, teachers: Sequence[Run], device: str) -> None:
        if run.recipe is None or run.seed is None:
            raise ValueError("a network that is not trained has nothing to rehearse")
        self.run, self.recipe, self.seed, self.device = run, run.recipe, run.seed, device
        generator = torch.Generator().manual_seed(0)
        self.split = _drawn(run, STEPS * run.recipe.batch_size, generator).to(device)
        self.network = self._network(run)
        loss = run.loss or CE()
        if loss.calibration is not None:  # whatever will be read then, a step takes as long
            loss = loss.calibrated_to(alpha=0.5, temperature=1.0)
        if loss.stored:
            shape = (len(self.split), run.recipe.augmentation.views, run.dataset.classes())
            self.split = replace(self.split, answers=torch.randn(shape, generator=generator).half().to(device))
        asked = [self._network(teacher) for teacher in teachers] if loss.asks else []
        listens = asked[0] if len(asked) == 1 else Ensemble(asked) if asked else None
        space = Space(subspace=torch.eye(self.split.images[0].numel(), 1, device=device))  # some line, for who asks
        self.lesson = Lesson(
            run.dataset.classes(), run.seed, run.noise, loss, listens, run.recipe.precision, device, space
        )
        self.optimizer = run.recipe.optimizer.build(self.network.parameters())
        captured = torch.device(device).type == "cuda" and not texts_of(run)
        self.capture = Capture() if captured else None
        self.epochs = 0

    def _network(self, run: Run) -> nn.Module:
        shape, classes = self.run.dataset.shape(), self.run.dataset.classes()
        return placed(build_network(run.model, run.normalization, run.seed or 0, shape, classes), self.device)

    def epoch(self) -> None:
        def one(capture: Capture | None = None) -> dict[str, float]:
            recipe = self.recipe.model_copy(update={"epochs": max(self.recipe.epochs, self.epochs + 1)})
            return train_epoch(
                self.network, self.optimizer, self.split, recipe, self.lesson, self.seed, self.epochs, capture
            )

        one() if self.capture is None else self.capture.train(self.network, self.optimizer, one)
        self.epochs += 1

    def attack(self) -> None:
        """A gradient of an evaluator's batch, which may take more memory than a step."""
        images = inputs(self.split.images[:BATCH])
        batch = images.repeat(-(-BATCH // len(images)), 1, 1, 1)[:BATCH].requires_grad_()
        self.network.eval()
        torch.autograd.grad(self.network(batch).logsumexp(1).sum(), batch)

    def ready(self) -> Ready:
        for _ in range(EPOCHS):
            self.epoch()
        values = b"".join(value.cpu().numpy().tobytes() for value in self.network.state_dict().values())
        self.attack()
        free, there = torch.cuda.mem_get_info() if torch.device(self.device).type == "cuda" else (0, 0)
        beside = self.beside() if there else 0
        return Ready(sha256(values).hexdigest(), there - free + beside, there)

    def beside(self) -> int:
        """Bytes of the run's images, and stored answers, that were not drawn here."""
        dataset, answers = self.run.dataset, self.split.answers
        train, test = dataset.counts()[0], dataset.tested.counts()[1]
        image = self.split.images[0].numel() * (4 if dataset.floats else 1)
        each = 0 if answers is None else answers[0].nbytes
        return max(0, train - len(self.split)) * (image + each) + test * image

    def rate(self, seconds: float) -> float:
        """Images a second, over so many seconds at least."""
        own = self.run.dataset.sizes(self.run.dataset.counts()[0])
        steps = (own[0] - own[1]) * (self.run.dataset.repeat or 1) // self.recipe.batch_size
        self.split = replace(self.split, repeat=max(1, min(steps, TIMED) // STEPS))
        began, epochs = time.perf_counter(), self.epochs
        while (spent := time.perf_counter() - began) < seconds:
            self.epoch()  # which ends with numbers read from the device, so that all of it is done
        return (self.epochs - epochs) * self.split.repeat * len(self.split) / spent


def _drawn(run: Run, count: int, generator: torch.Generator) -> Split:
    """Random images, uint8 [N, C, H, W], and labels, on the CPU."""
    images: Tensor = torch.randint(256, (count, *run.dataset.shape()), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(run.dataset.classes(), (count,), generator=generator))


def main() -> None:
    """As told above, until standard input ends. What code of the user's own prints goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    part = Part(**json.loads(sys.stdin.readline()))
    use([Extension(*each) for each in part.extensions])
    torch.set_num_threads(1)
    run, *teachers = map(Run.model_validate_json, (part.run, *part.teachers))
    with repeatable():
        rehearsal = Rehearsal(run, teachers, part.device)
        answer(asdict(rehearsal.ready()))
        for line in sys.stdin:
            answer(rehearsal.rate(float(line)))


if __name__ == "__main__":
    main()
