"""How busy a sweep keeps the slots of a machine: `python benchmarks/slots.py [RUNS] [--seconds 0.85]`.

Many short runs that wait for nobody, through Ray, on every core. From the first run's start to the last one's end the
slots could have given so many seconds; runs took so many of them. What Ray's start takes stands beside it, and the same
runs through plain Ray Tune, which keeps nothing of them (`plain_tune.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import measuring

SWEEP = """\
name: slots
dataset: {{digits: {{}}, train_size: 100}}
seeds: {runs}
recipe:
  optimizer: {{sgd: {{lr: 0.05}}}}
  schedule: {{step: {{milestones: [0.5], factor: 0.1}}}}
  precision: float32
  batch_size: 20
  epochs: {epochs}
student: {{model: {{mlp: {{hidden: [8]}}}}}}
evaluation: [accuracy]
"""
PACE = 400  # epochs a second, about; what runs took is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.85, help="of a run, about")
    asked = parser.parse_args()
    slots = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        file, results = Path(folder) / "slots.yaml", Path(folder) / "results"
        file.write_text(SWEEP.format(runs=asked.runs, epochs=max(1, round(asked.seconds * PACE))))
        began = time.time()
        words = [sys.executable, "-m", "kdtune.sweep", str(file), "--results", str(results), "--profile", "paper"]
        subprocess.run(words, check=True, capture_output=True)
        whole = time.time() - began
        starts = [started(path.name) for path in results.glob("runs/*/*T*-*")]
        ends = [path.stat().st_mtime for path in (results / "runs/done").iterdir()]
        took = [json.loads(path.read_text())["seconds"] for path in results.glob("runs/*/*/provenance.json")]
        began = time.time()
        plain = [sys.executable, str(Path(__file__).with_name("plain_tune.py")), str(file)]
        said = subprocess.run(plain, check=True, capture_output=True, text=True).stdout
        tunes = time.time() - began, json.loads(said.splitlines()[-1])
    span = max(ends) - min(starts)
    overhead = span * slots / sum(took) - 1
    mean = sum(took) / len(took)
    print(f"{asked.runs} runs of {mean:.2f} s on {slots} slots: {span:.1f} s, {100 * overhead:.1f} % over")
    print(f"before the first run and after the last {whole - span:.1f} s")
    tune_whole, times = tunes
    tune_span = max(end for _, end in times) - min(start for start, _ in times)
    inside = sum(end - start for start, end in times)
    print(
        f"plain Ray Tune, processes reused: runs of {inside / len(times):.2f} s, {tune_span:.1f} s,"
        f" {100 * (tune_span * slots / inside - 1):.1f} % over; before and after {tune_whole - tune_span:.1f} s"
    )
    plainly = {"span": tune_span, "whole": tune_whole, "seconds": inside}
    numbers = {"runs": asked.runs, "slots": slots, "span": span, "whole": whole, "overhead": overhead, "seconds": took}
    numbers |= {"plain": plainly}
    print(f"wrote {measuring.write('slots', numbers)}")


def started(attempt: str) -> float:
    """The time in an attempt's name, in seconds since 1970."""
    return datetime.strptime(attempt.partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC).timestamp()


if __name__ == "__main__":
    main()
