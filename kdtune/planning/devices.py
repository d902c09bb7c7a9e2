"""What runs are computed on, as far as an estimate has to know; and what of it this machine has. Loads no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal


@dataclass(frozen=True)
class Device:
    """How fast one device is: multiply-adds per second in large layers, and seconds that a training step costs besides.

    What a step costs besides is many small calls. With images of 8 x 8 pixels it is most of the time.
    """

    name: str
    rate: float
    step: float


# Rough. Measured in CPU time with torch 2.11 on one thread of an AMD EPYC core: WRN-16-2 trains on 3 x 32 x 32 pixels,
# batch 128, at 3.9e10 multiply-adds a second; on 8 x 8 pixels a batch of 32 to 128 of WRN-10-1, WRN-16-1 or WRN-16-2
# takes 4 to 7 ms longer than at that rate, of a CNN of three layers 2 ms.
CPU_CORE = Device("CPU core", rate=3.9e10, step=5e-3)
# Not measured: what float32 training of small residual networks reaches, uncompiled, on a GPU of a data centre.
GPU = Device("GPU", rate=2e12, step=1e-2)


SHARE = 0.25  # of a GPU, for a student
AUTO: Final = "auto"
GpusPerRun = float | Literal["auto"] | None  # of a student; AUTO: as is measured to be best; None: nobody has said


def available(device: Device) -> int:
    """How many of them this machine has; cores are those that this process may use."""
    if device.name == GPU.name:
        return max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_usable_gpu() -> bool:
    """Whether the installed torch can use a GPU here. Torch is asked in a process of its own, if there is a card."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return False
    asked = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked, check=False, stderr=subprocess.DEVNULL).returncode == 0
