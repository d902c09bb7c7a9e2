"""Steps of training as one CUDA graph: recorded once in an epoch, replayed for every full batch.

A small network's step is hundreds of short kernels, and a CPU starts them one by one, more slowly than a GPU is done
with them. A graph starts them all at once: the same kernels on the same numbers. What Python decided while it was
recorded stays decided, which is why every epoch records anew, and why some batches are taken eagerly: the first of each
epoch, in which knobs are measured, and an incomplete last one.

Every graph is checked against the eager step, from the same state: where a bit of a weight, a buffer, the optimizer or
the record differs, or where the step cannot be recorded at all, the run goes on eagerly, as if nothing had been tried,
and says so once. What reads numbers from the device in mid-step is not recorded; no loss or knob here does
(`tests/test_on_gpu.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kdtune.randomness import global_on_gpu
from kdtune.training.step import Step

log = logging.getLogger(__name__)

Act = Callable[[], Tensor]


class Graph(Protocol):
    """What is recorded and replayed."""

    def record(self, act: Act, generators: Sequence[torch.Generator]) -> Tensor:
        """Where each replay leaves what `act` returns; it draws from these generators, and from torch's global ones."""

    def replay(self) -> None: ...


class CudaGraph:
    """torch's, on the current device."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def record(self, act: Act, generators: Sequence[torch.Generator]) -> Tensor:
        on_gpu = [generator for generator in generators if generator.device.type == "cuda"]
        for generator in on_gpu:
            self.graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(self.graph):
                return act()
        except RuntimeError:
            shared = global_on_gpu(torch.device("cuda"))
            for generator in (*on_gpu, shared):  # they wait for the end of a recording that has broken off
                generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
            raise

    def replay(self) -> None:
        self.graph.replay()


class Capture:
    """Whether the steps of a run can be recorded. `refused`: why not, empty while they can.

    `pulse` is called at every replay: what hears a network's passes hears none of a graph's.
    """

    def __init__(self, graph: Callable[[], Graph] = CudaGraph, pulse: Callable[[], None] = lambda: None) -> None:
        self.graph, self.pulse, self.refused = graph, pulse, ""

    def of(self, step: Step) -> Captured:
        """The steps of an epoch."""
        return Captured(step, self)

    def refuse(self, why: str, level: int = logging.INFO) -> None:
        self.refused = why
        log.log(level, "steps are not captured in a CUDA graph: %s", why)


class Captured:
    """The steps of one epoch, called as `Step` is."""

    def __init__(self, step: Step, capture: Capture) -> None:
        self.step, self.capture = step, capture
        self.graph: Graph | None = None
        self.taken = 0

    def __call__(self, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        self.taken += 1
        if self.taken == 1 or self.capture.refused or len(batch) != self.step.recipe.batch_size:
            return self.step(batch, views, rate)
        if self.graph is None:
            return self._begin(batch, views, rate)
        return self._replayed(batch, views, rate)

    def _begin(self, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        """Records a step, takes it, and looks whether it is the eager one."""
        before = State(self.step)
        eager, after = self.step(batch, views, rate), State(self.step)
        before.restore()
        try:
            self._record(batch, views, rate)
            before.restore()  # a graph that is recorded has moved nothing but, perhaps, its generators
            found = self._replayed(batch, views, rate)
        except RuntimeError as error:  # torch's, of whatever cannot be recorded
            self.capture.refuse(" ".join(str(error).split())[:200])
            after.restore()
            return eager
        if not (_same(found, eager) and State(self.step) == after):
            self.capture.refuse("its numbers differ from those of the eager step", logging.WARNING)
            after.restore()
            return eager
        return found

    def _record(self, batch: Tensor, views: Tensor, rate: float) -> None:
        """Rates stand in the optimizer as numbers, for checkpoints; a graph must read them from the device."""
        self.batch, self.views = batch.clone(), views.clone()
        kind = torch.float32 if batch.device.type == "cuda" else torch.float64  # what torch's fused optimizers read
        self.rate = torch.tensor(rate, dtype=kind, device=batch.device)
        groups = self.step.optimizer.param_groups
        capturable = [group["capturable"] for group in groups if "capturable" in group]
        for group in groups:
            if "capturable" in group:  # Adam's word for state that lies on the device
                group["capturable"] = True
        graph = self.capture.graph()
        try:
            act = lambda: self.step(self.batch, self.views, self.rate)  # noqa: E731
            self.recorded = graph.record(act, self.step.lesson.generators)
        finally:
            for group in groups:
                group["lr"] = rate
            for group, was in zip((group for group in groups if "capturable" in group), capturable, strict=True):
                group["capturable"] = was
        self.graph = graph

    def _replayed(self, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        self.batch.copy_(batch)
        self.views.copy_(views)
        self.rate.fill_(rate)
        if self.graph is not None:
            self.graph.replay()
        self.capture.pulse()
        for group in self.step.optimizer.param_groups:
            group["lr"] = rate
        return self.recorded.clone()


class State:
    """All that a step changes: weights, buffers, the optimizer's tensors, where generators stand."""

    def __init__(self, step: Step) -> None:
        kept = [
            tensor for state in step.optimizer.state.values() for tensor in state.values() if torch.is_tensor(tensor)
        ]
        self._live = [*step.network.state_dict().values(), *kept]
        self._values = [tensor.clone() for tensor in self._live]
        device = step.split.images.device
        shared = [torch.default_generator, *([global_on_gpu(device)] if device.type == "cuda" else [])]
        self._generators = [*step.lesson.generators, *shared]
        self._states = [generator.get_state() for generator in self._generators]

    @torch.no_grad()
    def restore(self) -> None:
        for live, value in zip(self._live, self._values, strict=True):
            live.copy_(value)
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        mine, theirs = ([*state._values, *state._states] for state in (self, other))
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))

    __hash__ = None  # type: ignore[assignment]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit; what is no number is equal to itself: a run may have diverged."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
