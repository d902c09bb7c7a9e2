"""Steps of training as one CUDA graph: recorded once in an epoch, replayed for every full batch.

A small network's step is hundreds of short kernels, and a CPU starts them one by one, more slowly than a GPU is done
with them. A graph starts them all at once: the same kernels on the same numbers. What Python decided while it was
recorded stays decided, which is why every epoch records anew, and why some batches are taken eagerly: the first of each
epoch, in which knobs are measured, and an incomplete last one.

No graph is trusted. A run's first epoch is trained both ways, eagerly and with a graph, from the same state, and the
first replay of each later epoch is checked against the eager step. Where a bit of a weight, a buffer, the optimizer or
the record differs, or where the step cannot be recorded at all, the run goes on with the numbers of eager steps, and
says so once. What reads numbers from the device in mid-step is not recorded; no loss or knob here does
(`tests/test_on_gpu.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from kdtune.randomness import global_on_gpu
from kdtune.training.snapshot import AtEpoch, AtStep, same
from kdtune.training.step import Row, Step

log = logging.getLogger(__name__)

Act = Callable[[], Tensor]
FEWEST = 3  # full batches of an epoch: the first is eager, the second recorded
DIFFERS = "its numbers differ from those of the eager step"


class Graph(Protocol):
    """What is recorded and replayed."""

    def aside(self) -> AbstractContextManager[None]:
        """Inside, steps are taken where the recording will be."""

    def record(self, act: Act, generators: Sequence[torch.Generator]) -> Tensor:
        """Where each replay leaves what `act` returns; it draws from these generators, and from torch's global ones."""

    def replay(self) -> None: ...


class CudaGraph:
    """torch's, on the current device.

    Where a recording breaks off, torch stays on the stream of the recording, its allocator takes one to be under way,
    and generators wait for the end of it (torch 2.11). That is put right, and this process begins no other.
    """

    broken: ClassVar[str] = ""  # why one has broken off in this process
    stream: ClassVar[torch.cuda.Stream | None] = None  # of all recordings

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.own = CudaGraph.stream = CudaGraph.stream or torch.cuda.Stream()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Libraries set themselves up for a stream when they are first asked there, which breaks off a recording."""
        here = torch.cuda.current_stream()
        self.own.wait_stream(here)
        with torch.cuda.stream(self.own):
            yield
        here.wait_stream(self.own)

    def record(self, act: Act, generators: Sequence[torch.Generator]) -> Tensor:
        if self.broken:
            raise RuntimeError(self.broken)
        on_gpu = [generator for generator in generators if generator.device.type == "cuda"]
        for generator in on_gpu:
            self.graph.register_generator_state(generator)
        stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(self.graph, pool, self.own):
                return act()
        except Exception as error:
            CudaGraph.broken = _why(error)
            torch.cuda.set_stream(stream)
            with suppress(RuntimeError):  # it has been ended already, perhaps
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
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

    @property
    def told(self) -> str:
        """How steps are taken, for the provenance."""
        return "captured" if self.shown and not self.refused else f"eager: {self.refused or 'none was recorded'}"

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
            self.refuse(_why(error), logging.WARNING)
        else:
            if _alike(row, eager) and AtEpoch(network, optimizer) == after:
                self.shown = not self.refused
                return row
            self.refuse(DIFFERS, logging.WARNING)
        after.restore()
        return eager

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
        self.recorded: Recorded | None = None
        self.taken = 0

    def __call__(self, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        self.taken += 1
        if self.taken == 1 or self.capture.refused or len(batch) != self.step.recipe.batch_size:
            return self.step(batch, views, rate)
        if self.recorded is None:
            return self._begin(batch, views, rate)
        return self._replayed(self.recorded, batch, views, rate)

    def _begin(self, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        """Records a step, takes it, and looks whether it is the eager one."""
        try:
            graph = self.capture.graph()
        except Exception as error:  # a driver that has none
            self.capture.refuse(_why(error))
            return self.step(batch, views, rate)
        before = AtStep(self.step)
        with graph.aside():
            eager = self.step(batch, views, rate)
        after = AtStep(self.step)
        before.restore()
        try:
            self.recorded = Recorded(self.step, graph, batch, views, rate)
            before.restore()  # a graph that is recorded has moved nothing but, perhaps, its generators
            found = self._replayed(self.recorded, batch, views, rate)
        except Exception as error:  # torch has several kinds for what cannot be recorded
            self.capture.refuse(_why(error))
            after.restore()
            return eager
        if not (same(found, eager) and AtStep(self.step) == after):
            self.capture.refuse(DIFFERS, logging.WARNING)
            after.restore()
            return eager
        return found

    def _replayed(self, recorded: Recorded, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        self.capture.pulse()
        for group in self.step.optimizer.param_groups:
            group["lr"] = rate
        return recorded(batch, views, rate)


class Recorded:
    """A step that was recorded for a batch like this one, and where it reads its batch."""

    def __init__(self, step: Step, graph: Graph, batch: Tensor, views: Tensor, rate: float) -> None:
        self.batch, self.views = batch.clone(), views.clone()
        kind = torch.float32 if batch.device.type == "cuda" else torch.float64  # what torch's fused optimizers read
        self.rate = torch.tensor(rate, dtype=kind, device=batch.device)
        self.graph = graph
        with _capturable(step.optimizer, rate):
            act = lambda: step(self.batch, self.views, self.rate)  # noqa: E731
            self.found = graph.record(act, step.lesson.generators)

    def __call__(self, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        self.batch.copy_(batch)
        self.views.copy_(views)
        self.rate.fill_(rate)
        self.graph.replay()
        return self.found.clone()


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer, rate: float) -> Iterator[None]:
    """Inside, its step may read its rate from the device. Afterwards rates are numbers again, as checkpoints want."""
    groups = optimizer.param_groups
    before = [group["capturable"] for group in groups if "capturable" in group]
    for group in groups:
        if "capturable" in group:  # Adam's word for state that lies on the device
            group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["lr"] = rate
        for group, was in zip((group for group in groups if "capturable" in group), before, strict=True):
            group["capturable"] = was


def _why(error: BaseException) -> str:
    """What went wrong first: the end of a recording that has broken off raises an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _alike(one: Row, other: Row) -> bool:
    """Whether two epochs' rows say the same, but for how long they took."""
    said = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in (one, other)]
    return repr(said[0]) == repr(said[1])  # nan is itself
