"""The flags of commands on a sweep file, and what all of these commands say and refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import click

from kdtune import paths
from kdtune.data.error import DataError
from kdtune.evaluation.evaluator import EvaluationError
from kdtune.planning import profiles
from kdtune.report.folder import OtherSweep
from kdtune.report.table import TableError
from kdtune.store import checkpoints
from kdtune.store.objects import StorageError
from kdtune.sweepfile.size import MAX_RUNS
from kdtune.sweepfile.tree import SweepFileError


@dataclass(frozen=True)
class Options:
    """A sweep file, what is laid over it, and flags; no flag changes the numbers of a run."""

    file: Path
    overrides: tuple[str, ...] = ()
    profile: str | None = None
    seeds: int | None = None
    results: str | None = None
    data: str | None = None
    address: str | None = None
    here: bool = False
    dry_run: bool = False
    json: bool = False
    max_concurrent: int | None = None
    gpus_per_run: float | None = None
    checkpoint_every: float = checkpoints.EVERY_S
    max_runs: int = MAX_RUNS
    max_cost: float | None = None
    price: float | None = None
    yes: bool = False
    verbosity: int = 0

    def __post_init__(self) -> None:
        if self.here or self.address == profiles.LOCAL:
            object.__setattr__(self, "address", None)  # no cluster

    @property
    def data_dir(self) -> Path:
        return paths.data_folder(self.data)


class Refused(Exception):
    """The sweep is not started: data, storage, cluster or cost. Exit status 4."""


class Amount(click.FloatRange):
    """A number from 0 on. Neither nan, which no comparison finds too large, nor infinity."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def status_of(command: Callable[[], int], *more: type[Exception]) -> int:
    """The exit status of a command; where it raises what its user can mend, that is told: 2, or 4 (`cli.sweep`).

    `more` means as much where nothing has begun. From the midst of a sweep an OSError is no refusal: it is our fault.
    """
    refusals: tuple[type[Exception], ...] = (DataError, EvaluationError, OtherSweep, Refused, StorageError, *more)
    try:
        return command()
    except SweepFileError as error:
        click.echo(str(error), err=True)
        return 2
    except TableError as error:
        click.echo(f"refused: {error}", err=True)
        return 2
    except refusals as error:
        click.echo(f"refused: {error}", err=True)
        return 4


def say(options: Options, text: str) -> None:
    """What a person reads: on stdout, or on stderr where stdout belongs to JSON."""
    if options.verbosity >= 0:
        click.echo(text, err=options.json)


def options_of(command_function: Any) -> Any:
    """The flags that every command on a sweep file has."""
    for option in reversed(
        [
            click.argument("file", type=click.Path(path_type=Path)),
            click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]..."),
            click.option("--profile", help="paper, quick, laptop, or another that the file offers."),
            click.option("--seeds", type=click.IntRange(min=1), help="Number of students per point."),
            click.option("--results", help="Folder or URI of the results [KDTUNE_RESULTS, default: results]."),
            click.option("--data", help="Folder of the data sets [KDTUNE_DATA, default: a cache folder]."),
            click.option("--max-runs", type=click.IntRange(min=1), default=MAX_RUNS, help="Refuse larger sweeps."),
            click.option("--json", is_flag=True, help="One JSON object on stdout, all else on stderr."),
        ]
    ):
        command_function = option(command_function)
    return command_function
