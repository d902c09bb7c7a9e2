"""Whole runs on a device, for `gpu.py`: trained, measured and stored, with eager steps and with captured ones.

Four students that learn from one teacher: without noise, with a fickle teacher, with noise on their images, and with
stored answers; on scikit-learn's digits.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdtune.planning.plan import Plan, build_plan
from kdtune.store.layout import WEIGHTS
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training import captured as captured_steps
from kdtune.training.context import RunContext
from kdtune.training.run import perform

SWEEP = """\
name: whole
dataset: {digits: {}, validation: 0.2}
seeds: 1
grid:
  - {rate: 0.0, sigma: 0.0, kd: {alpha: 0.9, temperature: 4}}
  - {rate: 0.2, sigma: 0.0, kd: {alpha: 0.9, temperature: 4}}
  - {rate: 0.0, sigma: 0.1, kd: {alpha: 0.9, temperature: 4}}
  - {rate: 0.0, sigma: 0.0, kd: {alpha: 0.9, temperature: 4, responses: stored}}
recipe:
  optimizer: {sgd: {lr: 0.05, momentum: 0.9, weight_decay: 5e-4}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  augmentation: {crop: {padding: 1, mode: zero}, flip: null}
  precision: PRECISION
  batch_size: 64
  epochs: EPOCHS
teacher: {model: {cnn: {width: 32, dropout: 0.2}}, select: {rule: paired}}
student:
  model: {cnn: {width: 32, dropout: 0.1}}
  distillation: $kd
  noise: {teacher: {dropout: {rate: $rate}}, input: {gaussian: {sigma: $sigma}}}
evaluation: [accuracy, {pgd: {eps: [0.05], step: 0.01, steps: [10], restarts: 1, images: 200}}]
"""


def compared(device: str, epochs: int) -> dict[str, Any]:
    """Of each precision: seconds of all runs, eager and captured, the runs whose weights are not the same bytes, and
    why steps of some were not captured after all: the same weights say nothing then. Without a GPU none are."""
    found = {}
    for precision in ("float32", "bfloat16"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "whole.yaml")
            file.write_text(SWEEP.replace("PRECISION", precision).replace("EPOCHS", str(epochs)))
            plan = build_plan(load_sweep(file), Path(folder))
            context = RunContext(Store(Path(folder, "eager")), Path(folder), device, captured=False)
            eager, seconds = done(plan, context)
            with refusals() as refused:
                captured, fewer = done(plan, replace(context, store=Store(Path(folder, "captured")), captured=True))
        other = [plan.runs[id].name for id, weights in eager.items() if captured[id] != weights]
        found[precision] = {"eager": seconds, "captured": fewer, "other weights": other, "refused": refused}
        print(
            f"whole runs, {precision}: eager {seconds:.1f} s, {'captured' if device == 'cuda' else 'once more'} "
            f"{fewer:.1f} s, " + (f"OTHER WEIGHTS: {', '.join(other)}" if other else "the same weights")
        )
        for why in refused:
            print(f"NOT captured, {precision}: {why}")
    return found


@contextmanager
def refusals() -> Iterator[list[str]]:
    """What runs say within of steps that are not captured."""
    log, said = logging.getLogger(captured_steps.__name__), list[str]()
    level, handler = log.level, logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def done(plan: Plan, context: RunContext) -> tuple[dict[str, bytes], float]:
    """Every run's weights, and the seconds of all of them."""
    began, weights = time.perf_counter(), {}
    for id in plan.runs:  # teachers stand before their students
        ended = perform(plan.runs[id].run, plan.evaluation, context)
        if (finished := context.store.done(id)) is None:
            raise RuntimeError(f"{plan.runs[id].name}: {ended.traceback}")
        weights[id] = context.store.file(id, finished, WEIGHTS)
    return weights, time.perf_counter() - began
