"""The subspace of its inputs that an evaluator looks within and off: the data set's own, or principal directions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

from kdtune.attacks.space import Space, Within
from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import BATCH, EvaluationError
from kdtune.settings import Count, Settings, word_or

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.data.loading import Data, Split

SAMPLE = 10_000  # images at most: 3 x 32 x 32 take 17 s on one core of an AMD EPYC, 28 x 28 one second
KEPT = 4  # subspaces that a process keeps


class Principal(Settings):
    """The span of the `pca` directions in which the images that are measured on have the largest mean square; training
    images may have been moved, and by another network in every arm of a sweep. The mean is not taken off first: the
    subspace goes through the origin, as the span of the images does, and only in that does plain gradient descent move
    a first layer's rows.
    """

    pca: Count


Subspace = Annotated[Literal["data"] | Principal, word_or(Principal, ("data",), "data or {pca: 50}")]


def refuse(subspace: Subspace | None, data: Data, split: Split, where: str) -> None:
    """EvaluationError where these data, measured on this part of them, have no such subspace."""
    if subspace == "data" and data.subspace is None:
        told = f"of {data.title} no subspace is known; {{pca: 50}} takes one from its images"
        raise EvaluationError(f"{where}: subspace: data, but {told}")
    most = min(len(split), split.images[0].numel())
    if isinstance(subspace, Principal) and subspace.pca > most:
        told = f"those of {data.title} that are measured on span at most {most} directions"
        raise EvaluationError(f"{where}: subspace: {{pca: {subspace.pca}}}, but {told}")


def space_of(subspace: Subspace | None, data: Data, split: Split) -> Space:
    """Where inputs lie, float32 on their device; without a subspace where none is asked for. EvaluationError as
    `refuse`."""
    refuse(subspace, data, split, "evaluation")
    if not isinstance(subspace, Principal):
        found = data.subspace if subspace == "data" else None
    else:
        found = _directions(_sample(split.images), subspace.pca)
    return Space(data.train.bounds, None if found is None else found.to(data.train.images.device))


def sides(space: Space) -> tuple[Within, ...]:
    """Within the subspace and off it, where it is known; only within one that is the whole space."""
    if space.subspace is None:
        return ()
    dimension, rank = space.subspace.shape
    return ("subspace", "complement") if rank < dimension else ("subspace",)


@dataclass(frozen=True)
class _Images:
    """Images [N, C, H, W] on the CPU, as a key by their content."""

    digest: str
    images: Tensor = field(compare=False)


def _sample(images: Tensor) -> _Images:
    from kdtune.randomness import draw

    if len(images) > SAMPLE:
        chosen = draw(0, "evaluation.subspace").permutation(len(images))[:SAMPLE].sort().values
        images = images[chosen.to(images.device)]
    images = images.cpu()
    content = hashlib.sha256(f"{images.dtype} {list(images.shape)}".encode())
    content.update(images.numpy().tobytes())
    return _Images(content.hexdigest(), images)


@lru_cache(maxsize=KEPT)
def _directions(of: _Images, count: int) -> Tensor:
    """Orthonormal columns, float32 [D, count], the largest mean square first; found in float64."""
    import torch

    size = of.images[0].numel()
    moments = torch.zeros(size, size, dtype=torch.float64)
    for batch in of.images.split(BATCH):
        rows = inputs(batch).flatten(1).double()
        moments += rows.T @ rows
    directions = torch.linalg.eigh(moments / len(of.images)).eigenvectors  # ascending
    return directions[:, -count:].flip(1).float()
