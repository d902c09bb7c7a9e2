"""The flags of commands on a sweep file. `--help` reads this, so it imports little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import click

from kdtune import paths
from kdtune.planning.devices import AUTO, GpusPerRun
from kdtune.store import checkpoints
from kdtune.sweepfile.size import MAX_RUNS

NO_PRICE = "--max-cost needs --price (or KDTUNE_PRICE): what an hour of a GPU, or core, costs"


@dataclass(frozen=True)
class Options:
    """A sweep file, what is laid over it, and flags; no flag changes the numbers of a run."""

    file: Path | Mapping[str, Any]  # or what a file says
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
    gpus_per_run: GpusPerRun = None
    checkpoint_every: float = checkpoints.EVERY_S
    max_runs: int = MAX_RUNS
    max_cost: float | None = None
    price: float | None = None
    yes: bool = False
    retry: bool = False
    verbosity: int = 0
    extensions: tuple[str, ...] = ()  # files that define kinds of the user's own

    def __post_init__(self) -> None:
        from kdtune.planning.profiles import LOCAL

        if isinstance(self.gpus_per_run, str) and self.gpus_per_run != AUTO:
            raise ValueError(f"gpus_per_run: a number or {AUTO!r} would do, not {self.gpus_per_run!r}")
        if self.here or self.address == LOCAL:
            object.__setattr__(self, "address", None)  # no cluster

    @property
    def gpus(self) -> float | None:
        """Of a student, where somebody has said how many."""
        return None if self.gpus_per_run == AUTO else self.gpus_per_run

    @property
    def data_dir(self) -> Path:
        return paths.data_folder(self.data)


class Amount(click.FloatRange):
    """A number from 0 on. Neither nan, which no comparison finds too large, nor infinity."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Share(Amount):
    """The same, or AUTO."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return AUTO if value == AUTO else super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value} is neither a finite number from 0 on nor {AUTO}.", param, ctx)


def say(options: Options, text: str) -> None:
    """What a person reads: on stdout, or on stderr where stdout belongs to JSON."""
    if options.verbosity >= 0:
        click.echo(text, err=options.json)


with_files = click.option(
    "--with",
    "extensions",
    multiple=True,
    metavar="FILE.py",
    help="Knobs, losses, models, evaluators, data sets of your own. May be given several times.",
)


def options_of(command_function: Any) -> Any:
    """The flags that every command on a sweep file has."""
    for option in reversed(
        [
            click.argument("file", type=click.Path(path_type=Path)),
            click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]..."),
            click.option("--profile", help="paper, quick, laptop, or another that the file offers."),
            with_files,
            click.option("--seeds", type=click.IntRange(min=1), help="Number of students per point."),
            click.option("--results", help="Folder or URI of the results [KDTUNE_RESULTS, default: results]."),
            click.option("--data", help="Folder of the data sets [KDTUNE_DATA, default: a cache folder]."),
            click.option("--max-runs", type=click.IntRange(min=1), default=MAX_RUNS, help="Refuse larger sweeps."),
            click.option("--json", is_flag=True, help="One JSON object on stdout, all else on stderr."),
        ]
    ):
        command_function = option(command_function)
    return command_function
