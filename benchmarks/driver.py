"""What a sweep's own command costs beside its runs: `python benchmarks/driver.py [RUNS ...]`.

The whole command over so many new runs, with its folder, table, TensorBoard files and screen; but nobody trains: each
run is finished at once, with the history and the metrics of a real one. Seconds of CPU, without those of writing what
a run's own process writes, and how large the process got.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import measuring
from start import SEEDS, SWEEP, finish

from kdtune.cli import sweep
from kdtune.cli.options import Options
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.watching import Watcher

SIZES = (1_000, 10_000)
EPOCHS = 30
METRICS = 105  # of a run of sweeps/fickle.yaml
spent = Counter[str]()  # seconds of CPU


def launch(options: Options, dispatch: Dispatch, observer: Watcher, *more: Any) -> None:
    """In the place of `cli.start.launch`."""
    store = dispatch.standing.store
    metrics = {f"robust/pgd{number}": float(number % 100) for number in range(METRICS)}
    rows = [
        {"epoch": epoch, "lr": 0.1, "train/loss": 1 / epoch, "val/accuracy": 50.0} for epoch in range(1, EPOCHS + 1)
    ]
    while (planned := dispatch.next()) is not None:
        id = planned.id
        dispatch.started(id)
        observer.started(id)
        observer.rows(id, rows)
        began = time.process_time()
        finish(store, dispatch.plan, id, rows, metrics | {"val/accuracy": 50.0})
        spent["finishing"] += time.process_time() - began
        observer.ended(id, dispatch.ended(id))
        observer.tick()


def measure(runs: int, folder: Path) -> dict[str, float]:
    points = runs // (2 * SEEDS)
    file = folder / "driver.yaml"
    file.write_text(SWEEP.format(seeds=SEEDS, rates=json.dumps([0.9 * point / points for point in range(points)])))
    sweep.launch = launch
    spent.clear()
    began = time.process_time()
    status = sweep.run(Options(file, results=str(folder / "results"), data=str(folder), verbosity=-1))
    assert status == 0, status
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"runs": runs, "cpu": time.process_time() - began - spent["finishing"], "peak, MB": peak, **spent}


def main() -> None:
    numbers = []
    for runs in [int(word) for word in sys.argv[1:]] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            numbers.append(measure(runs, Path(folder)))
        told = numbers[-1]
        print(
            f"{runs:6,} runs: {told['cpu']:6.1f} s of CPU ({told['finishing']:.1f} more for what runs write),"
            f" at most {told['peak, MB']:.0f} MB"
        )
    print(f"wrote {measuring.write('driver', {'sizes': numbers})}")


if __name__ == "__main__":
    main()
