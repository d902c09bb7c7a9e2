"""One run from start to end, without Ray: the table of contents of what happens to a network."""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdtune.config import Normalization, Run
from kdtune.data import loading
from kdtune.data.loading import Data
from kdtune.evaluation.accuracy import accuracy
from kdtune.evaluation.evaluation import Evaluation
from kdtune.evaluation.subject import Context, Subject
from kdtune.losses.ce import CE
from kdtune.models.model import Model, Shape
from kdtune.randomness import seeded
from kdtune.store import checkpoints
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Attempt, Store
from kdtune.training import weights
from kdtune.training.lesson import Lesson
from kdtune.training.loop import Diverged, Row, TrainingState, best_epoch, train
from kdtune.training.provenance import provenance


@dataclass(frozen=True)
class RunContext:
    """Where a run happens and whom it tells. Nothing here changes its numbers beyond floating-point order."""

    store: Store
    data_dir: Path
    device: str = "cpu"
    threads: int = 1  # of torch, on the CPU
    checkpoint_every: float = checkpoints.EVERY_S
    report: Callable[[list[Row]], None] = lambda history: None  # gets the whole history after every epoch


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
    set_torch_switches(context)
    if (claim := context.store.claim(run.id)) is None:
        return Outcome(State.ELSEWHERE)
    failure = None
    with claim:
        attempt = context.store.attempt(run.id, claim.attempt)
        try:
            data = loading.load(run.dataset, context.data_dir, context.device, run.content.get("digest"))
            done = context.store.done(run.id)
            if done is None:
                train_and_evaluate(run, evaluation, data, attempt, context)
            elif done.outcome == State.DONE:
                network = load_finished(run.id, context.store).to(context.device)
                evaluate(network, run.id, evaluation, data, context, teacher_of(run.id, context))
        except Exception as error:
            attempt.write_failure(error)
            failure = error
    if failure is not None:
        return Outcome(State.FAILED, failure)
    standing = Standing(context.store)
    standing.refresh(run.id)
    return Outcome(standing.state(run.id))


def set_torch_switches(context: RunContext) -> None:
    """Torch as every run needs it: its share of the CPU, true float32, and kernels that repeat themselves."""
    torch.set_num_threads(context.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def train_and_evaluate(run: Run, evaluation: Evaluation, data: Data, attempt: Attempt, context: RunContext) -> None:
    """A run that is not done yet. Divergence is a result too: it is kept, without weights, and not tried again."""
    began = time.monotonic()
    attempt.write_description(run.description)
    if data.corrupted is not None and run.recipe is not None:
        attempt.write_corrupted(data.corrupted.numpy())
    teacher, chosen = choose_teacher(run, context)
    try:
        network, history = trained(run, data, teacher, attempt, context)
    except Diverged as diverged:
        attempt.finish(State.DIVERGED, None, diverged.history, provenance(data, context.device, began, chosen))
    else:
        evaluate(network, run.id, evaluation, data, context, teacher)
        origin = provenance(data, context.device, began, chosen, kept(run, history))
        attempt.finish(State.DONE, weights.save(network), history, origin)


def trained(
    run: Run, data: Data, teacher: nn.Module | None, attempt: Attempt, context: RunContext
) -> tuple[nn.Module, list[Row]]:
    """The network after training and its history. Training goes on from the last good checkpoint of any attempt."""
    network = build_network(run.model, run.normalization, run.seed or 0, data.shape, data.classes).to(context.device)
    if run.recipe is None or run.seed is None:
        weights.load_foreign(network, run.checkpoint or "")
        return network, []
    keep = run.recipe.keep
    loss, precision = run.loss or CE(), run.recipe.precision
    lesson = Lesson(data.classes, run.seed, run.noise, loss, teacher, precision, context.device)
    checkpoint = context.store.checkpoint(run.id)
    start = TrainingState.from_bytes(checkpoint[1]) if checkpoint else None
    began = saved = time.monotonic()

    def each_epoch(state: TrainingState, row: Row) -> None:
        nonlocal saved
        row |= {f"noise/{path}": strength for path, strength in data.noise.items()}
        healthy = math.isfinite(row["train/loss"]) and finite(network)
        if data.validation is not None and healthy:
            row["val/accuracy"] = accuracy(network, data.validation)
            if keep is not None:
                state.keep_best(keep.best)
        now = time.monotonic()
        # Evaluation may take long: the end of training is kept too, unless it costs less than a checkpoint is worth.
        last = state.epoch == run.recipe.epochs and now - began >= context.checkpoint_every  # type: ignore[union-attr]
        if (last or now - saved >= context.checkpoint_every) and healthy:
            attempt.save_checkpoint(state.epoch, state.to_bytes())
            saved = now
        context.report(state.history)

    history = train(network, data.train, run.recipe, lesson, run.seed, start=start, each_epoch=each_epoch)
    if not finite(network):  # the last step broke what the last loss could not show
        raise Diverged(len(history), history)
    return network, history


def kept(run: Run, history: list[Row]) -> dict[str, Any]:
    """What the provenance says of the epoch whose weights were kept; nothing where none was to be chosen."""
    keep = run.recipe.keep if run.recipe else None
    if keep is None or (epoch := best_epoch(history, keep.best)) is None:
        return {}
    return {"epoch": epoch, "metric": keep.best, "score": history[epoch - 1][keep.best]}


def finite(network: nn.Module) -> bool:
    """Whether all weights are numbers. BatchNorm's statistics count: they break first."""
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def build_network(
    model: Model, normalization: Normalization | None, seed: int, shape: Shape, classes: int
) -> nn.Module:
    """A network as its seed initialises it; on the CPU, so that it is the same on every device."""
    with seeded(seed, "init"):
        network = model.build(shape, classes)
    if normalization is None:
        return network
    from kdtune.models.networks.normalized import Normalized

    return Normalized(network, normalization.mean, normalization.std)


def load_finished(id: str, store: Store) -> nn.Module:
    """The network of a finished run, from what the store has of it alone, in eval mode, on the CPU."""
    description, origin = store.description(id), store.provenance(id)
    if description is None or origin is None:
        raise LookupError(f"run {id} is not done: it has no network to load")
    stated = description.get("normalization")
    network = build_network(
        Model.model_validate(description["model"]),
        Normalization.model_validate(stated) if stated else None,
        seed=0,  # overwritten by the weights
        shape=tuple(origin["shape"]),
        classes=origin["classes"],
    )
    weights.load(network, store.weights(id))
    return network.eval()


def choose_teacher(run: Run, context: RunContext) -> tuple[nn.Module | None, dict[str, Any]]:
    """The teacher that the run's rule chooses, and what the provenance keeps of it.

    A diverged teacher is never chosen; ties go to the first of the pool, which is the first seed.
    """
    choice = run.teacher
    if choice is None:
        return None, {}
    outcomes = {id: context.store.done(id) for id in choice.runs}
    pool = [id for id, done in outcomes.items() if done is not None and done.outcome == State.DONE]
    if not pool:
        raise RuntimeError(f"no teacher to learn from: none of {', '.join(choice.runs)} is done")
    chosen, score = pool[0], None
    if choice.metric is not None and choice.evaluator is not None:
        scores = {id: (context.store.evaluation(id, choice.evaluator) or {}).get(choice.metric) for id in pool}
        measured = {id: score for id, score in scores.items() if score is not None}
        if len(measured) < len(pool):
            raise RuntimeError(
                f"{choice.metric} was not measured for the teachers {', '.join(set(pool) - set(measured))}"
            )
        chosen = max(measured, key=lambda id: measured[id])  # the first of equals
        score = measured[chosen]
    digest = hashlib.sha256(context.store.weights(chosen)).hexdigest()
    return load_finished(chosen, context.store).to(context.device), {
        "id": chosen,
        "weights_sha256": digest,
        "metric": choice.metric,
        "score": score,
    }


def teacher_of(id: str, context: RunContext) -> nn.Module | None:
    """The teacher that a finished run learned from; None where it learned alone."""
    chosen = ((context.store.provenance(id) or {}).get("teacher") or {}).get("id")
    return load_finished(chosen, context.store).to(context.device) if chosen else None


def evaluate(
    network: nn.Module, id: str, evaluation: Evaluation, data: Data, context: RunContext, teacher: nn.Module | None
) -> None:
    """Every evaluator that has not measured this run yet; each result is kept as it comes."""
    store = context.store
    subject = Subject(network.eval(), data, Context(context.data_dir, context.device, store), teacher)
    for evaluator in evaluation:
        if store.evaluation(id, evaluator.hash) is None:
            found = evaluator.measured(subject)
            about = {"name": evaluator.key, "version": evaluator.version, **evaluator.model_dump(mode="json")}
            store.write_evaluation(id, evaluator.hash, about, found.metrics, found.arrays)
