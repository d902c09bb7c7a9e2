"""Whether attacks find adversarial examples that are sure to be there: planted in a copy of the network.

The active test of Zimmermann, Brendel, Tramer and Carlini 2022, "Increasing Confidence in Adversarial Robustness
Evaluations" (arXiv 2206.13991): an attack that misses such examples must not be believed where it finds none in the
network itself. `kdtune.attacks.planted` makes the copy. On the laptop's students 50 images take 0.8 s of a core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import BATCH, GRADIENT, Evaluator, Measurement, pack, percent, predict
from kdtune.evaluation.flags import missing
from kdtune.evaluation.masking import COMPARED, NEIGHBOURS, start
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import LossName, balanced, withstanding
from kdtune.settings import Count, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.attacks.planted import Plants
    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject

MISSED = CROSS_ENTROPY, MARGIN, SMOOTHED, SQUARE = "missed", "missed_margin", "missed_smoothed", "missed_square"


class Planted(Evaluator):
    """Shares of planted adversarial examples that attacks miss, and `flags/planted_missed`.

    A copy of the network has, in place of its classifier, a linear readout of two classes around each of a few test
    images, balanced by class: the image itself and `points` random ones of its ball, half of them corners, are of class
    0, one more corner is of class 1, and the copy is as sure of the image as the network in the median image, by the
    difference of its two largest logits. `planted/planted`: percent of the images for which that could be done, of
    which `planted/images` there are; where it could not, no corner can be told from the other points, or another image
    is too near. In percent of these, no class 1 was found by: `planted/missed`, PGD on the cross-entropy with these
    `step`, `steps` and `restarts`, judged at the last iterates; `planted/missed_margin`, the same on the margin;
    `planted/missed_smoothed` and `planted/missed_square`, as `masking` has these. `planted/chance` is the control:
    percent in which one of `points` new random ones is of class 1. Where it is near 100 the test was easy, and having
    passed says little. The flag is up where `planted/missed` is above 5 % and two images or more, whatever the other
    attacks find: numbers of that PGD are not to be believed, and what Square finds proves nothing else. It is not told
    where fewer than 20 images have an example and at most one was missed. Without any example only the first two
    numbers are there.

    Otherwise than in the paper: readouts are Fisher's discriminant with a ridge, in closed form (there: logistic
    regression), so that nothing is iterated; corners are planted, corners are half of class 0 and of the control
    (there: points of the surface, and of the inside), and class 1 begins near the planted one (there: about half way),
    for else a random search finds it in small images; up to 10 corners are tried for an image. Logits are as large as
    the network's own (there: an option), so that it shows where they are too large for the cross-entropy; what else
    lies behind the features is not tested, but for networks without `features`, whose logits are read. Scaled logits
    are left out: of two classes, PGD on them is PGD on the margin.

    Arrays: packed bits under the names of the shares [ceil(planted/images / 8)]; `planted/places`, those images' places
    in the test set, int64.
    """

    eps: Annotated[Pixels, Field(gt=0)] = 0.031  # pixel units, images in [0, 1]: of the numbers that are to be believed
    step: Annotated[Pixels, Field(gt=0)] = 0.003  # pixel units; this and the next two: of the PGD that is under test
    steps: Count = 20
    restarts: Count = 5
    images: Annotated[Count, Field(le=BATCH)] = 50
    points: Count = 500
    queries: Count = 1000  # of the Square Attack, for an image

    version: ClassVar[int] = 1
    needs_pixels: ClassVar[bool] = True

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        return (
            Metric("flags/planted_missed", "0 or 1", always=False),
            Metric("planted/planted", better="higher"),
            Metric("planted/images", "images"),
            Metric("planted/chance", always=False),
            *(Metric(f"planted/{name}", better="lower", always=False) for name in MISSED),
        )

    def passes(self, test: int, validation: int) -> int:
        gradients = 2 * self.steps * self.restarts + COMPARED * NEIGHBOURS
        return (GRADIENT * gradients + COMPARED + self.queries + 2 * self.points) * min(self.images, test)

    def measure(self, subject: Subject) -> Measurement:
        from kdtune.attacks.planted import plant
        from kdtune.randomness import draw

        network, split, seed = subject.network, subject.split, subject.seed
        places = balanced(split.labels.cpu().numpy(), self.images, seed)
        images = inputs(split.images[places])
        largest = predict(network, split.images[places]).topk(2, dim=1).values
        sure = float((largest[:, 0] - largest[:, 1]).quantile(0.5))
        found = None
        if sure > 0:  # where it is not sure of anything, no copy could be as sure as that
            found = plant(network, images, self.eps, self.points, sure, draw(seed, "evaluation.planted.points"))
        planted = found.planted.numpy() if found else np.zeros(len(images), dtype=bool)
        metrics = {"planted/planted": percent(planted), "planted/images": float(planted.sum())}
        if found is None:
            return Measurement(metrics)
        x = images[found.planted.to(images.device)]
        shares = {"chance": self._chance(found, x, seed)} | self._missed(found, x, seed)
        metrics |= {f"planted/{name}": percent(bits) for name, bits in shares.items()}
        if (up := missing(shares[CROSS_ENTROPY])) is not None:
            metrics["flags/planted_missed"] = float(up)
        arrays = {f"planted/{name}": pack(bits) for name, bits in shares.items()}
        return Measurement(metrics, arrays | {"planted/places": places[planted]})

    def _chance(self, plants: Plants, images: Tensor, seed: int) -> np.ndarray:
        """In which balls one of `points` random points is of class 1: bool [M]."""
        import torch

        from kdtune.attacks.pgd import evaluating
        from kdtune.attacks.planted import around
        from kdtune.randomness import draw

        numbers, found = draw(seed, "evaluation.planted.chance"), []
        with evaluating(plants.copy), torch.no_grad():
            for image in images:
                tried = around(image, self.eps, self.points, numbers)
                found.append(any(bool(plants.copy(part).argmax(1).any()) for part in tried.split(BATCH)))
        return np.array(found)

    def _missed(self, plants: Plants, images: Tensor, seed: int) -> dict[str, np.ndarray]:
        """Where each attack leaves class 0: bool [M] by name."""
        import torch

        from kdtune.attacks.pgd import Detached, differentiable, withstood
        from kdtune.attacks.smoothed import smoothed
        from kdtune.attacks.square import square
        from kdtune.randomness import draw

        zeros = torch.zeros(len(images), dtype=torch.long, device=images.device)
        attacked: nn.Module = plants.copy
        if not differentiable(attacked, images[:1], zeros[:1]):
            attacked = Detached(attacked)
        begin = [start(images, self.eps, seed, restart) for restart in range(self.restarts)]
        x, y = images.repeat(self.restarts, 1, 1, 1), zeros.repeat(self.restarts)
        radii, strides = (x.new_full((len(x),), size) for size in (self.eps, self.step))
        missed: dict[str, np.ndarray] = {}
        losses: dict[str, LossName] = {CROSS_ENTROPY: "cross_entropy", MARGIN: "margin"}
        for name, loss in losses.items():
            kept = withstanding(attacked, x, y, torch.cat(begin), radii, strides, (self.steps,), loss)[self.steps]
            missed[name] = np.logical_and.reduce(kept.reshape(self.restarts, -1))
        numbers = {name: draw(seed, f"evaluation.planted.{name}") for name in (SMOOTHED, SQUARE)}
        iterates = {
            SMOOTHED: smoothed(attacked, images, zeros, begin[0], self.eps, COMPARED, NEIGHBOURS, numbers[SMOOTHED]),
            SQUARE: square(attacked, images, zeros, self.eps, self.queries, numbers[SQUARE]),
        }
        return missed | {name: withstood(attacked, {0: x}, zeros)[0].cpu().numpy() for name, x in iterates.items()}
