"""What must be so on a machine that trains runs of a sweep, asked on the machine itself before its first one."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from kdtune import sources
from kdtune.extensions import Extension, ExtensionError, in_use, use
from kdtune.run import Run
from kdtune.store.objects import StorageError
from kdtune.store.store import Store
from kdtune.training.provenance import LIBRARIES, installed


class NoCuda(Exception):
    """A GPU was booked on a machine where torch cannot use one."""


class Unfit(Exception):
    """A machine cannot train runs of this sweep; the message names it and says why."""


@dataclass(frozen=True)
class Expected:
    """What the command that started a sweep has, and every machine that trains its runs should have."""

    versions: tuple[tuple[str, str], ...]
    results: str
    data_dir: str
    claim: tuple[str, str]  # name and attempt of the claim that the command holds in `results` while it runs
    extensions: tuple[tuple[str, str], ...] = ()  # path and text of each, see `kdtune.extensions`


def expected(results: str, data_dir: Path, claim: tuple[str, str]) -> Expected:
    """What this process has; see `Expected`."""
    return Expected(versions(), results, str(data_dir), claim, tuple((each.path, each.text) for each in in_use()))


def versions() -> tuple[tuple[str, str], ...]:
    """Of this process: Python, kdtune with the digest of its code, and the packages that numbers hang on.

    What a build is for (`2.11.0+cpu`) is left out: it differs between a head and its GPU machines.
    """
    return (
        ("Python", platform.python_version()),
        ("kdtune", f"code {sources.of_package()[:12]}"),
        *((name, (installed(name) or "none").partition("+")[0]) for name in LIBRARIES),
    )


def check(expected: Expected, runs: Iterable[str], gpus: float) -> None:
    """Raises Unfit unless this machine has what is expected, the data of these runs (as JSON), and CUDA for `gpus`."""
    problems: list[str] = []
    try:
        import_module("kdtune.training.run")  # whatever training loads, of packages and of their own libraries
        use([Extension(*each) for each in expected.extensions])
        _common(expected)
        problems += _data(runs, Path(expected.data_dir))
        if gpus:
            cuda(gpus)
    except ImportError as error:
        problems.append(f"{error}: install there what constraints.txt names, for the Python of its Ray")
    except (ExtensionError, NoCuda, Unfit) as error:
        problems.append(str(error))
    if problems:
        raise Unfit(f"machine {name()}: {'; '.join(problems)}")


def name() -> str:
    """This machine, as its owner knows it: on a cluster often by its address alone."""
    import ray

    return f"{platform.node()} ({ray.util.get_node_ip_address()})"


@cache
def _common(expected: Expected) -> None:
    """Raises Unfit for what is wrong whichever run it is. Asked once a process: it reads the store, and all code."""
    own = dict(versions())
    other = {what: f"{what} {own[what]}, not {asked}" for what, asked in expected.versions if own[what] != asked}
    problems = []
    if code := other.pop("kdtune", ""):  # it travels with the command
        problems.append(f"it was given {code}: if files of kdtune have just been changed, give the command again")
    if other:
        problems.append(f"it has {', '.join(other.values())}: install there from the same constraints.txt")
    store = Store(expected.results)
    claim, attempt = expected.claim
    try:
        if store.claims.attempt_of(claim) != attempt:  # whatever the clocks say
            problems.append(
                f"it does not see there what this command wrote to {store.objects.path('')}: is --results a place that "
                "all machines share?"
            )
        else:
            store.objects.probe()
    except StorageError as error:
        problems.append(str(error))
    if problems:
        raise Unfit("; ".join(problems))  # and not remembered: it may be mended


def _data(runs: Iterable[str], data_dir: Path) -> list[str]:
    """What is missing of the data of these runs, or is other data than was planned with. They stay loaded."""
    from kdtune.data.error import DataError
    from kdtune.data.loading import load

    problems = []
    for run in map(Run.model_validate_json, runs):
        try:
            load(run.dataset, data_dir, "cpu", run.content)
        except (DataError, OSError) as error:
            problems.append(str(error))
    return problems


def cuda(gpus: float) -> str:
    """The device of a run that booked GPUs. Raises NoCuda: never the CPU in silence."""
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise NoCuda(
            f"{gpus:g} GPU was booked on {platform.node()}, where torch {torch.__version__} ({built}) finds none: see "
            "to its driver (nvidia-smi), or train on CPUs with --gpus-per-run 0"
        )
    return "cuda"
