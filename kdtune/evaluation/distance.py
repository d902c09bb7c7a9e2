"""How far the nearest image lies that a network answers otherwise: what ranks networks where PGD is at its floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import BATCH, GRADIENT, Evaluator, Measurement, correct, pack, percent, predict
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import balanced, sloping
from kdtune.settings import Count, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject

WHOLE = 1.0  # pixel units: as far as any image in [0, 1] is from another
MOVING_BACK = 20  # forward passes that a search does not count: the way back, and the last look


class Distance(Evaluator):
    """The smallest l-infinity perturbation found that changes the answer, by the Fast Minimum-Norm attack (Pintor et
    al. 2021, arXiv 2102.12827), an upper bound of the true distance; every image it reports was answered otherwise.

    `distance/median` (pixel units, images in [0, 1]) is over the images right when clean, as is `distance/beyond`, the
    percent whose distance exceeds `eps`: to be held against what withstands PGD there. `/unconditional` is over all
    images: what is wrong when clean has a distance of 0. `distance/unbroken`: percent of those right when clean for
    which nothing was found at all; they count with a distance of 1, the whole range, and as beyond. Such a network is
    constant, or hides its gradient, which `masking` looks into. `distance/clean` is the accuracy on the same images.
    Where none is right when clean, conditional metrics are absent.

    Measured on one core of an AMD EPYC, 100 digits, the student of sweeps/fickle.yaml at laptop scale: 0.40 s, with one
    restart 0.11 s; `pgd` as it stands there (two eps, 20 steps, three restarts) 0.18 s.

    Arrays: `distance/linf`, float32 [N], the distances; `distance/images`, the images' places among those measured on,
    int64 [N]; packed bits [ceil(N / 8)]: `distance/clean`, and `distance/unbroken` among all N.
    """

    # Measured on five networks: four searches of 10 steps break all images, of 3 as few as 29 %.
    steps: Annotated[Count, Field(ge=10)] = 50  # gradients of one search; with fewer than 10 some images never break
    restarts: Count = 4  # searches: the first for any class, each further one for the next likely wrong class
    images: Count | None = None  # at most so many images, drawn once, balanced by class; None: all of them
    eps: Annotated[Pixels, Field(gt=0)] = 0.031  # pixel units: the radius of `distance/beyond`

    version: ClassVar[int] = 1
    conditional: ClassVar[bool] = True
    needs_pixels: ClassVar[bool] = True

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        return (
            Metric("distance/clean", better="higher"),
            Metric("distance/median", "pixel units", "higher", headline=True, always=False),
            Metric("distance/median/unconditional", "pixel units", "higher", headline=True),
            Metric("distance/beyond", better="higher", always=False),
            Metric("distance/beyond/unconditional", better="higher"),
            Metric("distance/unbroken", always=False),
            Metric("flags/zero_gradient", "0 or 1", always=False),
        )

    def passes(self, test: int, validation: int) -> int:
        each = GRADIENT * self.steps * self.restarts + MOVING_BACK
        return each * min(self.images or test, test) + test + validation

    def measure(self, subject: Subject) -> Measurement:
        network, split, seed = subject.network, subject.split, subject.seed
        places = balanced(split.labels.cpu().numpy(), self.images, seed)
        chosen, labels = split.images[places], split.labels[places]
        images = inputs(chosen)
        clean = correct(predict(network, chosen), labels)
        slope = sloping(network, images[:BATCH], labels[:BATCH])
        distances, unbroken = np.zeros(len(places), np.float32), np.zeros(len(places), bool)
        distances[clean], unbroken[clean] = self._searched(network, images[clean], labels[clean])
        beyond = unbroken | (distances > self.eps)
        metrics = {
            "distance/clean": percent(clean),
            "distance/median/unconditional": float(np.median(distances)),
            "distance/beyond/unconditional": percent(beyond),
        }
        if clean.any():
            metrics["distance/median"] = float(np.median(distances[clean]))
            metrics["distance/beyond"] = percent(beyond[clean])
            metrics["distance/unbroken"] = percent(unbroken[clean])
        arrays = {"distance/linf": distances, "distance/images": places}
        arrays |= {"distance/clean": pack(clean), "distance/unbroken": pack(unbroken)}
        return Measurement(metrics | ({} if slope else {"flags/zero_gradient": 1.0}), arrays)

    def _searched(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Distances, float32 [N], and which images nothing was found for, bool [N], batch by batch. What was found is
        asked about once more: it counts as nothing if the answer is the right one then."""
        from kdtune.attacks.fmn import distance, nearest
        from kdtune.attacks.pgd import withstood

        found, sizes = [np.zeros(0, bool)], [np.zeros(0, np.float32)]
        for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            if len(x):
                reached, there = nearest(network, x, y, self.steps, self.restarts)
                there = there & ~withstood(network, {self.steps: reached}, y)[self.steps]
                sizes.append(distance(x, reached).where(there, x.new_tensor(WHOLE)).cpu().numpy())
                found.append(there.cpu().numpy())
        return np.concatenate(sizes), ~np.concatenate(found)
