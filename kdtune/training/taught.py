"""What a run is trained and measured on. Where its teacher has a say in that, the teacher comes before the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from kdtune.data import loading
from kdtune.data.loading import Data
from kdtune.evaluation.evaluator import predict
from kdtune.randomness import Draw, draw
from kdtune.run import Run
from kdtune.store.store import Store
from kdtune.training.given import given_answers
from kdtune.training.network import placed, starting_network
from kdtune.training.responses import refuse, stored_answers
from kdtune.training.teacher import Chosen


def data_of(
    run: Run, choose: Callable[[], Chosen], data_dir: Path, device: str, source: Callable[[], Chosen] | None = None
) -> Data:
    """The run's data, on its device; `choose` gives its teacher, for a run that is finished the one that it had. A
    network that is not trained gives the labels itself, where there are no others. `source` gives the network that
    images come from (`Dataset.robust`). Raises RuntimeError where there is none to ask, and what all of these raise.
    """
    seen_by = source()[0] if source is not None else None
    if run.dataset.robust is not None and seen_by is None:
        raise RuntimeError(f"{run.dataset.title} with robust takes its images from a source, and the run has none")
    load = partial(loading.load, run.dataset, data_dir, device, run.content, source=seen_by)
    if not run.dataset.asks:
        return load()
    teacher, _ = choose()
    if teacher is None and run.recipe is None:
        teacher = placed(starting_network(run, run.dataset.shape(), run.dataset.classes()), device)
    if teacher is None:
        raise RuntimeError(f"{run.dataset.title} asks a teacher what there is to train on, and the run has none")
    return load(answers_of(teacher, device), teacher)


def with_responses(
    run: Run, data: Data, chosen: Chosen, data_dir: Path, store: Store, pulse: Callable[[], None]
) -> Data:
    """The data with the stored answers of the teacher chosen beside its training images, where the run's loss looks
    them up."""
    if (given := answers_given(run, data)) is not None:
        return _beside(run, data, given)
    teacher, about = chosen
    if teacher is None or run.loss is None or run.recipe is None or not run.loss.stored:
        return data
    refuse(data.train, run.loss.key)
    known_as = f"{about['id']} {about['weights_sha256']}"
    return _beside(run, data, stored_answers(teacher, known_as, data.train, run.recipe, data_dir, store, pulse))


def _beside(run: Run, data: Data, answers: Tensor) -> Data:
    """`answers` [N, views, K] beside the training images, in other places where the run's loss shuffles them."""
    if run.loss is not None and run.loss.shuffled:
        stream = draw(run.dataset.seed, "responses.shuffle", 0)
        answers = answers[others_of_a_class(data.train.labels.cpu(), stream).to(answers.device)]
    return replace(data, train=replace(data.train, answers=answers))


def others_of_a_class(labels: Tensor, stream: Draw) -> Tensor:
    """For each image, int64 [N], another one of its class: all of a class in one circle, whose order is drawn.

    Raises ValueError for a class of one image, for which there is no other.
    """
    counts = labels.bincount()
    if (counts == 1).any():
        raise ValueError(f"shuffle: class {int((counts == 1).nonzero()[0])} has one training image, and no other")
    order = stream.permutation(len(labels))
    order = order[labels[order].argsort(stable=True)]  # class after class, in the order drawn
    ends = counts[counts > 0].cumsum(0)
    following = order.roll(-1)
    following[ends - 1] = order[ends - counts[counts > 0]]  # the last of a class is followed by its first
    return torch.empty_like(order).index_copy(0, order, following)


def answers_given(run: Run, data: Data) -> Tensor | None:
    """The answers of somebody else's teacher, where the run's loss has such. Raises DataError."""
    if run.loss is None or run.recipe is None or run.loss.given is None:
        return None
    refuse(data.train, run.loss.key)
    total, _ = run.dataset.counts()
    return given_answers(Path(run.loss.given.file), run.answers_digest, data, total, run.recipe)


def answers_of(teacher: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
    """How a teacher labels images [N, C, H, W], uint8 or float: classes, int64 [N] on the CPU."""
    return lambda images: predict(teacher, images.to(device)).argmax(1)
