"""Torch's own switches, as runs need them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdtune.randomness import seeded
from kdtune.run import Run
from kdtune.training.context import RunContext


@contextmanager
def torch_for(run: Run, context: RunContext) -> Iterator[None]:
    """Torch as every run needs it: its share of the CPU, `repeatable` kernels, generators of its own, no autocast.

    A caller's own switches and generators are afterwards as they were.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(context.threads)
    no_autocast = torch.autocast(torch.device(context.device).type, enabled=False)
    try:
        with repeatable(), no_autocast, seeded(run.seed or 0, "run"):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def repeatable() -> Iterator[None]:
    """Inside, a GPU's float32 is float32, not TF32, and the same kernels are chosen each time, which add in one order.

    torch's own setting lets convolutions have TF32, whose 10 bits of mantissa an attack would take for a defence.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, False, True
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
