"""`kdtune status results/fickle`: how the runs of a sweep stand now, from its plan and the store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from kdtune.cli.refused import status_of
from kdtune.report.mirror import results_of
from kdtune.report.table import plan_of, profile_folder
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store


def print_status(folder: str | Path, profile: str | None) -> int:
    """A line per role and state, who works on it, and what failed with its cause; returns the exit status."""
    return status_of(lambda: _print_status(profile_folder(folder, profile)), OSError)


def _print_status(place: Path) -> int:
    plan = plan_of(place)
    standing = Standing(Store(results_of(place)), plan["evaluators"])
    states = standing.states(run["id"] for run in plan["runs"])
    working = standing.store.owner(f"sweep/{place.parent.name}/{place.name}")
    click.echo(f"{plan['sweep']} on {plan['dataset']}, profile {plan['profile']}: {len(plan['runs'])} runs")
    for role in ("teacher", "student"):
        now = Counter(_word(states[run["id"]]) for run in plan["runs"] if run["role"] == role)
        click.echo(f"  {role}s: " + (", ".join(f"{count} {state}" for state, count in now.items()) or "none"))
    if working:
        click.echo(f"  this sweep is being run by process {working.get('pid')} on {working.get('host')}")
    elif State.ELSEWHERE in states.values():
        click.echo("  this sweep is not being run; another command works on runs that it shares")
    for run in plan["runs"]:
        look = standing.look(run["id"])
        if failure := look.last_failure if states[run["id"]] is State.PARTIAL and look.done else look.failure:
            click.echo(f"  failed {run['id']} {run.get('parameters')}: {failure['type']}: {failure['message']}")
    return 0


def _word(state: State) -> State:
    """A run that a live process has is elsewhere for the command that asks, and running for a person who does."""
    return State.RUNNING if state is State.ELSEWHERE else state
