"""Streams of random numbers, each fixed by a seed, a name and an epoch.

A run that resumes at an epoch boundary finds the same numbers there without having kept any generator's state, and two
runs that differ only in a strength draw the same numbers (common random numbers: their difference is a paired one).
Numbers are drawn from a `Draw` that is passed in. The one exception is dropout, which only knows torch's global
generator: `seeded` and `GlobalStream` are for it, `seeded` for the initial weights too.

The same stream gives other numbers on another kind of device; what must be equal everywhere (which images are held out)
is drawn on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor


def stream_seed(seed: int, name: str, epoch: int) -> int:
    """63 bits for the stream `name` of a run's `seed` at `epoch`; no two streams share a text to hash.

    torch's CPU generator (MT19937) starts from the low 32 of them, the CUDA generator from all.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).digest()[:8]) >> 1


class Draw:
    """Random tensors from one stream. `like` gives shape, floating-point type and device; its values are not read."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of like's shape (float32 where `like` holds integers)."""
        return torch.randn(like.shape, generator=self.generator, dtype=_floating(like), device=like.device)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) of like's shape (float32 where `like` holds integers)."""
        return torch.rand(like.shape, generator=self.generator, dtype=_floating(like), device=like.device)

    def integers(self, high: int, like: Tensor) -> Tensor:
        """Uniform int64 numbers in [0, high) of like's shape."""
        return torch.randint(high, like.shape, generator=self.generator, device=like.device)

    def permutation(self, n: int) -> Tensor:
        """The numbers 0 to n - 1 in random order, int64 [n], on the generator's device."""
        return torch.randperm(n, generator=self.generator, device=self.generator.device)


def draw(seed: int, name: str, epoch: int = 0, device: torch.device | str = "cpu") -> Draw:
    """The stream `name` of a run's `seed` at `epoch`, from its beginning. `like` tensors must lie on `device`."""
    return Draw(torch.Generator(device).manual_seed(stream_seed(seed, name, epoch)))


@contextmanager
def seeded(seed: int, name: str, epoch: int = 0) -> Iterator[None]:
    """Inside, torch's global generators stand at the start of the stream; afterwards they are as they were before.

    On CUDA that holds for the current device, and if CUDA was in use before: asking for its state would start it.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        set_global(seed, name, epoch)
        yield


def set_global(seed: int, name: str, epoch: int = 0) -> None:
    """Puts torch's global generators, the CPU's and every GPU's, at the start of the stream.

    What `torch.manual_seed` does, but that it writes down who called where CUDA is not in use, for a start that may
    never come: 0.3 ms, three times in each of a small network's epochs.
    """
    number = stream_seed(seed, name, epoch)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


class GlobalStream:
    """A stream of torch's global generators that goes on where it stopped, apart from what draws from them outside.

    For dropout in a second network. `device` is where it draws: on a GPU its global generator is exchanged beside the
    CPU's. `generators` stand where the stream does.
    """

    def __init__(self, seed: int, name: str, epoch: int, device: torch.device | str = "cpu") -> None:
        number, where = stream_seed(seed, name, epoch), dict.fromkeys([torch.device("cpu"), torch.device(device)])
        self.generators = [torch.Generator(each).manual_seed(number) for each in where]

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Inside, the global generators go on with this stream; afterwards they are as they were before."""
        with ExitStack() as stack:
            for own in self.generators:
                stack.enter_context(_on_gpu(own) if own.device.type == "cuda" else _on_cpu(own))
            yield


@contextmanager
def _on_cpu(own: torch.Generator) -> Iterator[None]:
    outside = torch.get_rng_state()
    torch.set_rng_state(own.get_state())
    try:
        yield
    finally:
        own.set_state(torch.get_rng_state())
        torch.set_rng_state(outside)


@contextmanager
def _on_gpu(own: torch.Generator) -> Iterator[None]:
    """An exchange of pointers, which a CUDA graph can record that knows the generator."""
    shared = global_on_gpu(own.device)
    outside = shared.graphsafe_get_state()
    shared.graphsafe_set_state(own.graphsafe_get_state())
    try:
        yield
    finally:
        shared.graphsafe_set_state(outside)


def global_on_gpu(device: torch.device) -> torch.Generator:
    """torch's own generator of a GPU, the current one where none is named."""
    torch.cuda.init()  # before that there are none
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


def _floating(like: Tensor) -> torch.dtype:
    return like.dtype if like.is_floating_point() else torch.float32
