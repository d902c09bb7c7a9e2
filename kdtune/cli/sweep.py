"""`python -m kdtune.sweep FILE`: read, plan, launch, summarise, exit status.

0 complete; 1 internal error; 2 bad usage or sweep file; 3 ended with failed, skipped, stopped or diverged runs;
4 refused before starting (data, storage, cluster, cost); 5 the storage went away for minutes; 129 / 130 / 143
interrupted. After 3, 5 and an interruption the same command goes on; with what was stopped by hand, by --retry.
"""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import click

from kdtune import extensions, paths
from kdtune.cli.console import json_to_stdout, losable_output
from kdtune.cli.options import Options, say
from kdtune.cli.refused import Refused, status_of
from kdtune.cli.start import estimate_of, launch, observe, prepare
from kdtune.launch.interrupt import Interrupt
from kdtune.planning import cost, profiles
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.place import ROLES
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.profiles import LOCAL
from kdtune.planning.searching import Searching
from kdtune.planning.twins import on_twins
from kdtune.planning.watching import Source
from kdtune.report import searched, summary
from kdtune.report.folder import View, described
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.stopping import take_up
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep
from kdtune.sweepfile.size import TooManyRuns
from kdtune.sweepfile.source import Source as Read
from kdtune.sweepfile.source import read_source

# What a command that goes on needs besides the file, where it is not as usual.
AGAIN = (
    *("profile", "seeds", "results", "data", "address", "max_runs"),
    *("max_concurrent", "gpus_per_run", "checkpoint_every", "price", "max_cost"),
)


def run(options: Options) -> int:
    """The whole command; returns its exit status."""
    with losable_output("" if options.dry_run else "the sweep"), json_to_stdout(options.json) as print_json:
        return status_of(lambda: _run(options, print_json))


def _run(options: Options, print_json: Any) -> int:
    file, first_line = read(options)
    plan = build_plan(file, options.data_dir)
    standing = Standing(Store(paths.results_folder(options.results)), plan.evaluators)
    standing.store.objects.knock()
    search = Searching(file, plan, options.data_dir, standing) if file.search is not None else None
    plan = search.plan if search else plan
    view = View(standing, plan, file.asked, search=search)
    say(options, first_line)
    if (change := view.change(file)) is not None:
        say(options, change)
    if options.dry_run:
        return dry_run(options, plan, standing, print_json, search)
    return sweep(options, file, plan, view, print_json, again(options), search)


def read(options: Options, source: Read | None = None) -> tuple[SweepFile, str]:
    """The sweep file under its profile, and the line that says which profile and why. Refused where it is too large.

    `source`: the file, where it has been read already.
    """
    extensions.use(extensions.read(options.extensions))
    source = source or read_source(options.file)
    offered = list(source.profiles)
    name, why = profiles.choose(options.profile, options.address, offered)
    overrides = list(options.overrides) + ([f"seeds={options.seeds}"] if options.seeds is not None else [])
    try:
        file = load_sweep(source, name, overrides, max_runs=options.max_runs)
    except TooManyRuns as error:
        raise Refused(str(error)) from error
    return file, profiles.line(name, why, file.changes, offered)


def dry_run(options: Options, plan: Plan, standing: Standing, print_json: Any, search: Searching | None = None) -> int:
    """What would run, what is done already, what it costs. Nothing is written, and nothing is proposed."""
    whole = search.foreseen() if search else plan
    now = standing.states(whole.runs)
    if options.retry:
        now = {id: standing.look(id).untried if state is State.STOPPED else state for id, state in now.items()}
    known = {id: now[id] for id in plan.runs}
    if options.json:
        about_search = {"search": searched.about(search)} if search else {}
        print_json({**about(plan), **about_search, "counts": Counter(known.values()), **described(plan, known)})
        return 0
    click.echo(f"{plan.name} on {plan.dataset}, profile {plan.profile}")
    for role in ROLES:
        mine = {id: state for id, state in known.items() if plan.runs[id].role == role}
        if mine or role != "source":
            click.echo(f"  {len(mine):4d} {role}{'s' * (len(mine) != 1)}: {summary.words(Counter(mine.values()))}")
    if plan.shared:
        click.echo(f"  {plan.shared} of them are asked for at more than one place: trained once, a row for each")
    click.echo("  what other sweeps finished is done")
    if stopped := sum(state is State.STOPPED for state in known.values()):
        click.echo(f"  {stopped} stopped by hand, and what learns from them, wait for --retry")
    estimate = estimate_of(options, whole, now, standing)
    for line in searched.foreseen(search, estimate.device) if search else ():
        click.echo(f"  {line}")
    click.echo(f"  {estimate}")
    untrained = [id for id in now if standing.look(id).done is None]
    for advice in (cost.on_responses(whole, untrained, estimate), on_twins(whole)):
        if advice:
            click.echo(f"  {advice}")
    for place in plan.places if options.verbosity > 0 else ():
        click.echo(f"  {now[place.id]:9s} {place.id} {place.name}")
    return 0


def sweep(
    options: Options,
    file: SweepFile,
    plan: Plan,
    view: View,
    print_json: Any,
    command: str,
    source: Source | None = None,
) -> int:
    """Runs what is not done of a plan, and of what `source` adds to it, keeps the sweep's folder up to date, says what
    came of it, and what `command` does it again."""
    store = view.standing.store
    claim = store.claim(f"sweep/{view.key}")
    if claim is None:
        owner = store.owner(f"sweep/{view.key}") or {}
        raise Refused(
            f"{view.place} is being worked on by process {owner.get('pid')} on {owner.get('host')}; wait for it or end "
            "it. Another sweep, or this one with another profile, may run beside it: they share their runs"
        )
    began = time.monotonic()
    with Interrupt() as interrupt:
        with claim:
            if options.retry:
                take_up_stopped(options, view)
            dispatch = Dispatch(plan, view.standing, source)
            dispatch.on_growth = lambda new: view.grow(dispatch.plan)
            worked = not dispatch.over
            if worked:
                try:
                    prepare(options, dispatch)
                except Refused:
                    if interrupt.signal:
                        return 128 + interrupt.signal
                    raise
            rows = view.write(file, dispatch.states)
            try:
                with closing(observe(options, file, dispatch, view, command)) as observer:
                    if not dispatch.over:
                        try:
                            launch(options, dispatch, observer, interrupt, claim)
                        finally:
                            dispatch.stop()
                            rows = view.write(file, dispatch.states)
            except StorageError as lost:
                if lost.gone:
                    claim.abandon()
                    return without_storage(lost, command)
                click.echo(f"the table of this sweep is not as it should be: {lost}", err=True)
                dispatch.stop(str(lost))
                rows = view.rows(dispatch.states)
        if worked and not dispatch.storage_is_gone:
            leave_report(view)
        seconds = round(time.monotonic() - began, 1)
        if options.json:
            found = {"search": searched.about(view.search)} if view.search else {}
            print_json({**about(plan), **found, "results": view.place, "counts": dispatch.counts, "seconds": seconds})
        if dispatch.stopped:
            click.echo(f"\nstopped: {dispatch.stopped}", err=True)
        for line in ("", *summary.closing(dispatch.plan, dispatch, view, rows, seconds, command)):
            say(options, line)
        if interrupt.signal:
            return 128 + interrupt.signal
        if dispatch.storage_is_gone:
            return 5
        return 0 if set(dispatch.counts) <= {State.DONE} and not dispatch.stopped else 3


def take_up_stopped(options: Options, view: View) -> None:
    """Runs of this plan that were stopped by hand may start again."""
    if freed := take_up(view.standing.store.objects, view.plan.runs):
        view.standing.refresh(*freed)
        say(options, f"{len(freed)} stopped run{'s' * (len(freed) != 1)} taken up again")


def leave_report(view: View) -> None:
    """report.html in the sweep's folder, where that is a folder; what goes wrong with it is told, and ends nothing."""
    if view.standing.store.objects.local is None:
        return
    from kdtune.report.page import page

    try:
        (view.local / "report.html").write_text(page(view.local), encoding="utf-8")
    except Exception as error:  # whatever it is, the runs are done and their table is written
        click.echo(f"warning: report.html was not written: {type(error).__name__}: {error}", err=True)


def without_storage(lost: StorageError, command: str) -> int:
    """What is said where not even the table can be written any more; the exit status."""
    click.echo(
        f"\nstopped: {lost}\nWhat was finished is stored there, runs under way go on from their last checkpoints. As "
        f"soon as it answers again:\n{command}",
        err=True,
    )
    return 5


def again(options: Options) -> str:
    """The command that does this again, in this environment; what is finished is not repeated."""
    if isinstance(options.file, Mapping):
        return "the same call of kdtune.run_sweep"
    words = ["python", "-m", "kdtune.sweep", str(options.file), *options.overrides]
    words += [word for path in options.extensions for word in ("--with", str(path))]
    for flag in AGAIN:
        value, usual = getattr(options, flag), Options.__dataclass_fields__[flag].default
        if value != usual:
            words += [f"--{flag.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    if options.address is None and not options.here and os.environ.get("RAY_ADDRESS"):
        words += ["--address", LOCAL]  # else the variable would name a cluster
    return shlex.join([*words, *(["--yes"] * options.yes), *(["--here"] * options.here)])


def about(plan: Plan) -> dict[str, str]:
    return {"sweep": plan.name, "profile": plan.profile, "dataset": plan.dataset}
