"""How much of a teacher's adversarially trained answers to believe, and how soft: by images held out.

Labels are of images as they were taken; on the example that an attack made of one, the truth is softer. What a teacher
says there, softened at T and with the weight rho beside the label, comes nearest to it where held-out labels are most
likely. The last epoch's network, which has overfitted its labels, stands in for the inherited label: on held-out images
a one-hot label would be the truth itself (Dong, Liu & Shang 2022, arXiv 2110.03135; papers D.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import BATCH, GRADIENT, Evaluator, Measurement, predict
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import balanced, sloping
from kdtune.settings import Count, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Split
    from kdtune.evaluation.subject import Subject

TEMPERATURES = np.geomspace(0.2, 16, 100)  # as the authors' code has them
WEIGHTS = np.linspace(0.01, 1, 100)  # of the teacher, beside the label's
LEAST = 0.9  # of the training examples must keep their label as the largest share
ROUNDING = 1e-9  # nats: what is nearer is equal


class Calibration(Evaluator):
    """The temperature T and the weight rho that make a student's targets of this network's answers (Dong, Liu & Shang
    2022, KD-AT-Auto). z and z_last are logits of this network and of the same run's last epoch, each on the examples
    that PGD (l-infinity, one random start, the same for both) finds against itself: of all images held out, with their
    labels as the run has them, corrupted ones too.

    Of 100 temperatures in [0.2, 16] and 100 weights in [0.01, 1] it takes the pair with the least mean of
    - log(rho softmax(z / T) + (1 - rho) softmax(z_last / T)) at the label, among those where rho softmax(z / T) +
    (1 - rho) onehot(label) is largest at the label on at least 90 % of the training images' examples. Weights below 0.5
    always fulfil that. Of equals, as where the last epoch is the one kept, the largest weight, then the lowest
    temperature.

    `val/calibration/temperature`, `val/calibration/weight`, `val/calibration/nll` (nats, on the images held out) and
    `val/calibration/accuracy` (percent of the training images' examples that keep their label) are those of this pair.
    Absent where a run has kept no weights of its last epoch. `fitted_on: test` is the authors' script: test images take
    the place of those held out, `test/calibration/*`; only the paper profile may train students by it.

    Arrays: `val/calibration/nll` float64 [temperatures, weights] and `val/calibration/allowed` bool likewise;
    `val/calibration/temperatures` and `val/calibration/weights` float64 [100] say of what.
    """

    eps: Annotated[Pixels, Field(gt=0)] = 0.031  # pixel units, images in [0, 1]
    step: Annotated[Pixels, Field(gt=0)] = 0.0078  # pixel units
    steps: Count = 10
    images: Count = 2000  # at most so many training images, drawn once, balanced by class; held-out ones: all
    fitted_on: Literal["test"] | None = None  # None: the images held out

    version: ClassVar[int] = 1
    also_held_out: ClassVar[bool] = False  # it is of these by itself
    needs_last: ClassVar[bool] = True

    @property
    def looks_at_held_out(self) -> bool:
        return self.fitted_on is None

    @property
    def part(self) -> str:
        return self.fitted_on or "val"

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        return (
            Metric(f"{self.part}/calibration/temperature", "temperature", always=False),
            Metric(f"{self.part}/calibration/weight", "share", always=False),
            Metric(f"{self.part}/calibration/nll", "nats", "lower", always=False),
            Metric(f"{self.part}/calibration/accuracy", better="higher", always=False),
        )

    def passes(self, test: int, validation: int) -> int:
        fitted = test if self.fitted_on else validation
        return (GRADIENT * self.steps + 1) * (2 * fitted + self.images)

    def measure(self, subject: Subject) -> Measurement:
        import torch

        try:
            last = subject.of("last").network
        except ValueError:  # it has kept none
            return Measurement()
        kept, fitted, train = subject.network, subject.on(self.part).split, subject.data.train
        predict(kept, fitted.images)  # a network that answers at random is told so before it is attacked
        slope = sloping(kept, inputs(fitted.images[:BATCH]), fitted.labels[:BATCH])
        chosen = train[torch.from_numpy(balanced(train.labels.cpu().numpy(), self.images, subject.seed))]
        best, overfitted = self._attacked((kept, last), fitted, subject.seed, "fitted")
        (taught,) = self._attacked((kept,), chosen, subject.seed, "train")
        nll = likelihoods(best, overfitted, fitted.labels.cpu())
        accuracy = accuracies(taught, chosen.labels.cpu())
        row, column = least(nll, accuracy >= LEAST)
        found = {"temperature": TEMPERATURES[row], "weight": WEIGHTS[column]}
        found |= {"nll": nll[row, column], "accuracy": 100 * accuracy[row, column]}
        arrays = {"nll": nll, "allowed": accuracy >= LEAST, "temperatures": TEMPERATURES, "weights": WEIGHTS}
        return Measurement(
            {f"{self.part}/calibration/{name}": float(value) for name, value in found.items()}
            | ({} if slope else {"flags/zero_gradient": 1.0}),
            {f"{self.part}/calibration/{name}": array for name, array in arrays.items()},
        )

    def _attacked(self, networks: tuple[nn.Module, ...], split: Split, seed: int, stream: str) -> list[Tensor]:
        """Logits [N, K] of each network on its own examples, on the CPU."""
        import torch

        from kdtune.attacks.pgd import pgd
        from kdtune.randomness import draw

        images = inputs(split.images)  # starts are drawn on the CPU: the same on every device
        offsets = draw(seed, f"evaluation.calibration.{stream}").uniform(torch.empty(images.shape)) * 2 - 1
        begin = images + self.eps * offsets.to(images.device)
        examples: list[list[Tensor]] = [[] for _ in networks]
        for x, y, start in zip(*(each.split(BATCH) for each in (images, split.labels, begin)), strict=True):
            for network, found in zip(networks, examples, strict=True):
                found += pgd(network, x, y, start, self.eps, self.step, self.steps, bounds=split.bounds).values()
        return [predict(network, torch.cat(found)) for network, found in zip(networks, examples, strict=True)]


def likelihoods(best: Tensor, last: Tensor, labels: Tensor) -> np.ndarray:
    """Mean of - log(rho softmax(best / T) + (1 - rho) softmax(last / T)) at the labels, in nats: float64
    [temperatures, weights]. best, last: logits [N, K]; labels: int64 [N]; all on the CPU."""
    import torch

    weights = torch.from_numpy(WEIGHTS)[:, None]
    rows = []
    for temperature in TEMPERATURES:
        of_best, of_last = (
            (logits.double() / temperature).log_softmax(1).gather(1, labels[:, None])[:, 0] for logits in (best, last)
        )
        mixed = torch.logaddexp(weights.log() + of_best, (1 - weights).log() + of_last)  # [weights, N]
        rows.append(-mixed.mean(1))
    return torch.stack(rows).numpy()


def accuracies(logits: Tensor, labels: Tensor) -> np.ndarray:
    """The share of images where rho softmax(logits / T) + (1 - rho) onehot(label) is largest at the label, and there
    alone: [temperatures, weights].

    That is where the largest wrong probability exceeds the label's by less than (1 - rho) / rho.
    """
    import torch

    from kdtune.attacks.pgd import wrong

    bound = torch.from_numpy((1 - WEIGHTS) / WEIGHTS)[:, None]
    rows = []
    for temperature in TEMPERATURES:
        softened = (logits.double() / temperature).softmax(1)
        excess = wrong(softened, labels) - softened.gather(1, labels[:, None])[:, 0]
        rows.append((excess < bound).double().mean(1))
    return torch.stack(rows).numpy()


def least(nll: np.ndarray, allowed: np.ndarray) -> tuple[int, int]:
    """Row and column of the least NLL among the allowed cells, of which there must be one; of those that rounding alone
    tells apart the last column, then the first row."""
    among = np.where(allowed, nll, np.inf)
    near = among <= among.min() + ROUNDING
    column = int(np.flatnonzero(near.any(0))[-1])
    return int(near[:, column].argmax()), column
