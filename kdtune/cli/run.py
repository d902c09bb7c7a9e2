"""`kdtune run FILE --only dropout=0.2,seed=1`: one point of a sweep and its teachers, in this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kdtune import paths
from kdtune.cli import check
from kdtune.cli.console import json_to_stdout, losable_output
from kdtune.cli.options import Options, say
from kdtune.cli.refused import Refused, status_of
from kdtune.cli.sweep import read
from kdtune.launch.here import launch_here
from kdtune.launch.interrupt import Interrupt
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.points import students_of
from kdtune.planning.room import shortage
from kdtune.planning.searching import Searching, known_plan
from kdtune.report.folder import described
from kdtune.report.lookup import meant
from kdtune.report.progress import Progress
from kdtune.report.table import CONFIRMS
from kdtune.store.layout import run_folder
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.reader import parse_value
from kdtune.sweepfile.tree import COMMAND_LINE, command_line_error

BESIDE = ("seed", "role", "id")  # what --only may name beside the axes
NUMBER = "search.number"


def run_single(options: Options, only: str, epochs: int | None, debug: bool, traces: Path | None = None) -> int:
    """Does the runs that `only` names, and their teachers; prints their metrics. Returns the exit status."""
    if traces is not None:
        try:
            traces.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            click.echo(f"--profile-trace {traces}: no folder can be made there ({error.strerror})", err=True)
            return 2
    with losable_output("the run"), json_to_stdout(options.json) as print_json:
        return status_of(lambda: run_plan(options, *prepare(options, only, epochs), debug, print_json, traces))


def run_plan(
    options: Options,
    plan: Plan,
    standing: Standing,
    debug: bool,
    print_json: Callable[[Any], None],
    traces: Path | None = None,
) -> int:
    """All runs of a small plan, in this process; returns the exit status."""
    dispatch = Dispatch(plan, standing)
    progress = Progress(plan, dispatch, verbosity=options.verbosity)
    with Interrupt() as interrupt:
        launch_here(dispatch, progress, options.data_dir, options.checkpoint_every, interrupt, debug, traces)
    dispatch.stop()
    progress.close()
    if dispatch.stopped:
        click.echo(f"stopped: {dispatch.stopped}", err=True)
    if dispatch.storage_is_gone:
        return 5
    metrics = {id: standing.measured(id) for id in plan.runs}
    runs = [{**run, "metrics": metrics[run["id"]]} for run in described(plan, dispatch.states)["runs"]]
    print_json({"sweep": plan.name, "profile": plan.profile, "dataset": plan.dataset, "runs": runs})
    for id, planned in plan.runs.items():
        say(options, f"{dispatch.states[id]:9s} {planned.name}  {standing.store.objects.path(run_folder(id))}")
        if dispatch.states[id] in (State.SKIPPED, State.STOPPED) and id in dispatch.reasons:
            say(options, f"          {dispatch.reasons[id]}")
        for line in told(plan, metrics[id]):
            say(options, f"          {line}")
    if interrupt.signal:
        return 128 + interrupt.signal
    return 0 if set(dispatch.counts) == {State.DONE} else 3


def told(plan: Plan, metrics: Mapping[str, float | None]) -> Iterator[str]:
    """What stands for the run, a line each, and where the rest is: there may be hundreds."""
    shown = [metric.name for metric in plan.headlines if metrics.get(metric.name) is not None]
    yield from (f"{name} {metrics[name]:.4g}" for name in shown)
    if len(metrics) > len(shown):
        yield f"and {len(metrics) - len(shown)} more metrics: --json"


def prepare(options: Options, only: str, epochs: int | None) -> tuple[Plan, Standing]:
    """The runs that `only` names with their teachers, and how they stand. What can be known to fail has been told."""
    file, first_line = read(options)
    store = Store(paths.results_folder(options.results))
    whole, search = known_plan(file, options.data_dir, store)
    proposals = of_proposals(search) if search else None
    if epochs is not None:  # other runs, of which none confirms
        file = search.proposed_file if search else file
        whole = build_plan(file, options.data_dir, epochs)
        proposals = students_of(file, whole) if search else None
    plan = whole.only(wanted(only, whole, proposals))
    if not plan.runs:
        message = f"no run has {only}; kdtune plan -v lists them"
        if search and CONFIRMS in only:
            without = " and none with --epochs" if epochs is not None else ""
            message += f". None confirms before all proposals are known{without}: {search.progress}"
        raise command_line_error(("only",), message)
    say(options, first_line)
    standing = Standing(store, plan.evaluators)
    standing.store.objects.probe()
    states = standing.states(plan.runs)
    short = shortage(plan, states, standing, at_once=1)
    if problems := [short] if short else check.failing(plan, standing, states, options.data_dir):
        raise Refused(check.listed(problems))
    return plan, standing


def of_proposals(search: Searching) -> list[tuple[str, ...]]:
    """The runs of each proposal, those that confirm it too."""
    return [(*each.runs, *search.confirming.get(each.number, ())) for each in search.proposals]


def wanted(only: str, plan: Plan, proposals: Sequence[Collection[str]] | None = None) -> dict[str, Any]:
    """`dropout=0.2,seed=1` as values by axis, each as a sweep file would write it: `kd={alpha: 0.9, temperature: 4}`.

    Of a search, whose `proposals` are the ids of runs by number, also `search.number=3` and `search.confirms=true`.
    Raises SweepFileError for what is no axis of the plan, and for one that is written twice.
    """
    names = [*plan.axes, *BESIDE, *([NUMBER, CONFIRMS] if proposals is not None else [])]
    values: dict[str, Any] = {}
    for part in parts(only):
        axis, equals, text = part.strip().partition("=")
        if not equals or axis not in names:
            message = f"came {part.strip()!r}; write axis=value with one of {', '.join(names)}"
            raise command_line_error(("only",), message)
        if axis in values:
            raise command_line_error(
                ("only",), f"{axis} is written twice: one value each; several runs take several commands"
            )
        values[axis] = _id(text, plan) if axis == "id" else _value(text)
    return values if NUMBER not in values else _of_proposal(values, proposals or ())


def _of_proposal(values: dict[str, Any], proposals: Sequence[Collection[str]]) -> dict[str, Any]:
    """The same with the runs of a proposal for its number. SweepFileError where there is none."""
    number = values.pop(NUMBER)
    if type(number) is not int or not 0 <= number < len(proposals):
        made = f"0 to {len(proposals) - 1} are made so far" if proposals else "none is made so far"
        raise command_line_error(("only", NUMBER), f"came {number}; {made}")
    if "id" in values:
        message = f"{NUMBER} and id both say which runs; write one of them"
        raise command_line_error(("only",), message)
    return {**values, "id": frozenset(proposals[number])}


def _id(text: str, plan: Plan) -> str:
    """The run of the plan that has this id, alone begins so, or is so named. SweepFileError where there is none."""
    try:
        return meant(text, plan.runs, ((place.id, place.name) for place in plan.places), plan.name)
    except LookupError as error:
        raise command_line_error(("only",), str(error)) from error


def _value(text: str) -> Any:
    """As a sweep file writes it, or, for a mapping, as names have it: `{alpha=0.9,temperature=4}`, which stays text."""
    value = parse_value(text, COMMAND_LINE)
    return text if isinstance(value, dict) and any("=" in key for key in value) else value


def parts(only: str) -> list[str]:
    """Split at the commas that stand neither in brackets nor in quotes."""
    found, depth, quote = [""], 0, ""
    for character in only:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0 and not quote:
            found.append("")
        else:
            found[-1] += character
    return found
