"""Where a result comes from: code, libraries, machine, time, the teacher that was chosen, the epoch that was kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtune.data.loading import Data

LIBRARIES = ("torch", "torchvision", "ray", "numpy")  # what numbers, or the messages of a cluster, hang on
# What git gives its hooks: with it `-C` means nothing (git rev-parse --local-env-vars).
ELSEWHERE = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"}
TRAVELLED = "KDTUNE_CODE"  # `origin` as JSON, beside a copy of the package that a cluster was given for a sweep


def provenance(
    data: Data,
    device: str,
    began: float,
    teacher: dict[str, Any],
    kept: dict[str, Any] | None = None,
    sources: str | None = None,
    measuring: dict[str, float] | None = None,
) -> dict[str, Any]:
    """`began` is a reading of time.monotonic; `teacher` is empty for a run without one, `kept` for the last epoch;
    `measuring` are the seconds that evaluators took, by what their metrics begin with.

    `sources` is the digest of the code that trained (`kdtune.sources`).
    """
    import torch

    on_gpu = device.startswith("cuda")
    return {
        **code(),
        "sources": sources,
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := installed(name))}
        | {"kdtune": origin()["version"]},
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 3),
        **({"evaluation_seconds": measuring} if measuring else {}),
        "shape": list(data.shape),
        "classes": data.classes,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **({"teacher": teacher} if teacher else {}),
        **({"kept": kept} if kept else {}),
    }


def installed(package: str) -> str | None:
    """Its version; None where there is none: a run in this process (`--here`) needs no Ray, say."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def code() -> dict[str, Any]:
    """The commit of this code and whether files differ from it; None where kdtune is installed without its history."""
    return {name: value for name, value in origin().items() if name != "version"}


@cache
def origin() -> dict[str, Any]:
    """Of this code commit, `dirty` and version, each None where nothing says. Of code that travelled, at its start."""
    if told := os.environ.get(TRAVELLED):
        return dict(json.loads(told))
    root = Path(__file__).parents[2]
    unknown = {"commit": None, "dirty": None, "version": installed("kdtune")}
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return unknown  # installed inside somebody else's repository
        commit, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return unknown
    return unknown | {"commit": commit, "dirty": bool(status)}


def _git(root: Path, *words: str) -> str:
    """Of the repository at `root`, whatever a hook says of another one, and without taking its lock."""
    environ = {name: value for name, value in os.environ.items() if name not in ELSEWHERE} | {"GIT_OPTIONAL_LOCKS": "0"}
    asked = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True, env=environ)
    return asked.stdout.strip()
