"""Steps of training as one CUDA graph: recorded once in an epoch, replayed for every full batch.

A small network's step is hundreds of short kernels, and a CPU starts them one by one, more slowly than a GPU is done
with them. A graph starts them all at once: the same kernels on the same numbers. What Python decided while it was
recorded stays decided, which is why every epoch records anew, and why some batches are taken eagerly: the first of each
epoch, in which knobs are measured, and an incomplete last one.

No graph is trusted. A run's first epoch is trained both ways, eagerly and with a graph, from the same state, and the
first replay of each later epoch is checked against the eager step. Where a bit of a weight, a buffer, the optimizer or
the record differs, or where the step cannot be recorded at all, the run goes on eagerly, as if nothing had been tried,
and says so once. What reads numbers from the device in mid-step is not recorded; no loss or knob here does
(`tests/test_on_gpu.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from kdtune.randomness import global_on_gpu
from kdtune.training.snapshot import AtEpoch, AtStep, same
from kdtune.training.step import Step

log = logging.getLogger(__name__)

Act = Callable[[], Tensor]
Row = dict[str, float]  # `loop.Row`
DIFFERS = "its numbers differ from those of the eager step"


class Graph(Protocol):
    """What is recorded and replayed."""

    def record(self, act: Act, generators: Sequence[torch.Generator]) -> Tensor:
        """Where each replay leaves what `act` returns; it draws from these generators, and from torch's global ones."""

    def replay(self) -> None: ...


class CudaGraph:
    """torch's, on the current device.

    Where a recording breaks off, torch stays on the stream of the recording, its allocator takes one to be under way,
    and generators wait for the end of it (torch 2.11). What can be put right is, and this process begins no other.
    """

    broken: ClassVar[str] = ""  # why one has broken off in this process

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def record(self, act: Act, generators: Sequence[torch.Generator]) -> Tensor:
        if self.broken:
            raise RuntimeError(self.broken)
        on_gpu = [generator for generator in generators if generator.device.type == "cuda"]
        for generator in on_gpu:
            self.graph.register_generator_state(generator)
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self.graph):
                return act()
        except Exception as error:
            CudaGraph.broken = str(error)
            torch.cuda.set_stream(stream)
            for generator in (*on_gpu, global_on_gpu(torch.device("cuda"))):
                generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
            raise

    def replay(self) -> None:
        self.graph.replay()


class Capture:
    """Whether the steps of a run can be recorded. `refused`: why not, empty while they can; `shown`: an epoch of them
    has ended as the eager one did.

    `pulse` is called at every replay: what hears a network's passes hears none of a graph's.
    """

    def __init__(self, graph: Callable[[], Graph] = CudaGraph, pulse: Callable[[], None] = lambda: None) -> None:
        self.graph, self.pulse, self.refused, self.shown = graph, pulse, "", False

    def train(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, epoch: Callable[[Capture | None], Row]
    ) -> Row:
        """An epoch of training, which `epoch` does with this capture or, given None, eagerly; the run's first one both
        ways. The same call from the same weights must do the same."""
        if self.refused or self.shown:
            return epoch(None if self.refused else self)
        before = AtEpoch(network, optimizer)
        eager, after = epoch(None), AtEpoch(network, optimizer)
        before.restore()
        try:
            row = epoch(self)
        except Exception as error:  # whatever is wrong with it, eager steps have just been taken
            self.refuse(" ".join(f"{type(error).__name__}: {error}".split())[:200], logging.WARNING)
        else:
            if _alike(row, eager) and AtEpoch(network, optimizer) == after:
                self.shown = not self.refused
                return row
            self.refuse(DIFFERS, logging.WARNING)
        after.restore()
        return eager

    @property
    def told(self) -> str:
        """How steps are taken, for the provenance."""
        return f"eager: {self.refused}" if self.refused else "captured"

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
        before = AtStep(self.step)
        eager, after = self.step(batch, views, rate), AtStep(self.step)
        before.restore()
        try:
            self._record(batch, views, rate)
            before.restore()  # a graph that is recorded has moved nothing but, perhaps, its generators
            found = self._replayed(batch, views, rate)
        except Exception as error:  # torch has several kinds for what cannot be recorded
            self.capture.refuse(" ".join(str(error).split())[:200])
            after.restore()
            return eager
        if not (same(found, eager) and AtStep(self.step) == after):
            self.capture.refuse(DIFFERS, logging.WARNING)
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


def _alike(one: Row, other: Row) -> bool:
    """Whether two epochs' rows say the same, but for how long they took."""
    said = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in (one, other)]
    return repr(said[0]) == repr(said[1])  # nan is itself
