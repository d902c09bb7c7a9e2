"""`python -m kdtune.sweep FILE`: read, plan, launch, summarise, exit status.

0 complete; 1 internal error; 2 bad usage or sweep file; 3 finished with failed, skipped or diverged runs; 4 refused
before starting (data, storage, cluster, cost); 130 / 143 interrupted: the same command goes on.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kdtune import paths
from kdtune.cli import profiles
from kdtune.cli.console import json_to_stdout
from kdtune.data.files import DataError
from kdtune.evaluation.evaluator import EvaluationError
from kdtune.launch.interrupt import Interrupt
from kdtune.planning import cost
from kdtune.planning.dispatch import Dispatch, Watcher
from kdtune.planning.plan import Plan, build_plan
from kdtune.report import summary
from kdtune.report.folder import View, described
from kdtune.store import checkpoints
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep, profiles_of
from kdtune.sweepfile.tree import SweepFileError

CONFIRM_ABOVE_H = 12.0


@dataclass(frozen=True)
class Options:
    """The flags. What can change a number is in the file; nothing here can."""

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
    yes: bool = False
    verbosity: int = 0

    @property
    def data_dir(self) -> Path:
        return paths.data_folder(self.data)


class Refused(Exception):
    """The sweep is not started: data, storage, cluster or cost. Exit status 4."""


def run(options: Options) -> int:
    """The whole command; returns its exit status."""
    with json_to_stdout(options.json) as print_json:
        try:
            file, first_line = read(options)
            plan = build_plan(file, options.data_dir)
            standing = Standing(Store(paths.results_folder(options.results)), plan.evaluators)
            say(options, first_line)
            if options.dry_run:
                return dry_run(options, plan, standing, print_json)
            return sweep(options, file, plan, View(standing, plan, options.overrides), print_json)
        except SweepFileError as error:
            click.echo(str(error), err=True)
            return 2
        except (DataError, StorageError, EvaluationError, Refused) as error:
            click.echo(f"refused: {error}", err=True)
            return 4


def read(options: Options) -> tuple[SweepFile, str]:
    """The sweep file under its profile, and the line that says which profile and why."""
    offered = profiles_of(options.file)
    name, why = profiles.choose(options.profile, options.address, offered)
    overrides = list(options.overrides) + ([f"seeds={options.seeds}"] if options.seeds is not None else [])
    file = load_sweep(options.file, name, overrides)
    return file, profiles.line(name, why, file.changes, offered)


def dry_run(options: Options, plan: Plan, standing: Standing, print_json: Any) -> int:
    """What would run, what is done already, what it costs. Nothing is written."""
    now = standing.states(plan.runs)
    if options.json:
        print_json({**about(plan), "counts": Counter(now.values()), "runs": described(plan, now)})
        return 0
    estimate = cost.estimate(plan, now, standing)
    click.echo(f"{plan.name} on {plan.dataset}, profile {plan.profile}")
    for role in ("teacher", "student"):
        mine = {id: state for id, state in now.items() if plan.runs[id].role == role}
        click.echo(f"  {len(mine):4d} {role}s: {summary.words(Counter(mine.values()))}")
    click.echo(f"  {plan.shared} more are asked for at several points and shared; what other sweeps finished is done")
    click.echo(f"  {estimate}")
    return 0


def sweep(options: Options, file: SweepFile, plan: Plan, view: View, print_json: Any) -> int:
    """Runs what is not done, keeps the sweep's folder up to date, says what came of it."""
    store = view.standing.store
    lease = store.claim(f"sweep/{view.key}")
    if lease is None:
        owner = store.owner(f"sweep/{view.key}") or {}
        raise Refused(
            f"{view.place} is being worked on by process {owner.get('pid')} on {owner.get('host')}; wait for it or end "
            "it. Another sweep, or this one with another profile, may run beside it: they share their runs"
        )
    began = time.monotonic()
    with lease, Interrupt() as interrupt:
        dispatch = Dispatch(plan, view.standing)
        if not dispatch.over:
            prepare(options, plan, dispatch)
        view.write(file, dispatch.states)
        observer = observe(options, plan, dispatch, view)
        try:
            if not dispatch.over:
                launch(options, plan, dispatch, observer, interrupt)
        finally:
            if not dispatch.over:
                dispatch.stop()
            rows = view.write(file, dispatch.states)
            observer.close()
    seconds = round(time.monotonic() - began, 1)
    if options.json:
        print_json({**about(plan), "results": view.place, "counts": dispatch.counts, "seconds": seconds})
    for line in ("", *summary.closing(plan, dispatch, view, rows, seconds, again(options))):
        say(options, line)
    if interrupt.signal:
        return 128 + interrupt.signal
    return 0 if set(dispatch.counts) <= {State.DONE} else 3


def prepare(options: Options, plan: Plan, dispatch: Dispatch) -> None:
    """All that can be known to fail before a run starts: storage, what evaluators need, cost, data."""
    dispatch.standing.store.objects.probe()
    for evaluator in plan.evaluation:
        evaluator.preflight()
    estimate = cost.estimate(plan, dispatch.states, dispatch.standing)
    say(options, str(estimate))
    if estimate.hours > CONFIRM_ABOVE_H and not options.address and not options.yes:
        if not sys.stdin.isatty() or options.json:
            raise Refused(
                f"about {estimate.hours:.0f} hours on this machine; add --yes to start it all the same, or take a "
                "smaller one: --profile quick"
            )
        if not click.confirm(f"This takes about {estimate.hours:.0f} hours here. Start it?", err=True):
            raise Refused("not confirmed")
    from kdtune.data.loading import preflight

    for dataset in dict.fromkeys(planned.run.dataset for planned in plan.runs.values()):
        preflight(dataset, options.data_dir)


def observe(options: Options, plan: Plan, dispatch: Dispatch, view: View) -> Watcher:
    from kdtune.report.observer import Observer, TensorBoard
    from kdtune.report.progress import Progress

    return Observer([Progress(plan, dispatch, verbosity=options.verbosity), TensorBoard(dispatch, view)])


def launch(options: Options, plan: Plan, dispatch: Dispatch, observer: Watcher, interrupt: Interrupt) -> None:
    """Through Ray, or in this process."""
    results = paths.results_folder(options.results)
    if options.here:
        from kdtune.launch.here import launch_here

        launch_here(dispatch, observer, options.data_dir, options.checkpoint_every, interrupt)
        return
    from kdtune.launch import tuner
    from kdtune.launch.trainable import job

    try:
        tuner.launch(
            dispatch,
            lambda planned: job(planned, plan, results, options.data_dir, options.checkpoint_every),
            observer,
            address=options.address,
            gpus_per_run=options.gpus_per_run,
            max_concurrent=options.max_concurrent,
            interrupted=lambda: interrupt.signal != 0,
        )
    except (tuner.CannotHold, ConnectionError) as error:
        raise Refused(str(error)) from error


def again(options: Options) -> str:
    """The command that does this again; what is finished is not repeated."""
    words = ["python", "-m", "kdtune.sweep", str(options.file), *options.overrides]
    for flag in ("profile", "seeds", "results", "data", "address"):
        if (value := getattr(options, flag)) is not None:
            words += [f"--{flag}", str(value)]
    return shlex.join(words + (["--here"] if options.here else []))


def about(plan: Plan) -> dict[str, str]:
    return {"sweep": plan.name, "profile": plan.profile, "dataset": plan.dataset}


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
            click.option("--json", is_flag=True, help="One JSON object on stdout, all else on stderr."),
        ]
    ):
        command_function = option(command_function)
    return command_function


@click.command()
@options_of
@click.option("--address", envvar="RAY_ADDRESS", help="A running Ray cluster [RAY_ADDRESS, default: a local Ray].")
@click.option("--here", is_flag=True, help="All runs in this process, one after the other, without Ray.")
@click.option("--dry-run", is_flag=True, help="Say what would run, what is done and what it costs.")
@click.option("--max-concurrent", type=click.IntRange(min=1), help="At most so many runs at a time.")
@click.option("--gpus-per-run", type=click.FloatRange(min=0), help="GPUs of a student, such as 0.25.")
@click.option("--checkpoint-every", type=click.FloatRange(min=0), default=checkpoints.EVERY_S, help="Seconds.")
@click.option("--yes", is_flag=True, help="Start even if it takes more than 12 hours here.")
@click.option("--resume", is_flag=True, help="Changes nothing: the same command always goes on where it was.")
@click.option("-v", "--verbose", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
def main(verbose: bool, quiet: bool, resume: bool, **flags: Any) -> None:
    """Runs the sweep FILE: teachers over seeds, the best one chosen, students, evaluation."""
    flags["address"] = None if flags["here"] or flags["address"] == "local" else flags["address"]
    sys.exit(run(Options(verbosity=verbose - quiet, **flags)))
