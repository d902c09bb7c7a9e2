"""Whether a student's nodes have become its teacher's (Tian et al., arXiv 1909.13458; Yang et al., arXiv 2102.13170).

The numbers are those of papers C.2: correlations of penultimate activations over inputs, and, where both networks have
one hidden layer, the angle between the rows of the first layer within the subspace that inputs fill and off it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import BATCH, Evaluator, Measurement, NotFinite, percent, predict
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.subspace import Subspace, refuse, sides, space_of
from kdtune.settings import Positive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.attacks.space import Space, Within
    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Data
    from kdtune.evaluation.subject import Context, Subject

logger = logging.getLogger(__name__)

COVERED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # correlations above which a teacher's node counts as found
DRAWN = 20  # nodes of a teacher at most that have a curve each
ROUNDING = 1e-6  # a part of a row shorter than this share of the row is float32's rounding, and has no direction


class Specialization(Evaluator):
    """How well each node of the teacher's penultimate layer is matched by one of the student's: best_j = max over k of
    the Pearson correlation, over the images, of node j of the teacher with node k of the student. Nodes are the
    networks' `features`, after ReLU; those of convolutions are pooled over positions first. A constant node correlates
    0 with any.

    `specialization/best` is the mean over the teacher's nodes, `/strong` over the first half of them, rounded up (in
    `two-layer`'s teachers the strongest come first), `/coverage@0.5` to `@0.95` the percent of them with best_j above
    that. `/initial` is `best` of the student as its seed initialised it: what chance reaches; absent for a network from
    a file.

    `subspace: data` is the subspace that the data set fills, `{pca: K}` the span of the first K principal directions of
    the images measured on, their mean not taken off. Where it is known and not all there is, `/best@moved` is `best`
    over inputs + N(0, moved^2) off the subspace, which is not cut at a pixel's bounds. Where moreover both networks
    have exactly two linear layers, no convolution, and the first sees the inputs as they are, the nodes are its rows:
    `/cos_in` and `/cos_out` are the mean cosine of the teacher's row and the matched student's within the subspace and
    off it, `/cos_out_initial` that of the initial network's rows at the same places, and `/norm_out` the mean length of
    the matched rows' part off the subspace. Nodes without a match, as they or the best of the student's are constant,
    do not enter these.

    Absent, without a number, where a run has no teacher, or either network does not tell its features, as several
    teachers that answer as one. With `every`, histories also have best_j of a teacher of up to 20 nodes:
    `specialization/node01`, ...

    Arrays: by the teacher's nodes, float64 [nodes], `specialization/best`, `specialization/initial`,
    `specialization/best@moved`, `specialization/cos_in`, `specialization/cos_out`, `specialization/cos_out_initial` and
    `specialization/norm_out`, NaN without a match; `specialization/matched` int64 [nodes], the student's nodes, -1
    without a match.
    """

    subspace: Subspace | None = None  # null: nothing is said of one
    moved: Positive = 0.3  # standard deviation, in the inputs' units

    version: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        found = [
            ("best", "correlation", "higher"),
            ("strong", "correlation", "higher"),
            ("initial", "correlation", None),
        ]
        found += [(f"coverage@{above:g}", "%", "higher") for above in COVERED]
        if self.subspace is not None:
            found += [("best@moved", "correlation", "higher")]
            found += [
                ("cos_in", "cosine", "higher"),
                ("cos_out", "cosine", "higher"),
                ("cos_out_initial", "cosine", None),
            ]
            found += [("norm_out", "length", None)]
        if self.every is not None:
            found += [(f"node{node:02d}", "correlation", "higher") for node in range(1, DRAWN + 1)]
        return tuple(
            Metric(f"specialization/{name}", unit, better, headline=name == "best", always=False)  # type: ignore[arg-type]
            for name, unit, better in found
        )

    def preflight(self, data: Data, context: Context) -> None:
        super().preflight(data, context)
        if (split := data.validation if self.on == "val" else data.test) is not None:
            refuse(self.subspace, data, split, f"evaluation.{self.key}")

    def passes(self, test: int, validation: int) -> int:
        return (2 + 3 + (0 if self.subspace is None else 2)) * (validation if self.on == "val" else test)

    def measure(self, subject: Subject) -> Measurement:
        student, teacher, images = subject.network, subject.teacher, subject.split.images
        predict(student, images)  # what answers at random, or not with numbers, is told so
        if teacher is None:
            return Measurement()
        predict(teacher, images)
        if not (hasattr(student, "features") and hasattr(teacher, "features")):
            logger.warning("specialization: a network without `features`; of this run nothing is measured")
            return Measurement()
        space = space_of(self.subspace, subject.data, subject.split)
        initial = _initial(subject)
        ours, theirs = activations(student, images), activations(teacher, images)
        correlation = correlations(theirs, ours)
        best, matched = matches(correlation, ours)
        found = {"best": best}
        if initial is not None:
            found["initial"] = correlations(theirs, activations(initial, images)).max(1)
        if "complement" in sides(space):
            found["best@moved"] = self._moved(student, teacher, inputs(images), space, subject.seed)
        rows = [None if each is None else first_rows(each, images[:1]) for each in (teacher, student, initial)]
        found |= compared(rows, matched, space)
        metrics = {name: float(np.nanmean(each)) for name, each in found.items() if not np.isnan(each).all()}
        metrics["strong"] = float(best[: (len(best) + 1) // 2].mean())
        metrics |= {f"coverage@{above:g}": percent(best > above) for above in COVERED}
        if self.every is not None and len(best) <= DRAWN:
            metrics |= {f"node{node:02d}": float(each) for node, each in enumerate(best, 1)}
        return Measurement(
            {f"specialization/{name}": value for name, value in metrics.items()},
            {f"specialization/{name}": array for name, array in (found | {"matched": matched}).items()},
        )

    def _moved(self, student: nn.Module, teacher: nn.Module, images: Tensor, space: Space, seed: int) -> np.ndarray:
        """best_j, float64 [nodes], over inputs moved off the subspace."""
        import torch

        from kdtune.randomness import draw

        noise = draw(seed, "evaluation.specialization.moved").normal(torch.empty(images.shape))  # on every device alike
        shown = images + space.part(self.moved * noise.to(images.device), "complement")
        return correlations(activations(teacher, shown), activations(student, shown)).max(1)


def _initial(subject: Subject) -> nn.Module | None:
    """The network as its seed initialised it; None where it came from a file."""
    try:
        return subject.of("initial").network
    except ValueError:
        return None


def activations(network: Any, images: Tensor) -> np.ndarray:
    """`network.features` in eval mode, float64 [N, nodes], in batches of fixed size and order. images: [N, C, H, W] as
    a `Split` holds them. Raises NotFinite."""
    import torch

    from kdtune.attacks.pgd import evaluating

    with evaluating(network), torch.no_grad():
        found = torch.cat([network.features(inputs(batch)).cpu() for batch in images.split(BATCH)]).double().numpy()
    if not np.isfinite(found).all():
        raise NotFinite("features are not finite; has the run diverged?")
    return found


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each column of [N, J] with each of [N, K]: float64 [J, K]; 0 for a constant column."""
    unit = []
    for each in (one, other):
        centred = each - each.mean(0)
        length = np.linalg.norm(centred, axis=0)
        unit.append(centred / np.where(constant(each) | (length == 0), np.inf, length))
    return np.clip(unit[0].T @ unit[1], -1, 1)


def constant(nodes: np.ndarray) -> np.ndarray:
    """Which columns of [N, K] have one value: bool [K]. By the values: their mean is rounded."""
    return nodes.max(0) == nodes.min(0)


def matches(correlation: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """best_j, float64 [J], and the node that has it, int64 [J], -1 where it or the teacher's is constant.

    correlation: [J, K]; student: the activations [N, K].
    """
    place = correlation.argmax(1)
    lost = constant(student)[place] | ~correlation.any(1)  # a teacher's constant node: a row of zeros
    return correlation.max(1), np.where(lost, -1, place)


def first_rows(network: nn.Module, image: Tensor) -> Tensor | None:
    """The rows of the first layer, float64 [nodes, D] on the CPU, of a network with one hidden layer; None for others.

    That is one with exactly two linear layers and no convolution, whose first sees the image [1, C, H, W] as it is, and
    whose features are the nodes of this.
    """
    import torch
    from torch.nn.modules.conv import _ConvNd

    from kdtune.attacks.pgd import evaluating

    layers = [each for each in network.modules() if isinstance(each, torch.nn.Linear)]
    if len(layers) != 2 or any(isinstance(each, _ConvNd) for each in network.modules()):
        return None
    seen: list[Tensor] = []
    hook = layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1)))
    try:
        with evaluating(network), torch.no_grad():
            nodes = network.features(inputs(image))  # type: ignore[operator]
    finally:
        hook.remove()
    alike = len(seen) == 1 and torch.equal(seen[0], inputs(image).flatten(1))  # not, where it is standardised first
    if not alike or nodes.shape[1] != layers[0].out_features:
        return None
    return layers[0].weight.detach().cpu().double()


def compared(rows: list[Tensor | None], matched: np.ndarray, space: Space) -> dict[str, np.ndarray]:
    """The rows of the teacher, the student and the initial student, [J, D] and twice [K, D], float64, node by node:
    `cos_in`, `cos_out`, `cos_out_initial` and `norm_out`, float64 [J], NaN without a match."""
    teacher, student, initial = rows
    if teacher is None or student is None or space.subspace is None or not (matched >= 0).any():
        return {}
    space, places = replace(space, subspace=space.subspace.cpu().double()), matched[matched >= 0]
    theirs = teacher[matched >= 0]
    found = {"cos_in": cosines(theirs, student[places], space, "subspace")}
    if "complement" in sides(space):
        found["cos_out"] = cosines(theirs, student[places], space, "complement")
        found["norm_out"] = space.part(student[places], "complement").norm(dim=1).numpy()
        if initial is not None:
            found["cos_out_initial"] = cosines(theirs, initial[places], space, "complement")
    return {name: _spread(each, matched) for name, each in found.items()}


def cosines(one: Tensor, other: Tensor, space: Space, within: Within) -> np.ndarray:
    """The cosine of each row of [J, D] with its counterpart, of their parts within the subspace or off it: float64 [J];
    0 where one has no such part but rounding."""
    parts = [space.part(each, within) for each in (one, other)]
    lengths = [part.norm(dim=1) for part in parts]
    there = [length > ROUNDING * each.norm(dim=1) for length, each in zip(lengths, (one, other), strict=True)]
    divided = (parts[0] * parts[1]).sum(1) / (lengths[0] * lengths[1])
    return divided.where(there[0] & there[1], divided.new_zeros(())).clamp(-1, 1).numpy()


def _spread(values: np.ndarray, matched: np.ndarray) -> np.ndarray:
    whole = np.full(len(matched), np.nan)
    whole[matched >= 0] = values
    return whole
