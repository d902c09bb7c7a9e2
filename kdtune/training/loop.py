"""The training loop: epochs, optimiser, schedule. What is shown and what the loss is, the lesson says.

Every random number of an epoch comes from streams named by seed and epoch, so a run that goes on from a `TrainingState`
of an epoch boundary gives the same bytes as one that was never interrupted (on the same kind of device).
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from kdtune.data.augmentation import drawn_views, refuse_zeros
from kdtune.randomness import draw
from kdtune.training.captured import FEWEST
from kdtune.training.step import Objective, Row, Step

if TYPE_CHECKING:
    from kdtune.data.loading import Split
    from kdtune.recipe import Recipe
    from kdtune.training.captured import Capture

PARTS = ("time/data", "time/teacher", "time/student")  # of time/epoch


@dataclass
class TrainingState:
    """Everything a checkpoint holds. The tensors are the live ones: `to_bytes` to keep them."""

    epoch: int  # epochs done
    network: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[Row]
    best: dict[str, Any] | None = None  # weights of the best epoch so far, where `recipe.keep` asks for them
    average: dict[str, Any] | None = None  # their mean so far, where `recipe.average` asks for it: average.added
    made_by: str | None = None  # the code and the teacher's weights that led here

    def keep_best(self, metric: str, lowest: bool = False) -> None:
        """Copies the network if its epoch is the best so far. The caller has written `metric` into the last row."""
        if best_epoch(self.history, metric, lowest) == self.epoch:
            self.best = copy.deepcopy(self.network)

    def to_bytes(self) -> bytes:
        # NumPy's numbers in a row would be refused by the weights_only load
        history = [{key: v if isinstance(v, int) else float(v) for key, v in row.items()} for row in self.history]
        file = io.BytesIO()
        torch.save({**vars(self), "history": history}, file)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state, on the CPU; `train` puts it where the network is. Runs no code that the bytes may hold."""
        return cls(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))

    def refuse_others(self, network: nn.Module, recipe: Recipe, made_by: str | None = None) -> None:
        """Raises ValueError, or whatever it stumbles over, where this is no state of `network` trained by `recipe`."""
        if self.made_by != made_by:
            raise ValueError("other code than this, another teacher or another source trained it so far")
        epochs = [row["epoch"] for row in self.history]
        if not 1 <= self.epoch <= recipe.epochs or epochs != list(range(1, self.epoch + 1)):
            raise ValueError(f"epoch {self.epoch} of {recipe.epochs} with a history of {len(epochs)}")
        wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
        parameters = list(network.parameters())
        for held in filter(None, (self.network, self.best)):
            if {name: tensor.shape for name, tensor in held.items()} != wanted:
                raise ValueError("these are weights of another network")
        if self.average is not None:
            mean = {name: tensor.shape for name, tensor in self.average["weights"].items()}
            if mean != {name: parameter.shape for name, parameter in network.named_parameters()}:
                raise ValueError("these are mean weights of another network")
        recipe.optimizer.build(parameters).load_state_dict(copy.deepcopy(self.optimizer))
        for number, values in self.optimizer["state"].items():
            kept = [value for value in values.values() if isinstance(value, Tensor) and value.dim()]
            if any(value.shape != parameters[number].shape for value in kept):
                raise ValueError("the optimizer's numbers are of another network")


class Stopped(Exception):
    """Somebody has ended training before its time; the last epoch is kept as a checkpoint."""


class Diverged(Exception):
    """The loss of `epoch` (counted from 1) was not finite; `history` ends with that epoch."""

    def __init__(self, epoch: int, history: list[Row]) -> None:
        super().__init__(f"training diverged: loss {history[-1]['train/loss']} in epoch {epoch}")
        self.epoch, self.history = epoch, history


def best_epoch(history: list[Row], metric: str, lowest: bool = False) -> int | None:
    """The epoch, counted from 1, with the largest value, or the lowest, the first of equals; None where no epoch has
    a number."""
    measured = [row for row in history if math.isfinite(row.get(metric, math.nan))]
    best = min if lowest else max
    return int(best(measured, key=lambda row: row[metric])["epoch"]) if measured else None


def train(
    network: nn.Module,
    split: Split,
    recipe: Recipe,
    lesson: Objective,
    seed: int,
    *,
    start: TrainingState | None = None,
    each_epoch: Callable[[TrainingState, Row], None] | None = None,
    capture: Capture | None = None,
) -> list[Row]:
    """Train `network` on `split`, both on one device, and return the history: a row per epoch.

    With `start` it goes on from there. `each_epoch` is called after every epoch, a diverged one too; it may add to the
    row and call `TrainingState.keep_best`, and then the network ends with the best weights. `capture`: steps are taken
    as CUDA graphs. Raises `Diverged` at the end of an epoch whose loss is not finite.
    """
    optimizer = recipe.optimizer.build(network.parameters())
    history: list[Row] = []
    best, average = (start.best, start.average) if start else (None, None)
    if start:
        network.load_state_dict(start.network)
        optimizer.load_state_dict(copy.deepcopy(start.optimizer))  # it would go on writing into start's own tensors
        history = [dict(row) for row in start.history]
    refuse_divergence(history)
    if capture and split.repeat * (len(split) // recipe.batch_size) < FEWEST:
        capture.refuse(f"an epoch has fewer than {FEWEST} full batches")
    if capture and recipe.epochs - len(history) < 2:
        capture.refuse("fewer than two epochs are left, and the first is trained eagerly too")
    for epoch in range(len(history), recipe.epochs):
        one = partial(train_epoch, network, optimizer, split, recipe, lesson, seed, epoch)
        row = capture.train(network, optimizer, one) if capture else one()
        history.append(row)
        if each_epoch:
            state = TrainingState(epoch + 1, network.state_dict(), optimizer.state_dict(), history, best, average)
            each_epoch(state, row)
            best, average = state.best, state.average
        refuse_divergence(history)
    if best is not None:
        network.load_state_dict(best)
    return history


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    split: Split,
    recipe: Recipe,
    lesson: Objective,
    seed: int,
    epoch: int,
    capture: Capture | None = None,
) -> Row:
    """One pass over the images, or `repeat` of them, in random order, the last incomplete batch included; `epoch` is
    counted from 0."""
    began, device = time.perf_counter(), split.images.device
    refuse_zeros(recipe.augmentation, split.bounds)
    augmentation = draw(seed, "augmentation", epoch, device)
    order = draw(seed, "order", epoch, device)
    passes = [split.batches(order.permutation(len(split)), recipe.batch_size) for _ in range(split.repeat)]
    batches = [batch for each in passes for batch in each]
    rates = [learning_rate(optimizer, recipe, epoch + (step + 0.5) / len(batches)) for step in range(len(batches))]
    if device.type == "cuda":  # a graph's optimizer reads its rate as float32; without a graph it is the same number
        rates = torch.tensor(rates, dtype=torch.float32).tolist()
    network.train()
    lesson.begin(epoch)
    step = Step(network, optimizer, split, recipe, lesson)
    captured = capture.of(step) if capture else None
    take = captured or step
    recorded = []  # stays on the device: reading a number would make the CPU wait for it
    for batch, rate in zip(batches, rates, strict=True):
        with step.gathering:
            views = drawn_views(len(batch), recipe.augmentation, augmentation, device)
        recorded.append(take(batch, views, rate))
    sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
    shown = len(split) * split.repeat
    means = sizes @ torch.stack(recorded).double().cpu() / shown
    seconds = time.perf_counter() - began
    told, data = lesson.end(), step.gathering.seconds()
    row = {
        "epoch": epoch + 1,
        "lr": rates[0],
        **{f"train/{name}": mean for name, mean in zip(step.names, means.tolist(), strict=True)},
        **told,
        "time/epoch": seconds,
        "time/data": data,
        "time/student": seconds - data - told.get("time/teacher", 0.0),
        "time/images_per_second": shown / seconds,
    }
    if captured and captured.recorded:
        optimizer.zero_grad()  # gradients lie in the graph's own memory, which would stay for them
        return {name: value for name, value in row.items() if name not in PARTS}  # nobody sees what a graph spends
    return row


def learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: float) -> float:
    """The rate at a time of the run, in epochs from its start: of a step, its middle."""
    stated: float = optimizer.defaults["lr"]
    return stated * recipe.schedule(epoch, recipe.epochs)


def refuse_divergence(history: list[Row]) -> None:
    if history and not math.isfinite(history[-1]["train/loss"]):
        raise Diverged(len(history), history)
