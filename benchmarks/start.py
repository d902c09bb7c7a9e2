"""What a second command costs in a bucket that is far, where all is finished: `python benchmarks/start.py [RUNS ...]`.

The bucket lies in memory and takes 20 ms for every request. Each point of the plan has ten teachers and ten students,
whose one evaluator has measured them; nothing is trained.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from obstore.store import MemoryStore

from kdtune.cli.options import Options
from kdtune.cli.sweep import sweep
from kdtune.planning.plan import Plan, build_plan
from kdtune.report.folder import View
from kdtune.store.objects import Objects
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep

SIZES = (1_000, 10_000)
SEEDS = 10  # of teachers, and of students, at each point
REQUEST_S = 0.02
SWEEP = """\
name: start
dataset: {{digits: {{}}, train_size: 100, validation: 0.2}}
seeds: {seeds}
grid: {{rate: {rates}}}
recipe:
  optimizer: {{sgd: {{lr: 0.1}}}}
  schedule: {{step: {{milestones: [0.5], factor: 0.1}}}}
  precision: float32
  batch_size: 20
  epochs: 2
teacher:
  model: {{mlp: {{hidden: [8], dropout: $rate}}}}
  seeds: {seeds}
  select: {{rule: best, metric: val/accuracy}}
student:
  model: {{mlp: {{hidden: [8]}}}}
  distillation: {{alpha: 0.9, temperature: 4}}
  noise: {{teacher: {{dropout: {{rate: $rate}}}}}}
evaluation: [accuracy]
"""


class Far:
    """An obstore store that lets everybody wait, once `seconds` are set, and counts."""

    def __init__(self) -> None:
        self.store, self.seconds, self.requests = MemoryStore(), 0.0, Counter[str]()
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        def ask(*words: Any, **more: Any) -> Any:
            with self.lock:
                self.requests[name] += 1
            time.sleep(self.seconds)
            return getattr(self.store, name)(*words, **more)

        return ask


def finish(store: Store, plan: Plan, id: str, rows: list[dict[str, float]], metrics: dict[str, float]) -> None:
    """A run, as training and evaluation leave it."""
    attempt = store.attempt(id)
    attempt.write_description(plan.runs[id].run.description)
    attempt.finish("done", b"weights", rows, {"seconds": 1.5, "device": "CPU"})
    done = store.done(id)
    assert done is not None
    for evaluator in plan.evaluators:
        store.evaluations(id, done).write(evaluator, {}, metrics, {})


def command(objects: Objects, file: SweepFile, plan: Plan) -> float:
    """Seconds of a whole command."""
    began = time.perf_counter()
    view = View(Standing(Store(objects), plan.evaluators), plan)
    options = Options(Path(file.path), verbosity=-1)
    assert sweep(options, file, plan, view, lambda value: None, "python -m kdtune.sweep") == 0
    return time.perf_counter() - began


def measure(runs: int, folder: Path) -> None:
    points = runs // (2 * SEEDS)
    (folder / "start.yaml").write_text(
        SWEEP.format(seeds=SEEDS, rates=[0.9 * point / points for point in range(points)])
    )
    file = load_sweep(folder / "start.yaml")
    plan = build_plan(file, folder)
    far: Any = Far()
    objects = Objects("memory", far)
    history = [{"epoch": epoch, "train/loss": 1.0 / epoch, "lr": 0.1} for epoch in (1, 2)]
    for id in plan.runs:
        finish(Store(objects), plan, id, history, {"test/accuracy": 50.0})
    command(objects, file, plan)  # it writes the table and what TensorBoard shows
    far.seconds = REQUEST_S
    far.requests.clear()
    cpu = time.process_time()
    wall = command(objects, file, plan)
    cpu = time.process_time() - cpu
    print(f"{len(plan.runs):6,} runs: {wall:5.1f} s, {cpu:5.1f} s of CPU, {sum(far.requests.values()):7,} requests")


if __name__ == "__main__":
    for size in [int(text) for text in sys.argv[1:]] or SIZES:
        with tempfile.TemporaryDirectory() as place:
            os.environ["KDTUNE_DATA"] = place  # where the mirror of the bucket goes
            measure(size, Path(place))
