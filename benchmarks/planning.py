"""What plans cost before anything runs: `python benchmarks/planning.py [RUNS ...]`.

A sweep of so many runs is read and planned, hashed, found new in an empty place, and written as a table of runs that
are done; a point has ten teachers and ten students. And what two commands take from start to end.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import measuring
from start import SEEDS, SWEEP

from kdtune.planning.plan import build_plan
from kdtune.report import table
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

SIZES = (10_000, 100_000)
TABLE = 10_000  # runs of a table: of more, one takes too long for a benchmark
COMMANDS = {"--help": ("--help",), "--dry-run of fickle": ("sweeps/fickle.yaml", "--dry-run", "--profile", "laptop")}
ROUNDS = 5


def planned(runs: int, folder: Path) -> dict[str, float]:
    """Seconds by part, of CPU; the largest resident size of this process, in megabytes."""
    points = runs // (2 * SEEDS)
    file = folder / "sweep.yaml"
    rates = [round(0.9 * number / points, 9) for number in range(points)]
    file.write_text(SWEEP.format(seeds=SEEDS, rates=json.dumps(rates)))
    parts: dict[str, float] = {}
    began = time.process_time()

    def part(name: str) -> None:
        nonlocal began
        parts[name] = time.process_time() - began
        began = time.process_time()

    read = load_sweep(file)
    part("read")
    plan = build_plan(read, folder)
    part("plan, with ids")
    assert len(plan.runs) == runs
    standing = Standing(Store(folder / "results"), plan.evaluators)
    states = standing.states(plan.runs)
    assert set(states.values()) == {State.NEW}
    part("found new")
    if runs <= TABLE:
        look = SimpleNamespace(provenance={}, done=None)
        done: Any = SimpleNamespace(
            look=lambda id: look, measured=lambda id, late: {"test/accuracy": 50.0, "test/nll": 1.0}
        )
        rows = table.rows(plan, done, dict.fromkeys(plan.runs, State.DONE))
        table.to_csv(rows)
        table.to_parquet(rows, {})
        part("table")
    return parts | {"peak, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def commands() -> dict[str, list[float]]:
    """Seconds on the wall, each command a few times."""
    found = {}
    for name, words in COMMANDS.items():
        found[name] = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "kdtune.sweep", *words], check=True, capture_output=True)
            found[name].append(time.perf_counter() - began)
    return found


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or SIZES
    numbers: dict[str, Any] = {}
    for runs in sizes:
        with tempfile.TemporaryDirectory() as folder:
            numbers[f"{runs} runs"] = planned(runs, Path(folder))
        print(f"{runs:9,} runs: " + ", ".join(f"{name} {each:.2f}" for name, each in numbers[f"{runs} runs"].items()))
    for name, seconds in commands().items():
        numbers[name] = seconds
        print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"wrote {measuring.write('planning', numbers)}")


if __name__ == "__main__":
    main()
