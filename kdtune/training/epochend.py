"""What happens at an epoch's end: what is measured while a run trains, weights that are kept, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdtune.evaluation.accuracy import accuracy
from kdtune.evaluation.evaluator import NotFinite, Unmeasured
from kdtune.training.average import added, averaged
from kdtune.training.loop import Diverged, Stopped, TrainingState
from kdtune.training.step import Row

if TYPE_CHECKING:
    from kdtune.evaluation.subject import Subject
    from kdtune.recipe import Recipe
    from kdtune.run import Run
    from kdtune.store.attempt import Attempt
    from kdtune.training.context import RunContext


class EpochEnd:
    """Called after every epoch of a run that has a recipe, by `loop.train`. Nothing here changes what training does."""

    def __init__(
        self, run: Run, recipe: Recipe, subject: Subject, attempt: Attempt, context: RunContext, made_by: str
    ) -> None:
        self.run, self.recipe, self.subject = run, recipe, subject
        self.attempt, self.context, self.made_by = attempt, context, made_by
        self.began = self.saved = time.monotonic()
        self.last: dict[str, Any] | None = None  # weights of the last epoch, where it is not these that a run ends with
        self.mean: dict[str, Any] | None = None  # see average.added

    def resume(self, state: TrainingState) -> None:
        """Training goes on from here, or is over here already."""
        self.mean = state.average
        if self.recipe.keep and state.epoch == self.recipe.epochs:
            self.last = state.network

    def __call__(self, state: TrainingState, row: Row) -> None:
        data = self.subject.data
        row |= {f"noise/{path}": strength for path, strength in data.noise.items()}
        row |= {"train/images": len(data.train)} if self.run.dataset.only else {}
        healthy = math.isfinite(row["train/loss"])
        if healthy:
            if not finite(self.subject.network):  # before better weights of an earlier epoch take its place
                raise Diverged(state.epoch, state.history)
            self._measure(state, row)
            self._collect(state)
        ends = healthy and self.context.stopped()
        if healthy and (ends or self._due(state)):
            state.made_by = self.made_by
            self.attempt.save_checkpoint(state.epoch, state.to_bytes())
            self.saved = time.monotonic()
        self.context.report(state.history)
        if ends:
            raise Stopped

    def _due(self, state: TrainingState) -> bool:
        """Whether it is time for a checkpoint. Evaluation may take long: the end of training is kept too, unless it
        costs less than a checkpoint is worth."""
        every, now = self.context.checkpoint_every, time.monotonic()
        return now - self.saved >= every or (state.epoch == self.recipe.epochs and now - self.began >= every)

    def _measure(self, state: TrainingState, row: Row) -> None:
        """The accuracy on what is held out, and what the sweep watches: `watch` of a run."""
        try:
            if self.subject.data.validation is not None:
                with suppress(Unmeasured):  # the evaluators raise a flag
                    row["val/accuracy"] = accuracy(self.subject.network, self.subject.data.validation)
            for each in self.run.watch:
                if state.epoch % (each.every or 1) == 0 or state.epoch == self.recipe.epochs:
                    row |= each.measured(self.subject).metrics
        except NotFinite as broken:
            raise Diverged(state.epoch, state.history) from broken

    def _collect(self, state: TrainingState) -> None:
        """The best weights so far, the last ones, the mean."""
        if self.recipe.keep is not None:
            state.keep_best(self.recipe.keep.best, self.run.keeps_lowest)
            if state.epoch == self.recipe.epochs:
                self.last = copy.deepcopy(state.network)
        average, epochs = self.recipe.average, self.recipe.epochs
        if average is not None and (state.epoch - 1 >= average.starts * epochs or state.epoch == epochs):
            state.average = added(state.average, self.subject.network)
        self.mean = state.average

    def others(self, network: nn.Module) -> dict[str, nn.Module]:
        """What the run keeps beside the network that it ends with, by name: `last`, `average`."""
        found = {}
        last = network
        if self.last is not None:
            last = copy.deepcopy(network)
            last.load_state_dict(self.last)
            found["last"] = last
        if self.mean is not None:
            found["average"] = averaged(last, self.mean, self.subject.data.train, self.recipe.batch_size)
        return found


def finite(network: nn.Module) -> bool:
    """Whether all weights are numbers. BatchNorm's statistics count: they break first. One look at the device."""
    states = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in states]).all()) if states else True
