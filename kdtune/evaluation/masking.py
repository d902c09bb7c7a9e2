"""Whether robustness is real: other attacks, ladders and checks on a few images of every run, and the flags they raise.

The checks are AutoAttack's (Croce & Hein 2020, checks.py) and those of Athalye et al. 2018 and Carlini et al. 2019.
`flags` says what raises a flag; a number beside a flag that is up may overstate robustness.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import (
    BATCH,
    GRADIENT,
    Evaluator,
    Measurement,
    checked,
    pack,
    percent,
    randomised,
)
from kdtune.evaluation.flags import MASKED, raised
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import LossName, balanced, withstanding
from kdtune.settings import Count, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject

REPEATS = 5  # forward passes that must agree
SLACK = 1e-5  # how far probabilities may be from a sum of 1; AutoAttack's bound
STEPS = (10, 20, 50, 100)  # the ladder of steps
NEIGHBOURS = 8  # whose gradients are averaged for a step of the smoothed attack
COMPARED = 20  # steps at which losses are compared and the teacher attacked; steps of the ladder of radii
RADII = (0.25, 0.5, 1.0, 2.0, 4.0)  # that ladder in units of eps, as far as below 1; the whole range of pixels ends it
RETRIES = 5  # further starts of the white box against an image that another attack brought down
STRIDE = 2.5  # its step is STRIDE * radius / COMPARED, so that the ball can be crossed (Madry et al. 2018, appendix)


class Masking(Evaluator):
    """`flags/<name>`, 0 or 1; `flags/raised`, how many of these are up; and under `masking/` what they were raised by.

    Those of a few test images, balanced by class, that are right when clean are attacked within `eps`, all attacks from
    the same random start. In percent of them stand: after 10, 20, 50, 100 steps of size `step` `masking/pgd<k>`; after
    20 on the other losses `masking/margin20` and `masking/scaled20`; after all of these `masking/white_box`; after 20
    on gradients averaged over neighbours `masking/smoothed`; after `masking/queries` of the Square Attack
    `masking/square`; on the teacher's adversarial examples `masking/transfer`, absent without a teacher; after every
    one of these `masking/worst`; where the radius is 1 `masking/floor`. The white box has RETRIES more starts for an
    image that smoothed, square or transfer breaks. `masking/zero_gradient` and `masking/zero_gradient_margin` have no
    gradient of the cross-entropy or the margin at the start. Counts: `masking/images` were attacked;
    `masking/smoothed_only`, `masking/square_only` and `masking/transfer_only` withstood the white box, but not this.
    `masking/clean`: percent that were right; where that is 0, no attack is judged. Of a network that answers at random
    there are flags alone; one without a gradient, because its front-end is detached, is attacked as if its gradient
    were 0.

    Arrays: packed bits [ceil(masking/images / 8)] under these names; `masking/places` in the test set, int64; the
    ladders `masking/ladder/eps`, `masking/ladder/steps` and, in percent, `masking/ladder/*/standing`.
    """

    eps: Annotated[Pixels, Field(gt=0)] = 0.031  # pixel units, images in [0, 1]: of the numbers that are to be believed
    step: Annotated[Pixels, Field(gt=0)] = 0.003  # pixel units
    images: Annotated[Count, Field(le=BATCH)] = 100
    queries: Count = 1000  # of the Square Attack, for an image; AutoAttack spends 5,000. Fewer miss masked networks

    version: ClassVar[int] = 2
    needs_pixels: ClassVar[bool] = True

    @property
    def radii(self) -> tuple[float, ...]:
        """The ladder of radii, in pixel units."""
        return (*(self.eps * share for share in RADII if self.eps * share < 1), 1.0)

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        attacks = [*(f"pgd{count}" for count in STEPS), f"margin{COMPARED}", f"scaled{COMPARED}", "white_box", "square"]
        attacks += ["smoothed", "transfer", "worst", "floor"]
        gradients = ("zero_gradient", "zero_gradient_margin")
        counts = ("smoothed_only", "square_only", "transfer_only")
        first = ("randomised", "softmax_output", "dynamic")  # the others need an image that is right when clean
        return (
            *(Metric(f"flags/{name}", "0 or 1", always=name in first) for name in MASKED),
            Metric("flags/raised", "flags"),
            Metric("masking/clean", better="higher"),
            Metric("masking/images", "images"),
            Metric("masking/queries", "queries"),
            *(Metric(f"masking/{name}", better="higher", always=False) for name in attacks),
            *(Metric(f"masking/{name}", always=False) for name in gradients),
            *(Metric(f"masking/{name}", "images", always=False) for name in counts),
        )

    def passes(self, test: int, validation: int) -> int:
        gradients = max(STEPS) + COMPARED * (3 + NEIGHBOURS + len(self.radii))
        return (GRADIENT * gradients + COMPARED + self.queries + REPEATS) * min(self.images, test)

    def measure(self, subject: Subject) -> Measurement:
        from kdtune.attacks.pgd import Detached, differentiable

        network, split, seed = subject.network, subject.split, subject.seed
        places = balanced(split.labels.cpu().numpy(), self.images, seed)
        images, labels = inputs(split.images[places]), split.labels[places]
        answers = repeated(network, images)
        if not differentiable(network, images[:1], labels[:1]):
            network = Detached(network)
        right = (answers[0].argmax(1) == labels).cpu().numpy()
        flags = {
            "randomised": randomised(answers),
            "softmax_output": probabilities(answers[0]),
            "dynamic": differentiates(network, images[:1]),
        }
        if flags["randomised"]:  # no number would be one of this network
            return self._told(flags, {}, {})
        metrics = {"masking/clean": percent(right), "masking/images": float(right.sum())}
        metrics["masking/queries"] = float(self.queries)
        arrays = {"masking/places": places[right]}
        if right.any():
            x, y = images[right], labels[right]
            found = self._attacked(network, x, y, seed, subject.teacher)
            radii = self._ladder(network, x, y, seed)
            found["floor"] = radii[-1]
            flags |= raised(found)
            metrics |= {f"masking/{name}": percent(bits) for name, bits in found.items()}
            metrics |= {
                f"masking/{name}_only": float((found["white_box"] & ~found[name]).sum())
                for name in ("smoothed", "square", "transfer")
                if name in found
            }
            arrays |= {f"masking/{name}": pack(bits) for name, bits in found.items()}
            arrays |= {
                "masking/ladder/eps": np.array(self.radii),
                "masking/ladder/eps/standing": 100 * radii.mean(1),
                "masking/ladder/steps": np.array(STEPS),
                "masking/ladder/steps/standing": np.array([percent(found[f"pgd{count}"]) for count in STEPS]),
            }
        return self._told(flags, metrics, arrays)

    def _told(self, flags: dict[str, bool], metrics: dict[str, float], arrays: dict[str, np.ndarray]) -> Measurement:
        told = {f"flags/{name}": float(up) for name, up in flags.items()}
        return Measurement(metrics | told | {"flags/raised": float(sum(flags.values()))}, arrays)

    def _attacked(
        self, network: nn.Module, images: Tensor, labels: Tensor, seed: int, teacher: nn.Module | None
    ) -> dict[str, np.ndarray]:
        """What `raised` asks for, but the floor: bool [N] by name."""
        import torch

        from kdtune.attacks.pgd import pgd, withstood
        from kdtune.attacks.smoothed import smoothed
        from kdtune.attacks.square import square
        from kdtune.randomness import draw

        def standing(
            x: Tensor, y: Tensor, begin: Tensor, steps: tuple[int, ...], loss: LossName
        ) -> dict[int, np.ndarray]:
            radii, strides = (x.new_full((len(x),), size) for size in (self.eps, self.step))
            return withstanding(network, x, y, begin, radii, strides, steps, loss)

        begin = [start(images, self.eps, seed, restart) for restart in range(1 + RETRIES)]
        every = images, labels, begin[0]
        found = {f"pgd{count}": bits for count, bits in standing(*every, STEPS, "cross_entropy").items()}
        found |= {f"{loss}{COMPARED}": standing(*every, (COMPARED,), loss)[COMPARED] for loss in ("margin", "scaled")}
        white_box = np.logical_and.reduce(list(found.values()))
        numbers = {name: draw(seed, f"evaluation.masking.{name}") for name in ("smoothed", "square")}
        changed = {
            "smoothed": smoothed(
                network, images, labels, begin[0], self.eps, COMPARED, NEIGHBOURS, numbers["smoothed"]
            ),
            "square": square(network, images, labels, self.eps, self.queries, numbers["square"]),
        }
        if teacher is not None:
            changed["transfer"] = pgd(teacher, images, labels, begin[0], self.eps, self.step, COMPARED)[COMPARED]
        found |= {name: withstood(network, {0: x}, labels)[0].cpu().numpy() for name, x in changed.items()}
        doubtful = white_box & ~np.logical_and.reduce([found[name] for name in changed])
        if RETRIES and doubtful.any():
            x, y = images[doubtful].repeat(RETRIES, 1, 1, 1), labels[doubtful].repeat(RETRIES)
            again = torch.cat([each[doubtful] for each in begin[1:]])
            kept = standing(x, y, again, (max(STEPS),), "cross_entropy")[max(STEPS)]
            white_box[doubtful] = kept.reshape(RETRIES, -1).all(0)
        found["white_box"] = white_box
        found["worst"] = np.logical_and.reduce([white_box, *(found[name] for name in changed)])
        found["zero_gradient"] = without_gradient(network, begin[0], labels, "cross_entropy")
        found["zero_gradient_margin"] = without_gradient(network, begin[0], labels, "margin")
        return found

    def _ladder(self, network: nn.Module, images: Tensor, labels: Tensor, seed: int) -> np.ndarray:
        """Which images withstand each of the radii: bool [radii, N]."""
        import torch

        count = len(self.radii)
        radii = images.new_tensor(self.radii).repeat_interleave(len(images))
        begin = torch.cat([start(images, radius, seed) for radius in self.radii])
        x, y = images.repeat(count, 1, 1, 1), labels.repeat(count)
        kept = withstanding(network, x, y, begin, radii, STRIDE / COMPARED * radii, (COMPARED,))[COMPARED]
        return kept.reshape(count, len(images))


def start(images: Tensor, radius: float, seed: int, restart: int = 0) -> Tensor:
    """Where attacks begin: uniform in the ball, the same direction for every radius and on every device."""
    import torch

    from kdtune.randomness import draw

    offset = draw(seed, f"evaluation.masking.start.{restart}").uniform(torch.empty(images.shape)) * 2 - 1
    return (images + radius * offset.to(images.device)).clamp(0, 1)


def repeated(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of REPEATS forward passes: [REPEATS, N, K]. Raises EvaluationError as `predict`, but not for noise."""
    import torch

    from kdtune.attacks.pgd import evaluating

    with evaluating(network), torch.no_grad():
        return torch.stack([checked(network(images), len(images)) for _ in range(REPEATS)])


def probabilities(logits: Tensor) -> bool:
    """Whether logits [N, K] are probabilities: within [0, 1], with a sum of 1."""
    inside = bool((logits > -SLACK).all() and (logits < 1 + SLACK).all())
    return inside and bool(((logits.sum(1) - 1).abs() < SLACK).all())


def differentiates(network: nn.Module, images: Tensor) -> bool:
    """Whether the forward pass computes gradients itself, as defences do that optimise their input first.

    Every gradient, asked for in whatever way, ends in a call of the autograd engine's `run_backward` in this thread.
    """
    import torch

    from kdtune.attacks.pgd import evaluating

    seen: list[str] = []

    def watch(frame: Any, event: str, called: Any) -> None:
        if event == "c_call" and getattr(called, "__name__", "") == "run_backward":
            seen.append(frame.f_code.co_filename)

    profiled: Any = sys.getprofile()
    with evaluating(network), torch.enable_grad():
        sys.setprofile(watch)
        try:
            network(images)
        finally:
            sys.setprofile(profiled if callable(profiled) else None)
            if hasattr(profiled, "enable"):  # cProfile's own, which only it can put back
                profiled.enable()
    return bool(seen)


def without_gradient(network: nn.Module, images: Tensor, labels: Tensor, loss: LossName) -> np.ndarray:
    """Which images have a gradient of the loss that is 0 in every pixel: bool [N]."""
    from kdtune.attacks.pgd import LOSSES, evaluating, gradient

    with evaluating(network):
        found = gradient(network, images, labels, LOSSES[loss])
    return (found == 0).flatten(1).all(1).cpu().numpy()
