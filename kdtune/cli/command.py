"""The command `sweep` as it is typed: its flags. What it does is in `cli.sweep`, which `--help` does not wait for."""

from __future__ import annotations

from typing import Any

import click

from kdtune.cli.console import Verb, leave
from kdtune.cli.options import NO_PRICE, Amount, Options, Share, options_of
from kdtune.store import checkpoints


@click.command(cls=Verb)
@options_of
@click.option("--address", envvar="RAY_ADDRESS", help="A running Ray cluster [RAY_ADDRESS, default: a local Ray].")
@click.option("--here", is_flag=True, help="All runs in this process, one after the other, without Ray.")
@click.option("--dry-run", is_flag=True, help="Say what would run, what is done and what it costs.")
@click.option("--max-concurrent", type=click.IntRange(min=1), help="At most so many runs at a time.")
@click.option("--gpus-per-run", type=Share(), metavar="NUMBER|auto", help="GPUs of a student, such as 0.25, or auto.")
@click.option("--checkpoint-every", type=Amount(), default=checkpoints.EVERY_S, help="Seconds.")
@click.option("--max-cost", type=Amount(), help="Refuse what would cost more US dollars, by --price.")
@click.option("--price", type=Amount(), envvar="KDTUNE_PRICE", help="Dollars an hour of a GPU, or core [KDTUNE_PRICE].")
@click.option("--yes", is_flag=True, help="Start even if it takes more than 12 hours here.")
@click.option("--retry", is_flag=True, help="Take up again what `kdtune stop` has stopped.")
@click.option("--resume", is_flag=True, help="Changes nothing: the same command always goes on where it was.")
@click.option("-v", "--verbose", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
def sweep(verbose: bool, quiet: bool, resume: bool, **flags: Any) -> None:
    """Runs the sweep FILE: teachers over seeds, the best one chosen, students, evaluation."""
    if flags["max_cost"] is not None and flags["price"] is None:
        raise click.UsageError(NO_PRICE)
    from kdtune.cli.sweep import run

    leave(run(Options(verbosity=verbose - quiet, **flags)))
