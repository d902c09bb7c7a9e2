"""Where a result comes from: code, libraries, machine, time, the teacher that was chosen, the epoch that was kept."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtune.data.loading import Data

LIBRARIES = ("torch", "torchvision", "ray", "numpy", "kdtune")


def provenance(
    data: Data, device: str, began: float, teacher: dict[str, Any], kept: dict[str, Any] | None = None
) -> dict[str, Any]:
    """`began` is a reading of time.monotonic; `teacher` is empty for a run without one, `kept` for the last epoch."""
    import torch

    on_gpu = device.startswith("cuda")
    return {
        **code(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 3),
        "shape": list(data.shape),
        "classes": data.classes,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **({"teacher": teacher} if teacher else {}),
        **({"kept": kept} if kept else {}),
    }


@cache
def code() -> dict[str, Any]:
    """The commit of this code and whether files differ from it; None where kdtune is installed without its history."""
    root = Path(__file__).parents[2]
    try:
        top = subprocess.run(
            ["git", "-C", root, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True
        )
        if Path(top.stdout.strip()).resolve() != root.resolve():  # installed inside somebody else's repository
            return {"commit": None, "dirty": None}
        commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
