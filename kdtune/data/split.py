"""Which training images are trained on, which are held out, and what labels both are given.

All of it is drawn from the dataset's seed, on the CPU: the same on every device, for a teacher and for its students.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdtune.data.error import DataError
from kdtune.randomness import Draw, draw

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset


def split(labels: Tensor, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The images to train on and those held out, as rising indices of all training images.

    `labels` are the clean ones, so that the images are the same whatever the labels become.
    """
    kept, held_out = dataset.sizes(len(labels))
    images = torch.arange(len(labels))
    if kept < len(labels):
        place, _ = _places(labels, draw(dataset.seed, "subset"))
        # every class's first, then every class's second ...; a smaller subset is part of a larger one
        images = place.argsort(stable=True)[:kept].sort().values
    if not held_out:
        return images, images[:0]
    place, size = _places(labels[images], draw(dataset.seed, "validation"))
    order = ((place + 0.5) / size).argsort(stable=True)
    return images[order[held_out:].sort().values], images[order[:held_out].sort().values]


Answers = Callable[[], Tensor]  # a teacher's classes of all training images, int64 [N]


def relabelled(
    labels: Tensor, clean: Tensor, dataset: Dataset, classes: int, answers: Answers | None = None
) -> list[Tensor]:
    """The labels of all training images as they came, then after each knob of `dataset.labels`, in written order.
    `clean` are the data set's own, which an attack that aims at classes has replaced by these.

    A draw is made for every image, whether it is used or not, so that neither `train_size` nor `validation` changes
    which images are wrongly labelled. Errors: DataError for labels that a knob is not for.
    """
    stages = [labels]
    for name, knob in dataset.label_knobs.items():
        try:
            knob.check(clean)
            knob.check_names(dataset.file_names)
            stages.append(knob(stages[-1], classes, draw(dataset.seed, f"labels.{name}"), answers))
        except ValueError as error:
            raise DataError(f"dataset.labels.{name} on {dataset.title}: {error}") from error
    return stages


def asked_for(clean: Tensor, given: Tensor, dataset: Dataset, answers: Answers | None) -> Tensor | None:
    """Which of all training images `dataset.only` leaves, bool [N]; None: all. `clean` are the data set's own labels,
    `given` those that there are to learn."""
    if dataset.only is None:
        return None
    if dataset.only == "clean":
        return given == clean
    if answers is None:
        raise DataError(f"dataset.only: {dataset.only} on {dataset.title}: there is no teacher to ask")
    right = answers() == clean
    return right if dataset.only == "correct" else ~right


def measured(stages: list[Tensor], dataset: Dataset) -> dict[str, float]:
    """The strength of each knob as seen in these labels, by path."""
    steps = zip(dataset.label_knobs.items(), pairwise(stages), strict=True)
    return {f"labels.{name}": knob.measure(before, after) for (name, knob), (before, after) in steps}


def _places(labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Each image's place in a random order of its class, and the size of that class, as float64 [N]."""
    order = draw.permutation(len(labels))
    order = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    first = sizes.cumsum(0) - sizes
    place = labels.new_empty(len(labels))
    place[order] = labels.new_tensor(range(len(labels))) - first[labels[order]]
    return place.double(), sizes[labels].double()
