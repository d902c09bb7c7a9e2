"""`kdtune status results/fickle`: how the runs of a sweep stand now, from its plan and the store."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from kdtune.report.table import TableError, profile_folder
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store


def print_status(folder: Path, profile: str | None) -> int:
    """A line per role and state, and what failed with its cause; returns the exit status."""
    try:
        place = profile_folder(folder, profile)
        plan = json.loads((place / "plan.json").read_bytes())
    except (TableError, OSError, ValueError) as error:
        click.echo(f"refused: {error}", err=True)
        return 2
    # A folder that an earlier version wrote does not say which evaluators were asked for.
    standing = Standing(Store(place.parent.parent), plan.get("evaluators", ()))
    states = standing.states(run["id"] for run in plan["runs"])
    click.echo(f"{plan['sweep']} on {plan['dataset']}, profile {plan['profile']}: {len(plan['runs'])} runs")
    for role in ("teacher", "student"):
        now: Counter[State] = Counter(states[run["id"]] for run in plan["runs"] if run["role"] == role)
        click.echo(f"  {role}s: " + (", ".join(f"{count} {state}" for state, count in now.items()) or "none"))
    for run in plan["runs"]:
        if failure := standing.look(run["id"]).failure:
            click.echo(f"  failed {run['id']} {run['parameters']}: {failure['type']}: {failure['message']}")
    return 0
