"""`kdtune run FILE --only dropout=0.2,seed=1`: one point of a sweep and its teachers, in this process."""

from __future__ import annotations

from typing import Any

import click

from kdtune import paths
from kdtune.cli.console import json_to_stdout
from kdtune.cli.sweep import Options, read, say
from kdtune.data.files import DataError
from kdtune.data.loading import preflight
from kdtune.evaluation.evaluator import EvaluationError
from kdtune.launch.here import launch_here
from kdtune.launch.interrupt import Interrupt
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.report.folder import described
from kdtune.report.progress import Progress
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.reader import parse_value
from kdtune.sweepfile.tree import COMMAND_LINE, Problem, SweepFileError

BESIDE = ("seed", "role", "id")  # what --only may name beside the axes


def run_single(options: Options, only: str, epochs: int | None, debug: bool) -> int:
    """Does the runs that `only` names, and their teachers; prints their metrics. Returns the exit status."""
    with json_to_stdout(options.json) as print_json:
        try:
            plan, store = prepare(options, only, epochs)
        except SweepFileError as error:
            click.echo(str(error), err=True)
            return 2
        except (DataError, StorageError, EvaluationError) as error:
            click.echo(f"refused: {error}", err=True)
            return 4
        standing = Standing(store, plan.evaluators)
        dispatch = Dispatch(plan, standing)
        progress = Progress(plan, dispatch, verbosity=options.verbosity)
        with Interrupt() as interrupt:
            launch_here(dispatch, progress, options.data_dir, options.checkpoint_every, interrupt, debug)
        progress.close()
        metrics = {id: standing.measured(id) for id in plan.runs}
        runs = [{**run, "metrics": metrics[run["id"]]} for run in described(plan, dispatch.states)]
        print_json({"sweep": plan.name, "profile": plan.profile, "dataset": plan.dataset, "runs": runs})
        for id, planned in plan.runs.items():
            say(options, f"{dispatch.states[id]:9s} {planned.name}  {store.objects.path(f'runs/{id}')}")
            for name, value in metrics[id].items():
                say(options, f"          {name} {value:.4g}" if value is not None else f"          {name} -")
    if interrupt.signal:
        return 128 + interrupt.signal
    return 0 if set(dispatch.counts) == {State.DONE} else 3


def prepare(options: Options, only: str, epochs: int | None) -> tuple[Plan, Store]:
    """The runs that `only` names with their teachers, and the store; data and storage are there after this."""
    file, first_line = read(options)
    whole = build_plan(file, options.data_dir, epochs)
    plan = whole.only(wanted(only, whole))
    if not plan.runs:
        raise SweepFileError([Problem(COMMAND_LINE, None, ("only",), f"no run has {only}; --dry-run lists them")])
    say(options, first_line)
    store = Store(paths.results_folder(options.results))
    store.objects.probe()
    for evaluator in plan.evaluation:
        evaluator.preflight()
    for planned in plan.runs.values():
        preflight(planned.run.dataset, options.data_dir)
    return plan, store


def wanted(only: str, plan: Plan) -> dict[str, Any]:
    """`dropout=0.2,seed=1` as values by axis. Raises SweepFileError for what is no axis of the plan."""
    values = {}
    for part in only.split(","):
        axis, equals, text = part.strip().partition("=")
        if not equals or axis not in (*plan.axes, *BESIDE):
            known = ", ".join([*plan.axes, *BESIDE])
            message = f"came {part.strip()!r}; write axis=value with one of {known}"
            raise SweepFileError([Problem(COMMAND_LINE, None, ("only",), message)])
        values[axis] = text if axis == "id" else parse_value(text, COMMAND_LINE)
    return values
