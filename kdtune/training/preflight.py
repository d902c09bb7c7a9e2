"""What would fail, before a run starts: data that cannot be read, evaluators that lack something, weights that do not
fit, networks that cannot take a step. All of it at once, in seconds.

    problems = preflight(plan.runs, unfinished, untrained, plan.evaluation, data_dir)

Nothing is imitated: data are loaded, networks built and trained for a step by the code that does it later. A step is
taken with two images, or with one where the last batch of an epoch has one: what a layer asks of a batch, BatchNorm
foremost, it asks of its images' size, and of their number only whether there is more than one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from kdtune import extensions
from kdtune.data import loading, overlap
from kdtune.data.error import DataError
from kdtune.data.loading import Data, inputs
from kdtune.evaluation.evaluation import Evaluation
from kdtune.evaluation.evaluator import EvaluationError, predict
from kdtune.evaluation.subject import Context
from kdtune.losses.ce import CE
from kdtune.randomness import draw, seeded
from kdtune.run import Run
from kdtune.training import weights
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train_epoch
from kdtune.training.network import build_network, placed, starting_network
from kdtune.training.responses import refuse
from kdtune.training.taught import answers_given, others_of_a_class

log = logging.getLogger(__name__)

IMAGES = 2  # of a step
ANSWERS = 128  # images that a teacher from a file is shown


class Planned(Protocol):
    """A run with the name that people know it by."""

    @property
    def run(self) -> Run: ...
    @property
    def name(self) -> str: ...


def preflight(
    planned: Mapping[str, Planned],
    unfinished: Collection[str],
    untrained: Collection[str],
    evaluation: Evaluation,
    data_dir: Path,
) -> list[str]:
    """What would fail of the runs `unfinished`, a sentence each, in the order of the plan. What would only mislead is
    logged as a warning.

    `untrained` are those of them that are not only to be measured; `planned` also holds the teachers they learn from.
    """
    problems: list[str] = []
    told: set[str] = set()  # once, however many rates of wrong labels make further sets of the same images
    groups: dict[str, list[str]] = {}
    for id in unfinished:
        groups.setdefault(json.dumps(planned[id].run.content) or id, []).append(id)
    for ids in groups.values():
        run = planned[ids[0]].run
        try:
            data = loading.load(run.dataset, data_dir, "cpu", run.content)
        except DataError as error:
            problems.append(str(error))
            continue
        for sentence in overlap.told(data):
            if sentence not in told:
                log.warning("warning: %s", sentence)
            told.add(sentence)
        problems += unmeasurable(evaluation, data, Context(data_dir))
        problems += untrainable(planned, [id for id in ids if id in untrained], data)
    return list(dict.fromkeys(problems))


def unmeasurable(evaluation: Evaluation, data: Data, context: Context) -> list[str]:
    """What evaluators cannot measure on these data."""
    problems = []
    for evaluator in evaluation:
        try:
            evaluator.preflight(data, context)
        except (DataError, EvaluationError) as error:
            problems.append(str(error))
    return problems


def untrainable(planned: Mapping[str, Planned], ids: Iterable[str], data: Data) -> list[str]:
    """What goes wrong in one step of training, or in loading weights: each kind of run is tried once."""
    alike: dict[str, list[str]] = {}
    for id in ids:
        alike.setdefault(_kind(planned, id, data), []).append(id)
    reasons: dict[str, list[str]] = {}
    for same in alike.values():
        run = planned[same[0]].run
        teacher = planned[run.teacher.runs[0]].run if run.teacher else None
        source = planned[run.source.runs[0]].run if run.source else None
        if reason := _failure(run, teacher, data) or (_unlike(run, source, data) if source else None):
            reasons.setdefault(reason, []).extend(same)
    return [f"{planned[first].name}{_and(more)}: {reason}" for reason, (first, *more) in reasons.items()]


def step(run: Run, teacher: Run | None, data: Data, images: int) -> None:
    """Raises whatever the run would raise in its first step; of a teacher from a file, when it is loaded."""
    with seeded(run.seed or 0, "preflight"):
        network = placed(starting_network(run, data.shape, data.classes), "cpu")
        if run.recipe is None or run.seed is None:
            answering(network, data)
            return
        loss, teaching = run.loss or CE(), None
        if loss.calibration is not None:
            loss = loss.calibrated_to(alpha=0.5, temperature=1.0)  # factors: whatever will be read, no step fails by it
        if loss.stored:
            refuse(data.train, loss.key)
        if loss.shuffled:
            others_of_a_class(data.train.labels, draw(0, "preflight"))
        if teacher and loss.asks:
            teaching = build_network(teacher.model, teacher.normalization, 0, data.shape, data.classes)
        lesson = Lesson(data.classes, run.seed, run.noise, loss, teaching, run.recipe.precision, space=data.space)
        optimizer = run.recipe.optimizer.build(network.parameters())
        answers = answers_given(run, data)
        shown = replace(data.train, answers=answers)[torch.arange(images)]
        train_epoch(network, optimizer, replace(shown, repeat=1), run.recipe, lesson, run.seed, epoch=0)
        weights.load(network, weights.save(network))  # as at its end, hours later


def answering(network: nn.Module, data: Data) -> None:
    """Raises ValueError where a network from a file has no finite answer to some image, by its weights."""
    try:
        predict(network, data.train[torch.arange(min(ANSWERS, len(data.train)))].images)
    except EvaluationError as error:
        negative = [
            name for name, value in network.named_buffers() if name.endswith("running_var") and (value < 0).any()
        ]
        why = f"; negative variances in {', '.join(negative)}" if negative else ""
        raise ValueError(f"the teacher's weights give no answers ({str(error).partition(';')[0]}{why})") from error


def _failure(run: Run, teacher: Run | None, data: Data) -> str | None:
    """Why a step fails, None if it does not."""
    last = _last_batch(run, data)
    if (reason := _attempted(run, teacher, data, min(last, IMAGES))) is None:
        return None
    if run.recipe is None or last > 1 or len(data.train) == 1 or _attempted(run, teacher, data, IMAGES) is not None:
        return reason
    count, size = len(data.train), run.recipe.batch_size
    return (
        f"batches of {size} out of {count} images end with one of a single image ({reason}); "
        f"recipe.batch_size: {' or '.join(map(str, _sizes_that_do(count, size)))} would do"
    )


def _unlike(run: Run, source: Run, data: Data) -> str | None:
    """Why no images can be had from a source, None if they can: a step of the search for them is taken."""
    if run.dataset.robust is None:
        return None
    once = run.dataset.robust.model_copy(update={"steps": 1})
    try:
        with seeded(run.seed or 0, "preflight"):
            network = build_network(source.model, source.normalization, 0, data.shape, data.classes)
        once(inputs(data.train[torch.arange(min(IMAGES, len(data.train)))].images), network, 0, data.train.bounds)
    except Exception as error:  # a model of the user's own may raise anything
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return f"dataset.robust asks its source for features, which takes a model with features(images) ({told})"
    return None


def _and(more: list[str]) -> str:
    return f" and {len(more)} more" if more else ""


def _attempted(run: Run, teacher: Run | None, data: Data, images: int) -> str | None:
    try:
        step(run, teacher, data, images)
    except Exception as error:  # a model, a loss or a knob of the user's own may raise anything
        if isinstance(error, (ValueError, DataError)) and str(error):
            return str(error)  # our own words, in their lines: a file's names beside ours
        return f"{extensions.place_of(error)}{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _last_batch(run: Run, data: Data) -> int:
    """How many images the last batch of an epoch has; two at least where nobody knows (`Split.batches`)."""
    if run.dataset.only is not None:
        return IMAGES
    size = run.recipe.batch_size if run.recipe else IMAGES
    return len(data.train) % size or size


def _sizes_that_do(count: int, size: int) -> list[int]:
    """The nearest batch sizes, below and above, of which the last batch of `count` images has more than one."""
    fit = [each for each in range(2, count + 1) if count % each != 1]
    return [*[each for each in fit if each < size][-1:], *[each for each in fit if each > size][:1]]


def _kind(planned: Mapping[str, Planned], id: str, data: Data) -> str:
    """Equal for runs that one step says the same of."""
    run = planned[id].run
    teacher = planned[run.teacher.runs[0]].run if run.teacher else None
    source = planned[run.source.runs[0]].run if run.source else None
    which = min(_last_batch(run, data), IMAGES)
    networks = [_structure(each) if each else None for each in (run, teacher, source)]
    return json.dumps([*networks, data.shape, data.classes, which])


def _structure(run: Run) -> Any:
    """The description without what decides what comes out of a step, and not whether it can be taken: seeds, lengths
    and all rates, strengths and factors."""
    stated = {key: part for key, part in run.description.items() if key not in ("dataset", "seed", "teacher", "source")}
    if run.recipe is not None:
        stated["recipe"] = {key: stated["recipe"][key] for key in stated["recipe"] if key not in ("epochs", "schedule")}
    return json.loads(json.dumps(stated), parse_float=lambda number: None)
