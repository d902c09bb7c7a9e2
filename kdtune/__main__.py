"""The `kdtune` command.

Its verbs: sweep, plan, run, status, evaluate, table, diff, best, report, bundle, import, explain, schema, forget,
stop, clean, doctor.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from kdtune.cli.command import sweep
from kdtune.cli.console import Verbs, leave
from kdtune.cli.options import Amount, Options, Share, options_of, with_files


@click.group(cls=Verbs)
@click.version_option(package_name="kdtune")
def main() -> None:
    """Sweeps of noisy knowledge distillation: teachers, the best one chosen, students, robustness, figures."""


main.add_command(sweep)


@main.command()
@options_of
@click.option("--address", envvar="RAY_ADDRESS", help="The cluster it would run on [RAY_ADDRESS].")
@click.option("--max-concurrent", type=click.IntRange(min=1), help="At most so many runs at a time.")
@click.option("--gpus-per-run", type=Share(), metavar="NUMBER|auto", help="GPUs of a student, such as 0.25, or auto.")
@click.option("--price", type=Amount(), envvar="KDTUNE_PRICE", help="Dollars an hour of a GPU, or core [KDTUNE_PRICE].")
@click.option("-v", "--verbose", is_flag=True, help="Every run by state, id and name.")
def plan(verbose: bool, **flags: Any) -> None:
    """What the sweep FILE would run, what is done already, what it costs. The same as `sweep --dry-run`."""
    from kdtune.cli.sweep import run

    sys.exit(run(Options(dry_run=True, verbosity=int(verbose), **flags)))


@main.command()
@options_of
@click.option(
    "--only",
    required=True,
    help="Which run: dropout=0.2,seed=1 (its axes and seed), id=3f2a (four digits or more), search.number=3.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Train so many epochs only; such a run has another id.")
@click.option("--pdb", is_flag=True, help="Open the debugger where a run fails.")
@click.option(
    "--profile-trace",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a trace of ten steps of each run, for Perfetto or TensorBoard's profiler.",
)
def run(only: str, epochs: int | None, pdb: bool, profile_trace: Path | None, **flags: Any) -> None:
    """Does one run of FILE, and the teachers it waits for, in this process and without Ray."""
    from kdtune.cli.run import run_single

    sys.exit(run_single(Options(here=True, **flags), only, epochs, pdb, profile_trace))


@main.command()
@click.argument("folder")
@click.option("--profile", help="Which profile, where several lie in the folder.")
def status(folder: str, profile: str | None) -> None:
    """How the runs of a sweep's FOLDER (results/fickle) stand, from its plan and the store."""
    from kdtune.cli.status import print_status

    sys.exit(print_status(folder, profile))


@main.command()
@click.argument("folder")
@click.option("--evaluation", required=True, help="pgd, or with its keys: '{pgd: {eps: [0.1], step: 0.01}}'.")
@with_files
@click.option("--profile", help="Which profile, where several lie in the folder.")
@click.option("--data", help="Folder of the data sets [KDTUNE_DATA, default: a cache folder].")
@click.option("--address", envvar="RAY_ADDRESS", help="A running Ray cluster [RAY_ADDRESS, default: a local Ray].")
@click.option("--here", is_flag=True, help="In this process, without Ray.")
@click.option("--yes", is_flag=True, help="Start even if it takes more than 12 hours here.")
def evaluate(**flags: Any) -> None:
    """Measures the finished runs of a sweep's FOLDER (results/fickle) by something new. Trains nothing."""
    from kdtune.cli.evaluate import evaluate_late

    leave(evaluate_late(**flags))


@main.command()
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True)
@click.option("--profile", help="Which profile, where several lie in a folder.")
@click.option("--rows", metavar="AXES", help="Settings down the side: dropout, or dropout,epochs.")
@click.option("--across", metavar="AXIS", help="One more axis, across the columns.")
@click.option("--columns", metavar="METRICS", help="test/accuracy,robust/pgd20 [the sweep's headlines].")
@click.option("--baseline", metavar="AXIS=VALUE", help="Mark what differs from it, paired by seed: dropout=0.")
@click.option("--only", metavar="AXIS=VALUE", help="Of these runs alone: epochs=30,role=student.")
@click.option("--format", "form", type=click.Choice(["text", "csv", "md", "latex"]), help="[text with --rows].")
def table(folders: tuple[str, ...], profile: str | None, form: str | None, **asked: str | None) -> None:
    """The table of a sweep's FOLDER as CSV on stdout, a row for each place that asks for a run; or with --rows means
    over seeds, of several sweeps one below the other."""
    from kdtune.cli.table import print_means, print_rows

    if asked["rows"] is None:
        sys.exit(print_rows(folders, profile, form, asked))
    sys.exit(print_means(folders, profile, form or "text", asked))


@main.command()
@click.argument("first")
@click.argument("second")
@click.option("--columns", metavar="METRICS", help="test/accuracy,robust/pgd20 [the headlines of both].")
def diff(first: str, second: str, columns: str | None) -> None:
    """Two sweeps by their folders (results/fickle/laptop): settings that differ, shared runs, paired differences."""
    from kdtune.cli.table import print_difference

    sys.exit(print_difference(first, second, columns))


@main.command()
@click.argument("folder")
@click.option("--by", "metric", default="val/accuracy", show_default=True, metavar="METRIC")
@click.option("--only", metavar="AXIS=VALUE", help="Of these runs alone: epochs=30,role=teacher.")
@click.option("--profile", help="Which profile, where several lie in the folder.")
def best(folder: str, profile: str | None, metric: str, only: str | None) -> None:
    """The settings of a sweep's FOLDER by the mean of a metric over seeds, and the best run of all."""
    from kdtune.cli.table import print_best

    sys.exit(print_best(folder, profile, metric, only))


@main.command()
@click.argument("folder")
@click.option("--profile", help="Which profile, where several lie in the folder.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Another file than FOLDER's report.html."
)
def report(folder: str, profile: str | None, output: Path | None) -> None:
    """A sweep's FOLDER as one page that needs nothing else: table, figures, flags, provenance, checklist."""
    from kdtune.cli.report import write_report

    sys.exit(write_report(folder, profile, output))


@main.command()
@click.argument("folder")
@click.argument("output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--profile", help="Which profile, where several lie in the folder.")
def bundle(folder: str, output: Path, profile: str | None) -> None:
    """All finished runs of a sweep's FOLDER, its teachers too, in one tar FILE to hand on, with table and figures.

    The same results give the same bytes. A FILE that is there is not overwritten.
    """
    from kdtune.cli.bundle import write_bundle

    sys.exit(write_bundle(folder, output, profile))


@main.command("import")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--results", help="Folder or URI of the results [KDTUNE_RESULTS, default: results].")
def import_(path: Path, results: str | None) -> None:
    """Takes the runs of a FILE that `kdtune bundle` wrote into the results, and the sweep's table if it has none there.

    All is checked first. Runs that are there stay; one that is there with other weights is refused, with all others.
    """
    from kdtune.cli.bundle import import_bundle

    sys.exit(import_bundle(path, results))


@main.command()
@click.argument("path", metavar="[KEY.PATH]", default="")
@with_files
@click.option("--reference", is_flag=True, help="All of it, as docs/reference.md has it.")
def explain(path: str, extensions: tuple[str, ...], reference: bool) -> None:
    """What a sweep file may say at KEY.PATH (student.distillation), or at its top: keys, types, ranges, defaults."""
    from kdtune.cli import explain as explaining

    if reference:
        click.echo("\n".join(explaining.reference()))
        sys.exit(0)
    sys.exit(explaining.explain(path, extensions))


@main.command()
@with_files
def schema(extensions: tuple[str, ...]) -> None:
    """The JSON Schema of sweep files on stdout, by which an editor completes and checks them."""
    from kdtune.cli import explain as explaining

    sys.exit(explaining.print_schema(extensions))


@main.command()
@click.argument("place", metavar="FOLDER_OR_FILE")
@click.argument("ids", nargs=-1, metavar="[ID|NAME]...")
@click.option(
    "--only",
    help="Which runs: dropout=0.2,role=teacher (axes, seed, role; of a search search.number, search.confirms).",
)
@with_files
@click.option(
    "--outdated", is_flag=True, help="Runs and results of other code than this, as the last lines count them."
)
@click.option("--evaluation", metavar="NAME", help="Only what this evaluator measured of them: pgd.")
@click.option("--profile", help="Which profile, where several lie in the folder or the file offers them.")
@click.option("--results", help="Folder or URI of the results, with a file [KDTUNE_RESULTS, default: results].")
@click.option("--data", help="Folder of the data sets [KDTUNE_DATA, default: a cache folder].")
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask whether students go with their teachers.")
def forget(**flags: Any) -> None:
    """Takes finished runs away, to do them again: those of a sweep's FOLDER or FILE that are named.

    With a run go all that learned from it, at every level and in every sweep. They go to runs/trash.
    """
    from kdtune.cli.forget import Asked, forget_runs

    sys.exit(forget_runs(Asked(**flags)))


@main.command()
@click.argument("results", metavar="RESULTS")
@click.option("--yes", is_flag=True, help="Move them to runs/trash.")
def clean(results: str, yes: bool) -> None:
    """Lists runs of RESULTS, a folder or URI, to which nothing refers: no sweep's folder, no import, no live claim, no
    run that learned from them."""
    from kdtune.cli.clean import clean as clean_results

    sys.exit(clean_results(results, yes))


@main.command()
@click.argument("place", metavar="FOLDER_OR_FILE")
@click.argument("runs", nargs=-1, metavar="[ID|NAME]...")
@click.option(
    "--only", help="Which runs: dropout=0.2,seed=1 (axes, seed, role; of a search search.number, search.confirms)."
)
@with_files
@click.option("--reason", default="", help="Why, for others who share the results.")
@click.option("--profile", help="Which profile, where several lie in the folder or the file offers them.")
@click.option("--results", help="Folder or URI of the results, with a file [KDTUNE_RESULTS, default: results].")
@click.option("--data", help="Folder of the data sets [KDTUNE_DATA, default: a cache folder].")
def stop(**flags: Any) -> None:
    """Stops runs of a sweep's FOLDER or FILE by hand, while it runs or before, in every sweep that has them.

    A run ends after its epoch, which is kept as a checkpoint; what is evaluated is evaluated to the end. What has not
    begun is not started. `kdtune sweep --retry` takes them up again.
    """
    from kdtune.cli.stop import Asked, stop_runs

    sys.exit(stop_runs(Asked(**flags)))


@main.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@with_files
@click.option("--profile", help="paper, quick, laptop, or another that the sweep file offers.")
@click.option("--results", help="Folder or URI of the results [KDTUNE_RESULTS, default: results].")
@click.option("--data", help="Folder of the data sets [KDTUNE_DATA, default: a cache folder].")
@click.option("--address", envvar="RAY_ADDRESS", help="A running Ray cluster, whose machines are asked [RAY_ADDRESS].")
@click.option("--gpus-per-run", type=Share(), metavar="NUMBER|auto", help="GPUs of a student, as the sweep would ask.")
@click.option("--insecure", is_flag=True, help="A Ray without a token, open to other machines, is no failure.")
def doctor(file: Path | None, insecure: bool, **flags: Any) -> None:
    """What would fail later, told now: of this machine and of a cluster's, of a sweep FILE, or of a cluster FILE.

    A line a check; exit status 4 if something would fail.
    """
    from kdtune.cli.doctor import examine

    leave(examine(file, Options(file or Path(), **flags), insecure))


if __name__ == "__main__":
    main(prog_name="kdtune")
