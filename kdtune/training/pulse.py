"""Signs of life of a network: its passes, as they happen; and a trace of some steps of its training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

log = logging.getLogger(__name__)

BEFORE, WARMING, STEPS = 5, 3, 10  # steps that are let by, that warm the profiler, that a trace holds


@contextmanager
def heard(network: nn.Module, pulse: Callable[[], None]) -> Iterator[None]:
    """Calls `pulse` at every pass of the network. Steps and evaluation batches, attacks and all, go through there.

    It is heard in the classifier too: a loss that needs features asks for these and for it, not for the network as a
    whole.
    """

    def passed(*_: object) -> None:  # what a hook returns would take the place of the logits
        pulse()

    parts = (network, getattr(network, "classifier", None))
    hooks = [part.register_forward_hook(passed) for part in parts if isinstance(part, nn.Module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def traced(path: Path) -> Iterator[None]:
    """Inside, torch's profiler writes a trace of STEPS steps of the optimizer to `path`, which Perfetto opens, and
    TensorBoard with its profiler plugin where the name ends with .pt.trace.json. Training of fewer steps leaves none,
    which is said."""
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from torch.profiler import ProfilerActivity, profile, schedule

    asked = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    plan = schedule(wait=BEFORE, warmup=WARMING, active=STEPS, repeat=1)
    written: list[Path] = []

    def write(profiler: profile) -> None:
        if not written:  # at the end it is called once more
            profiler.export_chrome_trace(str(path))
            written.append(path)

    with profile(activities=asked, schedule=plan, on_trace_ready=write, acc_events=True) as profiler:
        steps = 0

        def stepped(*_: object) -> None:
            nonlocal steps
            steps += 1
            if steps <= BEFORE + WARMING + STEPS:
                profiler.step()

        hook = register_optimizer_step_post_hook(stepped)
        try:
            yield
        finally:
            hook.remove()
    if steps < BEFORE + WARMING + STEPS:
        path.unlink(missing_ok=True)
        log.warning("%s: no trace of %s steps; it takes %s", path, steps, BEFORE + WARMING + STEPS)
