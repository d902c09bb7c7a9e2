"""The public functions. Each imports what it needs when it is called: importing kdtune is quick and loads no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from kdtune.planning.plan import Plan


Overrides = Sequence[str] | Mapping[str, Any]  # ["recipe.epochs=3"] or {"recipe.epochs": 3}


def plan(
    file: str | Path | Mapping[str, Any],
    profile: str | None = None,
    overrides: Overrides = (),
    data: str | None = None,
    extensions: Sequence[str | Path] = (),
) -> Plan:
    """The plan of a sweep, under the profile that the command would take if none is named.

    `file` may be what a sweep file says, as a mapping. `extensions`: files of your own, as `--with` names them. Of a
    search the plan has what the file lists: what it has proposed, its results know.
    Raises SweepFileError with everything that is wrong; DataError; TooManyRuns; ExtensionError.
    """
    from kdtune import extensions as own
    from kdtune import paths
    from kdtune.planning import profiles
    from kdtune.planning.plan import build_plan
    from kdtune.sweepfile.load import load_sweep
    from kdtune.sweepfile.source import read_source

    own.use(own.read(extensions))
    source = read_source(file)  # once: it may be a pipe
    return build_plan(load_sweep(source, profiles.of_file(source, profile), _texts(overrides)), paths.data_folder(data))


def run_sweep(file: str | Path | Mapping[str, Any], overrides: Overrides = (), **flags: Any) -> int:
    """Does what `python -m kdtune.sweep FILE` does, and returns the exit status. `file` may be what a sweep file says,
    as a mapping. Keywords: the fields of `kdtune.cli.options.Options`, which are named as the flags are, but for
    `extensions`, which are the files of `--with`; `verbosity` is -1, 0 or 1."""
    from kdtune.cli.options import Options
    from kdtune.cli.sweep import run

    place = file if isinstance(file, Mapping) else Path(file)
    return run(Options(place, _texts(overrides), **{"address": os.environ.get("RAY_ADDRESS")} | flags))


def _texts(overrides: Overrides) -> tuple[str, ...]:
    """Overrides as a command line has them."""
    import json

    from kdtune.sweepfile.values import grown

    if isinstance(overrides, Mapping):
        return tuple(f"{path}={json.dumps(grown(value))}" for path, value in overrides.items())
    return tuple(overrides)


def table(folder: str | Path, profile: str | None = None) -> pd.DataFrame:
    """The table of a sweep's folder, a row a place; `.attrs` names sweep, profile and data sets. Raises TableError."""
    from kdtune.report.table import read

    return read(folder, profile)


def load(
    run: str,
    results: str | None = None,
    extensions: Sequence[str | Path] = (),
    of: Literal["last", "average"] | None = None,
) -> nn.Module:
    """The network of a finished run in eval mode, on the CPU: pixels in [0, 1] in, logits out.

    `run` is an id, four or more digits that only one begins with, or a name such as `student dropout=0.2 seed=1`;
    `results` the results, or a sweep's folder in them: there a name means a run of that sweep. Raises LookupError for
    a run that is not there, not done, or one of several; DamagedError for weights that are not as they were written.
    `extensions`: files of your own, where the network's model is in one. `of`: other weights that the run has kept, as
    at an evaluator.
    """
    from kdtune import extensions as own
    from kdtune import paths
    from kdtune.report.lookup import looked_up, store_of
    from kdtune.store.layout import BESIDE, WEIGHTS
    from kdtune.store.store import Store
    from kdtune.training.network import load_finished

    own.use(own.read(extensions))
    place = paths.results_folder(results)
    return load_finished(looked_up(run, place), Store(store_of(place)), file=BESIDE[of] if of else WEIGHTS)


def trainable(file: str | Path, **where: Any) -> Callable[[Mapping[str, Any]], None]:
    """A run of a sweep file as a function for a `tune.Tuner` of one's own; see `kdtune.launch.trainable`."""
    from kdtune.launch.trainable import trainable as make

    return make(file, **where)
