"""The public functions. Each imports what it needs when it is called: importing kdtune is quick and loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from kdtune.planning.plan import Plan


def plan(file: str | Path, profile: str = "paper", overrides: Sequence[str] = (), data: str | None = None) -> Plan:
    """The plan of a sweep file. Raises SweepFileError with everything that is wrong with it; DataError."""
    from kdtune import paths
    from kdtune.planning.plan import build_plan
    from kdtune.sweepfile.load import load_sweep

    return build_plan(load_sweep(file, profile, overrides), paths.data_folder(data))


def run_sweep(file: str | Path, **flags: Any) -> int:
    """Does what `python -m kdtune.sweep FILE` does, with the same flags as keywords; returns the exit status."""
    from kdtune.cli.sweep import Options, run

    return run(Options(Path(file), **flags))


def table(folder: str | Path, profile: str | None = None) -> pd.DataFrame:
    """The table of a sweep's folder, a row a run; `.attrs` names sweep, profile and data set. Raises TableError."""
    from kdtune.report.table import read

    return read(folder, profile)


def load(run_id: str, results: str | None = None) -> nn.Module:
    """The network of a finished run in eval mode, on the CPU: pixels in [0, 1] in, logits out.

    Raises LookupError for a run that is not done, DamagedError for weights that are not as they were written.
    """
    from kdtune import paths
    from kdtune.store.store import Store
    from kdtune.training.run import load_finished

    return load_finished(run_id, Store(paths.results_folder(results)))


def trainable(file: str | Path, **where: Any) -> Callable[[Mapping[str, Any]], None]:
    """A run of a sweep file as a function for a `tune.Tuner` of one's own; see `trials`."""
    from kdtune.launch.trainable import trainable as make

    return make(file, **where)
