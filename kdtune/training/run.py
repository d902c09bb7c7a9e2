"""One run from start to end, without Ray: the table of contents of what happens to a network."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from kdtune import sources
from kdtune.data import overlap
from kdtune.data.loading import Data
from kdtune.evaluation.evaluation import Evaluation
from kdtune.evaluation.evaluator import NotFinite
from kdtune.evaluation.subject import Subject
from kdtune.extensions import texts_of
from kdtune.recipe import Recipe
from kdtune.run import Run
from kdtune.store.encoding import digest
from kdtune.store.evaluations import Evaluations
from kdtune.store.layout import BESIDE
from kdtune.store.objects import StorageError, is_gone
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Attempt, DamagedError, Store
from kdtune.training import weights
from kdtune.training.backends import torch_for
from kdtune.training.captured import Capture
from kdtune.training.context import RunContext
from kdtune.training.epochend import EpochEnd, finite
from kdtune.training.lesson import Lesson
from kdtune.training.loop import Diverged, Stopped, TrainingState, best_epoch, train
from kdtune.training.network import load_finished, placed, starting_network
from kdtune.training.provenance import code, provenance
from kdtune.training.pulse import heard
from kdtune.training.step import Row
from kdtune.training.taught import data_of, with_responses
from kdtune.training.teacher import Chosen, choose_source, choose_teacher, loss_of, taught_by, teacher_had, teacher_of


@dataclass(frozen=True)
class Outcome:
    """How a run stands in the store after `perform`, and its own exception where it had one."""

    state: State
    error: Exception | None = None

    @property
    def traceback(self) -> str:
        return "".join(traceback.format_exception(self.error)) if self.error else ""


def perform(run: Run, evaluation: Evaluation, context: RunContext) -> Outcome:
    """Trains what is not trained and evaluates what is missing.

    A run that another process has claimed is left to it: `elsewhere`. The run's own exception is written to the store.
    """
    try:
        with torch_for(run, context):
            return _performed(run, evaluation, context)
    except StorageError as error:  # of the claim, or of the last look
        return Outcome(State.FAILED, error)


def _performed(run: Run, evaluation: Evaluation, context: RunContext) -> Outcome:
    if (claim := context.store.claim(run.id)) is None:
        return Outcome(State.ELSEWHERE)
    failure = None
    context = replace(context, report=partial(claim.resting, context.report))
    with claim:
        attempt = context.store.attempt(run.id, claim.attempt)
        try:
            choose = cache(lambda: choose_teacher(run, context.store, context.device))
            had = cache(lambda: teacher_had(run.id, context.store, context.device) or choose())
            source = cache(lambda: choose_source(run, context.store, context.device))
            data = data_of(run, had, context.data_dir, context.device, source)
            if not measured_late(run, evaluation, data, context):
                train_and_evaluate(run, evaluation, data, choose, attempt, context, source()[1])
        except Stopped:
            return Outcome(State.STOPPED)
        except Exception as error:
            if advice := on_memory(error):
                error.add_note(advice)
            failure = error
            if is_gone(error):  # nothing can be written, and it was waited for
                claim.abandon()
            else:
                with suppress(StorageError):  # a full disk is what went wrong, perhaps: that is the error to tell
                    attempt.write_failure(error)
    if failure is not None:
        return Outcome(State.FAILED, failure)
    standing = Standing(context.store)
    standing.refresh(run.id)
    return Outcome(standing.state(run.id))


def on_memory(error: Exception) -> str:
    """What would do where a run ran out of memory, its GPU's or the machine's; empty for any other error."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in text:
        return "out of GPU memory: fewer runs a GPU (a larger --gpus-per-run), or a smaller recipe.batch_size or model"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: " in text:
        return "out of memory: fewer runs at a time (--max-concurrent), or a smaller recipe.batch_size or model"
    return ""


def measured_late(run: Run, evaluation: Evaluation, data: Data, context: RunContext) -> bool:
    """Measures what is missing of a run that is finished already; False if it is not, or is not whole any more."""
    id, standing = run.id, Standing(context.store)
    standing.refresh(id)
    done = standing.look(id).done
    if done is None:
        if lost := standing.look(id).lost:
            context.store.withdraw(id, *lost)
        return False
    if done.outcome != State.DONE:
        return True
    try:
        network = placed(load_finished(id, context.store, done), context.device)
    except DamagedError as error:
        context.store.withdraw(id, done, str(error))
        return False
    ask_teacher = teacher_of(standing.look(id).provenance.get("teacher"), context.store, context.device)

    def load_other(which: str) -> nn.Module:
        return placed(load_finished(id, context.store, done, BESIDE[which]), context.device)

    ask_weights = weights_of(run, data, context, load_other)
    subject = Subject(network, data, context.measuring, ask_teacher, ask_weights=ask_weights)
    try:
        evaluate(subject, evaluation, context, context.store.evaluations(id, done))
    except DamagedError as error:  # of weights that lie beside the run's own
        context.store.withdraw(id, done, str(error))
        return False
    return True


def weights_of(
    run: Run, data: Data, context: RunContext, load_other: Callable[[str], nn.Module]
) -> Callable[[str], nn.Module]:
    """`ask_weights` of a subject: the network as the run's seed initialised it, and what `load_other` has.
    ValueError for the first where weights came from a file."""

    @cache  # one network each, which is heard while it is measured
    def ask_weights(which: str) -> nn.Module:
        if which != "initial":
            return load_other(which)
        if run.checkpoint is not None:
            raise ValueError("the weights came from a file; how they were initialised is not known")
        return placed(starting_network(run, data.shape, data.classes), context.device)

    return ask_weights


def train_and_evaluate(
    run: Run,
    evaluation: Evaluation,
    data: Data,
    choose: Callable[[], Chosen],
    attempt: Attempt,
    context: RunContext,
    source: dict[str, Any] | None = None,
) -> None:
    """A run that is not done yet. Divergence is a result too: it is kept, without weights, and not tried again.
    `source` is what the provenance keeps of the run that its images come from."""
    began = time.monotonic()
    attempt.write_description(run.description)
    for name, text in texts_of(run).items():
        attempt.write_extension(name, text)
    if data.corrupted is not None and run.recipe is not None:
        attempt.write_labels(data.corrupted.numpy(), data.train.labels.cpu().numpy() if run.dataset.asks else None)
    teacher, chosen = choose()
    trained_by = sources.of_training(run)
    about: dict[str, Any] = {"source": source} if source else {}
    about |= {"overlap": doubts} if (doubts := overlap.told(data)) else {}
    capture = capture_of(run, context)
    try:
        made_by = " ".join([f"{trained_by} {taught_by(chosen)}", *([source["weights_sha256"]] if source else [])])
        data = with_responses(run, data, (teacher, chosen), context.data_dir, context.store, context.pulse)
        network = placed(starting_network(run, data.shape, data.classes), context.device)
        others: dict[str, nn.Module] = {}  # there once it is trained
        ask_weights = weights_of(run, data, context, others.__getitem__)
        subject = Subject(network, data, context.measuring, lambda: teacher, ask_weights=ask_weights)
        history, beside = trained(run, subject, (teacher, chosen), attempt, context, made_by, capture)
        others |= beside
        file = weights.save(network)
        try:
            took = evaluate(subject, evaluation, context, attempt.evaluations(digest(file)))
        except NotFinite as broken:
            if not history:  # a teacher that nobody trained
                raise
            raise Diverged(len(history), history) from broken
    except Diverged as diverged:
        origin = provenance(data, context.device, began, chosen, sources=trained_by) | about | steps_of(capture)
        attempt.finish(State.DIVERGED, None, diverged.history, origin)
    else:
        origin = provenance(data, context.device, began, chosen, kept(run, history), trained_by, took)
        origin |= about | steps_of(capture)
        further = {BESIDE[name]: weights.save(other) for name, other in others.items()}
        attempt.finish(State.DONE, file, history, origin, further)


def trained(
    run: Run,
    subject: Subject,
    chosen: Chosen,
    attempt: Attempt,
    context: RunContext,
    made_by: str,
    capture: Capture | None = None,
) -> tuple[list[Row], dict[str, nn.Module]]:
    """Trains the subject's network; its history, and what is kept beside it (`EpochEnd.others`). Training goes on from
    the last good checkpoint of any attempt."""
    network, data = subject.network, subject.data
    if run.recipe is None or run.seed is None:
        return [], {}
    loss, precision = loss_of(run, chosen[1]), run.recipe.precision
    listens = chosen[0] if loss.asks else None  # else it has told what to train on, and that was all
    lesson = Lesson(data.classes, run.seed, run.noise, loss, listens, precision, context.device, data.space)
    each_epoch = EpochEnd(run, run.recipe, subject, attempt, context, made_by)
    if start := last_state(run.id, network, run.recipe, context.store, made_by):
        each_epoch.resume(start)
    with heard(network, context.pulse):
        history = train(
            network, data.train, run.recipe, lesson, run.seed, start=start, each_epoch=each_epoch, capture=capture
        )
        others = each_epoch.others(network)
    if not finite(network):  # the last step broke what the last loss could not show
        raise Diverged(len(history), history)
    return history, others


def capture_of(run: Run, context: RunContext) -> Capture | None:
    """How steps become CUDA graphs; None where they do not. A graph repeats what Python decided while it was recorded,
    so code of the user's own, which may count steps, is called at every one."""
    on_gpu = torch.device(context.device).type == "cuda"
    may = on_gpu and context.captured and run.recipe is not None and not texts_of(run)
    return Capture(pulse=context.pulse) if may else None


def steps_of(capture: Capture | None) -> dict[str, str]:
    """What the provenance says of steps where graphs were tried."""
    return {"steps": capture.told} if capture else {}


def last_state(id: str, network: nn.Module, recipe: Recipe, store: Store, made_by: str) -> TrainingState | None:
    """The newest checkpoint that loads and fits; those that do not are set aside. None: training starts anew."""
    for checkpoint, data in store.checkpoints(id):
        try:
            state = TrainingState.from_bytes(data)
            state.refuse_others(network, recipe, made_by)
        except MemoryError:  # the machine's fault, not the checkpoint's
            raise
        except Exception as error:  # whatever unpickling stumbles over
            why = f"it does not load: {type(error).__name__}: {str(error).strip():.200}"
            store.reject_checkpoint(id, checkpoint, why)
        else:
            return state
    return None


def kept(run: Run, history: list[Row]) -> dict[str, Any]:
    """What the provenance says of the epoch whose weights were kept; nothing where none was to be chosen."""
    keep = run.recipe.keep if run.recipe else None
    if keep is None or (epoch := best_epoch(history, keep.best, run.keeps_lowest)) is None:
        return {}
    return {"epoch": epoch, "metric": keep.best, "score": history[epoch - 1][keep.best]}


def evaluate(subject: Subject, evaluation: Evaluation, context: RunContext, kept: Evaluations) -> dict[str, float]:
    """Every evaluator that has not measured these weights yet; each result is kept as it comes. Returns seconds."""
    subject.network.eval()
    seconds = {}
    for evaluator in evaluation:
        by = {"sources": sources.of_evaluator(evaluator), **code()}
        if kept.record(evaluator.hash) is None and not kept.take_over(evaluator.hash, by):
            began = time.monotonic()
            with ExitStack() as hearing:
                for which in sorted({evaluator.of or "", *evaluator.weights}):
                    with suppress(ValueError, LookupError):  # kept none: the evaluator says so
                        hearing.enter_context(heard(subject.of(which or None).network, context.pulse))
                found = evaluator.measured(subject)
            seconds[evaluator.column(evaluator.key)] = round(time.monotonic() - began, 3)
            about = {"name": evaluator.key, "version": evaluator.version, **evaluator.model_dump(mode="json")}
            kept.write(evaluator.hash, about, found.metrics, found.arrays, by)
    return seconds
