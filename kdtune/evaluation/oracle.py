"""Whether a student answers perturbed inputs as its teacher does, where the teacher is an oracle that is asked there,
too (Yang et al., arXiv 2102.13170; papers C.2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import BATCH, GRADIENT, Evaluator, Measurement, pack, percent, predict
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import sloping
from kdtune.evaluation.subspace import Subspace, refuse, sides, space_of
from kdtune.settings import Count, Positive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.attacks.pgd import Bounds, Confine, Norm
    from kdtune.attacks.space import Space
    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Data
    from kdtune.evaluation.subject import Context, Subject

    Networks = tuple[nn.Module, nn.Module]  # student, teacher

FARTHEST = 2.5  # all steps together, in radii: from a start at one side the other side is reached (Madry et al. 2018)
CLIMBED = 3  # losses
NAMES = {"subspace": "in", "complement": "out"}


class Place(NamedTuple):
    """Where perturbations may lie: the whole ball, or its part within the subspace or off it."""

    name: str  # "", "in" or "out"
    dimension: int
    bounds: Bounds
    confine: Confine | None

    @property
    def suffix(self) -> str:
        return f"@{self.name}" if self.name else ""


class Oracle(Evaluator):
    """Agreement of student and teacher under attack, the answer being the teacher's *at* the perturbed input.

    PGD from one random start, uniform in the ball, climbs each of three losses in s, the student's logits, and t, the
    teacher's, both at x + delta: 1/2 |s - t|^2, KL(softmax t || softmax s), and the student's cross-entropy of the
    teacher's class at x; the gradient goes through both networks. Where these end, and at x itself, both are asked.

    `oracle/pgd20` (the number is `steps`): percent of the inputs at all of whose candidates both give the same class,
    there. `oracle/pgd20/label`: at all of which the student gives the teacher's class at x. `oracle/clean` is the share
    at x alone. `subspace: data` is the subspace that the data set fills, `{pca: K}` the span of the first K
    principal directions of the images measured on, their mean not taken off. With it, in l2, perturbations are sought
    within it, `oracle/pgd20@in`, and off it, `@out`, likewise with `/label`. Where inputs have no bounds the ball's
    numbers are the worst over these candidates, too: an attack that is free misses some of them. Where they have
    bounds, `@in` and `@out` go beyond these, as what is cut there would leave the subspace, and are no part of the
    ball's numbers.

    `oracle/mismatch`: percent of the inputs whose class is another one, by the teacher, where the student's
    cross-entropy of the old one is led to in the ball: how often a label that is kept is wrong there (papers D.3).

    `oracle/gap`, `/gap_in` and `/gap_out`: mean Euclidean distance of the logits, s and t, at x + delta, delta random
    and of length eps (in the ball cut at the bounds).

    Absent where a run has no teacher. `flags/zero_gradient` where one of the two does not move with its input, or
    autograd does not see how it does. The data's labels do not enter.

    Arrays: packed bits [ceil(N / 8)] under the names of all rates; `oracle/images`, the inputs' places among those
    measured on, int64 [N].
    """

    norm: Literal["l2", "linf"] = "l2"
    eps: Positive = 1.0  # the ball's radius, in the norm and in the inputs' units
    step: Positive | None = None  # likewise; null: 2.5 eps / steps
    steps: Count = 20
    subspace: Subspace | None = None  # null: the ball alone
    images: Count | None = 2000  # at most so many inputs, drawn once; null: all

    version: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = True

    @model_validator(mode="after")
    def _stays_within(self) -> Self:
        if self.subspace is not None and self.norm != "l2":
            raise ValueError(f"subspace: a ball in {self.norm} is not cut by a subspace in a ball again; norm: l2 does")
        return self

    @property
    def length(self) -> float:
        """Of a step."""
        return FARTHEST * self.eps / self.steps if self.step is None else self.step

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        head = f"oracle/pgd{self.steps}"
        found = [Metric("oracle/clean", better="higher", always=False), Metric("oracle/mismatch", always=False)]
        for name in ("", *(NAMES.values() if self.subspace is not None else ())):
            rate = f"{head}@{name}" if name else head
            found.append(Metric(rate, better="higher", headline=not name, always=False))
            found.append(Metric(f"{rate}/label", better="higher", always=False))
            found.append(Metric(f"oracle/gap_{name}" if name else "oracle/gap", "logits", "lower", always=False))
        return (*found, Metric("flags/zero_gradient", "0 or 1", always=False))

    def preflight(self, data: Data, context: Context) -> None:
        super().preflight(data, context)
        if (split := data.validation if self.on == "val" else data.test) is not None:
            refuse(self.subspace, data, split, f"evaluation.{self.key}")

    def passes(self, test: int, validation: int) -> int:
        places, asked = 1 if self.subspace is None else 3, validation if self.on == "val" else test
        once = CLIMBED * (GRADIENT * self.steps + 1) + 1  # of one network: attacks, where they end, the random delta
        return 2 * (places * once + 1) * min(self.images or asked, asked)

    def measure(self, subject: Subject) -> Measurement:
        import torch

        split = subject.split
        chosen = drawn(len(split), self.images, subject.seed)
        images = split.images[torch.from_numpy(chosen).to(split.images.device)]
        answers = predict(subject.network, images).argmax(1)  # what answers at random, or not with numbers, is told so
        if (teacher := subject.teacher) is None:
            return Measurement()
        pair, x, labels = (subject.network, teacher), inputs(images), predict(teacher, images).argmax(1)
        slopes = [sloping(each, x[:BATCH], labels[:BATCH].to(x.device)) for each in pair]
        clean = np.asarray(answers == labels)
        metrics = {} if all(slopes) else {"flags/zero_gradient": 1.0}
        kept: dict[str, np.ndarray] = {}
        for place in places(x, space_of(self.subspace, subject.data, subject.split), split.bounds):
            away = directions(x, place, self.norm, subject.seed)
            kept[place.name], still = self._attacked(pair, x, labels, place, away, subject.seed)
            kept[place.name] &= clean
            if not place.name:
                metrics["oracle/mismatch"] = percent(~still)
            metrics[f"oracle/gap_{place.name}" if place.name else "oracle/gap"] = self._gap(pair, x, place, away)
        if split.bounds is None:
            kept[""] = np.logical_and.reduce([*kept.values()])
        bits = {"oracle/clean": clean}
        for name, (agreed, labelled) in kept.items():
            rate = f"oracle/pgd{self.steps}@{name}" if name else f"oracle/pgd{self.steps}"
            bits |= {rate: agreed, f"{rate}/label": labelled}
        metrics |= {name: percent(each) for name, each in bits.items()}
        return Measurement(metrics, {name: pack(each) for name, each in bits.items()} | {"oracle/images": chosen})

    def _attacked(
        self, pair: Networks, x: Tensor, labels: Tensor, place: Place, away: Tensor, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether both agree wherever attacks at this place end, and whether the student gives the labels there: bool
        [2, N]; and whether the teacher gives them where the student is misled, bool [N]. x: float32 [N, C, H, W];
        labels: int64 [N] on the CPU; away: directions of the start."""
        import torch

        from kdtune.attacks.pair import PARTING, Pair, misled
        from kdtune.attacks.pgd import pgd
        from kdtune.randomness import draw

        share = draw(seed, f"evaluation.oracle.radius{place.suffix}").uniform(torch.empty(len(x), 1, 1, 1))
        start = x + self.eps * (share ** (1 / place.dimension)).to(x.device) * away  # uniform in the ball
        attack = partial(pgd, Pair(*pair), eps=self.eps, step=self.length, steps=self.steps, norm=self.norm)
        attack = partial(attack, bounds=place.bounds, confine=place.confine)
        kept = np.ones((2, len(x)), dtype=bool)
        for loss in PARTING:
            batches = zip(*(each.split(BATCH) for each in (x, labels.to(x.device), start)), strict=True)
            found = [attack(*batch, loss=loss)[self.steps] for batch in batches]
            student, teacher = (predict(each, torch.cat(found)).argmax(1) for each in pair)
            kept &= np.stack([student == teacher, student == labels])
            if loss is misled:
                still = np.asarray(teacher == labels)
        return kept, still

    def _gap(self, pair: Networks, x: Tensor, place: Place, away: Tensor) -> float:
        """The mean distance of the logits where a random step of length eps leads."""
        shown = x + self.eps * away
        shown = shown if place.bounds is None else shown.clamp(*place.bounds)
        student, teacher = (predict(each, shown).double() for each in pair)
        return float((student - teacher).norm(dim=1).mean())


def drawn(count: int, most: int | None, seed: int) -> np.ndarray:
    """Places of at most so many of `count` inputs, ascending: int64. Of one fixed random order, so that fewer lie among
    more."""
    from kdtune.randomness import draw

    return np.sort(draw(seed, "evaluation.oracle.images").permutation(count).numpy()[:most])


def places(images: Tensor, space: Space, bounds: Bounds) -> Iterator[Place]:
    """The ball, and where a subspace is known its part within that and, where that is not all there is, off it."""
    size = images[0].numel()
    yield Place("", size, bounds, None)
    for within in sides(space):
        rank = space.subspace.shape[1]  # type: ignore[union-attr]
        dimension = rank if within == "subspace" else size - rank
        yield Place(NAMES[within], dimension, None, partial(space.part, within=within))


def directions(images: Tensor, place: Place, norm: Norm, seed: int) -> Tensor:
    """A random way for each image, of length 1 in the norm: those to a uniform point of the ball. [N, C, H, W]"""
    import torch

    from kdtune.attacks.pgd import length
    from kdtune.randomness import draw

    stream, blank = draw(seed, f"evaluation.oracle.start{place.suffix}"), torch.empty(images.shape)
    if norm == "linf":  # drawn on the CPU: the same on every device
        way = (2 * stream.uniform(blank) - 1).to(images.device)
        return way / way.abs().amax((1, 2, 3), keepdim=True)
    way = stream.normal(blank).to(images.device)
    way = way if place.confine is None else place.confine(way)
    return way / length(way)
