"""`kdtune status results/fickle`: how the runs of a sweep stand now, from its plan and the store."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click

from kdtune.cli.refused import status_of
from kdtune.planning.cost import duration
from kdtune.planning.hopeless import all_diverged
from kdtune.planning.place import ROLES
from kdtune.report.mirror import results_of
from kdtune.report.table import plan_of, profile_folder
from kdtune.store.standing import Standing
from kdtune.store.state import FINISHED, State
from kdtune.store.store import Store

SHOWN = 20  # runs of a kind


def print_status(folder: str | Path, profile: str | None) -> int:
    """How many stand how, who works on what, what waits for whom, what failed and why; returns the exit status."""
    return status_of(lambda: _print_status(profile_folder(folder, profile)), OSError)


def _print_status(place: Path) -> int:
    plan = plan_of(place)
    standing = Standing(Store(results_of(place)), plan["evaluators"])
    states = standing.states(run["id"] for run in plan["runs"])
    names = {each["id"]: each["name"] for each in reversed(plan.get("places", []))}
    click.echo(f"{plan['sweep']} on {plan['dataset']}, profile {plan['profile']}: {len(plan['runs'])} runs")
    for role in ROLES:
        now = Counter(_word(states[run["id"]]) for run in plan["runs"] if run["role"] == role)
        if now or role != "source":
            click.echo(f"  {role}s: " + (", ".join(f"{count} {state}" for state, count in now.items()) or "none"))
    for line in searched(plan, states):
        click.echo(f"  {line}")
    working = standing.store.owner(f"sweep/{place.parent.name}/{place.name}")
    if working:
        click.echo(f"  this sweep is being run by process {working.get('pid')} on {working.get('host')}")
    elif State.ELSEWHERE in states.values():
        click.echo("  this sweep is not being run; another command works on runs that it shares")
    for lines in (
        running(standing, states, names),
        stopped(standing, states, names),
        waiting(plan["runs"], states, names),
        left(plan["runs"], states, standing),
        failed(plan["runs"], states, standing),
    ):
        for line in lines:
            click.echo(line)
    return 0


def searched(plan: Mapping[str, Any], states: Mapping[str, State]) -> Iterator[str]:
    """How far a search is."""
    try:
        about = json.loads(plan["search"]) if "search" in plan else None
        without = {run["id"] for run in plan["runs"] if all_diverged(run.get("chooses_from", {}), states)}
        runs = about["proposals"] if about else []
        made = [[id in without or states[id] in FINISHED for id in ids] for ids in runs]
        trials = about["trials"] if about else 0
    except (ValueError, KeyError, TypeError):  # another version's
        return
    if trials:
        known = sum(all(ended) for ended in made)
        yield f"search: {known} of {trials} proposals known, {len(made) - known} made and not known yet"


def running(standing: Standing, states: Mapping[str, State], names: Mapping[str, str]) -> Iterator[str]:
    """Runs that a live process has: where, and when it last said so."""
    now = [id for id, state in states.items() if state is State.ELSEWHERE]
    for id in now[:SHOWN]:
        if (owner := standing.store.owner(id)) is not None:  # else it has ended just now
            silent = max(0.0, time.time() - float(owner.get("heartbeat", 0)))
            who = f"process {owner.get('pid')} on {owner.get('host')}"
            yield f"  running {id} {names.get(id, '')}: {who}, sign of life {silent:.0f} s ago"
    if len(now) > SHOWN:
        yield f"  and {len(now) - SHOWN} more running"


def stopped(standing: Standing, states: Mapping[str, State], names: Mapping[str, str]) -> Iterator[str]:
    """Runs that somebody has stopped by hand: who, and when."""
    now = [id for id, state in states.items() if state is State.STOPPED]
    for id in now[:SHOWN]:
        yield f"  stopped {id} {names.get(id, '')}: {standing.look(id).stop}"
    if len(now) > SHOWN:
        yield f"  and {len(now) - SHOWN} more stopped"
    if now:
        yield "  the sweep's own command takes them up again with --retry"


def waiting(runs: list[dict[str, Any]], states: Mapping[str, State], names: Mapping[str, str]) -> Iterator[str]:
    """The unfinished runs that others wait for, the most wanted first."""
    held = Counter[str]()
    for run in runs:
        if states[run["id"]] not in FINISHED:
            lacking = [id for id in run.get("waits_for", ()) if id in states and states[id] not in FINISHED]
            held.update(lacking)
    for id, count in held.most_common(SHOWN):
        stands = "stopped: they are skipped until --retry" if states[id] is State.STOPPED else _word(states[id])
        yield f"  {count} run{'s wait' if count > 1 else ' waits'} for {names.get(id, id)} ({id}, {stands})"
    if len(held) > SHOWN:
        yield f"  and for {len(held) - SHOWN} more"


def left(runs: list[dict[str, Any]], states: Mapping[str, State], standing: Standing) -> Iterator[str]:
    """What the rest will take, judged by what finished runs of the same role took."""
    total, unknown = 0.0, 0
    for role in ROLES:
        mine = [run["id"] for run in runs if run["role"] == role]
        took = [standing.look(id).provenance.get("seconds") for id in mine if states[id] is State.DONE]
        unfinished = sum(states[id] not in FINISHED for id in mine)
        known = [float(seconds) for seconds in took if seconds]
        total += unfinished * median(known) if known else 0.0
        unknown += 0 if known else unfinished
    if total:
        more = f"; {unknown} runs more, of a role of which none is finished" if unknown else ""
        yield f"  left: about {duration(total)} of a device, by what finished runs took{more}"


def failed(runs: list[dict[str, Any]], states: Mapping[str, State], standing: Standing) -> Iterator[str]:
    """What failed, each in a line; the first of them in full."""
    first = True
    for run in runs:
        look = standing.look(run["id"])
        failure = look.last_failure if states[run["id"]] is State.PARTIAL and look.done else look.failure
        if failure:
            yield f"  failed {run['id']} {run.get('parameters')}: {failure['type']}: {failure['message']}"
            if first and failure.get("traceback"):
                yield from (f"    {line}" for line in str(failure["traceback"]).rstrip().splitlines())
            first = False


def _word(state: State) -> State:
    """A run that a live process has is elsewhere for the command that asks, and running for a person who does."""
    return State.RUNNING if state is State.ELSEWHERE else state
