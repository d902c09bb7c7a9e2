"""Where the time of a sweep goes: `python benchmarks/sweep.py [FILE] [KEY.PATH=VALUE ...]`; sweeps/fickle.yaml if none.

The sweep is run into an empty place at laptop scale, on every core, as `make sweep` does. Slot seconds are those that
the slots of the machine were there from the first run's start to the last one's end: runs spent them on parts of their
training, on each evaluator, on reading and writing; between runs slots waited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import measuring
from slots import started

TRAINING = ("data", "teacher", "student")


def parts(results: Path) -> Counter[str]:
    """Seconds of all runs together, by part."""
    found: Counter[str] = Counter()
    for path in results.glob("runs/*/*/provenance.json"):
        told = json.loads(path.read_text())
        rows = [json.loads(line) for line in path.with_name("history.jsonl").read_text().splitlines()]
        mine = Counter({f"training: {part}": sum(row.get(f"time/{part}", 0.0) for row in rows) for part in TRAINING})
        mine.update({f"evaluation: {name}": took for name, took in told.get("evaluation_seconds", {}).items()})
        found.update(mine)
        found["reading, writing, val/accuracy"] += told["seconds"] - sum(mine.values())
    return found


def main() -> None:
    words = sys.argv[1:] or ["sweeps/fickle.yaml"]
    slots = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [sys.executable, "-m", "kdtune.sweep", *words, "--results", str(results), "--profile", "laptop"]
        began = time.time()
        subprocess.run(command, check=True, capture_output=True)
        ended = time.time()
        first = min(started(path.name) for path in results.glob("runs/*/*T*-*"))
        last = max(path.stat().st_mtime for path in (results / "runs/done").iterdir())
        found = parts(results)
    span = last - first
    found["waiting"] = slots * span - sum(found.values())
    print(f"{' '.join(words)}: {ended - began:.1f} s, of which {first - began:.1f} s before the first run's start")
    print(f"and {ended - last:.1f} s after the last one's end; {slots} slots, {slots * span:.1f} slot seconds between:")
    for name, seconds in found.most_common():
        print(f"  {name:32} {seconds:8.1f} s {100 * seconds / (slots * span):6.1f} %")
    numbers = {"words": words, "slots": slots, "whole": ended - began, "start": first - began, "end": ended - last}
    print(f"wrote {measuring.write('sweep', numbers | {'slot seconds': found})}")


if __name__ == "__main__":
    main()
