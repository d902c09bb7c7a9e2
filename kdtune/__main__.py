"""The `kdtune` command: sweep, plan, run, status, evaluate, table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from kdtune.cli import sweep
from kdtune.cli.sweep import Options, options_of


@click.group()
@click.version_option(package_name="kdtune")
def main() -> None:
    """Sweeps of noisy knowledge distillation: teachers, the best one chosen, students, robustness, figures."""


main.add_command(sweep.main, "sweep")


@main.command()
@options_of
@click.option("--address", envvar="RAY_ADDRESS", help="The cluster it would run on [RAY_ADDRESS].")
def plan(**flags: Any) -> None:
    """What the sweep FILE would run, what is done already, what it costs. The same as `sweep --dry-run`."""
    sys.exit(sweep.run(Options(dry_run=True, **flags)))


@main.command()
@options_of
@click.option("--only", required=True, help="Which run: dropout=0.2,seed=1 (its axes and seed), or id=3f2a...")
@click.option("--epochs", type=click.IntRange(min=1), help="Train so many epochs only; such a run has another id.")
@click.option("--pdb", is_flag=True, help="Open the debugger where a run fails.")
def run(only: str, epochs: int | None, pdb: bool, **flags: Any) -> None:
    """Does one run of FILE, and the teachers it waits for, in this process and without Ray."""
    from kdtune.cli.run import run_single

    sys.exit(run_single(Options(here=True, **flags), only, epochs, pdb))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--profile", help="Which profile, where several lie in the folder.")
def status(folder: Path, profile: str | None) -> None:
    """How the runs of a sweep's FOLDER (results/fickle) stand, from its plan and the store."""
    from kdtune.cli.status import print_status

    sys.exit(print_status(folder, profile))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--evaluation", required=True, help="pgd, or with its keys: '{pgd: {eps: [0.1], step: 0.01}}'.")
@click.option("--profile", help="Which profile, where several lie in the folder.")
@click.option("--data", help="Folder of the data sets [KDTUNE_DATA, default: a cache folder].")
@click.option("--address", envvar="RAY_ADDRESS", help="A running Ray cluster [RAY_ADDRESS, default: a local Ray].")
@click.option("--here", is_flag=True, help="In this process, without Ray.")
@click.option("--yes", is_flag=True, help="Start even if it takes more than 12 hours here.")
def evaluate(**flags: Any) -> None:
    """Measures the finished runs of a sweep's FOLDER (results/fickle) by something new. Trains nothing."""
    from kdtune.cli.evaluate import evaluate_late

    sys.exit(evaluate_late(**flags))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--profile", help="Which profile, where several lie in the folder.")
def table(folder: Path, profile: str | None) -> None:
    """The table of a sweep's FOLDER as CSV on stdout, a row a run."""
    from kdtune.report.table import TableError, profile_folder

    try:
        click.echo((profile_folder(folder, profile) / "results.csv").read_text(), nl=False)
    except (TableError, OSError) as error:
        click.echo(f"refused: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(prog_name="kdtune")
