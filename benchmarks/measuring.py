"""Ways of doing the same thing, timed in turn in one process, so that what else a machine does meets all of them.

What counts is the ratio of two ways within a round; of several rounds the median, and the lowest and the highest.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdtune.training.provenance import code

RESULTS = Path(__file__).parent / "results"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # what a CPU may be fast by


@dataclass(frozen=True)
class Seconds:
    """Of this process's CPU, all threads, and on the wall."""

    cpu: float
    wall: float


def timed(do: Callable[[], object]) -> Seconds:
    cpu, wall = time.process_time(), time.perf_counter()
    do()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Seconds]]:
    """Each way once for warmth, then all of them, one after the other, as often as there are rounds."""
    for do in ways.values():
        do()
    found: dict[str, list[Seconds]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, do in ways.items():
            found[name].append(timed(do))
    return found


def ratios(of: Sequence[Seconds], to: Sequence[Seconds], by: str = "cpu") -> tuple[float, float, float]:
    """How many times as long `of` took as `to`, by round, on the CPU or on the wall: median, lowest, highest."""
    found = [getattr(a, by) / getattr(b, by) for a, b in zip(of, to, strict=True)]
    return statistics.median(found), min(found), max(found)


def table(
    found: Mapping[str, Sequence[Seconds]], reference: str, per: float = 1.0, unit: str = "s", by: str = "cpu"
) -> str:
    """A line a way: median CPU and wall time, each divided by `per`, and how many times as fast as the reference."""
    lines = [f"{'':34} {'CPU ' + unit:>10} {'wall ' + unit:>10}   as fast as the first"]
    for name, each in found.items():
        cpu, wall = (statistics.median(getattr(one, kind) for one in each) / per for kind in ("cpu", "wall"))
        middle, low, high = ratios(found[reference], each, by)
        lines.append(f"{name:34} {cpu:10.4f} {wall:10.4f}   {middle:.2f} x ({low:.2f} to {high:.2f})")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What numbers hang on."""
    import torch

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if f" {flag} " in f"{info} "],
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        **code(),
    }


def write(name: str, numbers: Mapping[str, Any]) -> Path:
    """results/NAME.json: the numbers and the machine; another machine's file of that name is written over."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **numbers}, indent=1) + "\n")
    return path


def plain(found: Mapping[str, Sequence[Seconds]]) -> dict[str, list[dict[str, float]]]:
    return {name: [asdict(one) for one in each] for name, each in found.items()}
