"""What a search came to: a row a proposal, columns of the table, the last lines. Made of the table's rows alone.

A proposal's numbers are means over its own seeds. Those that confirm are apart: what is best of many by a number looks
better by it than it is, and seeds that chose nothing say how much.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from kdtune.evaluation.metric import Metric
from kdtune.planning import cost
from kdtune.planning.devices import Device
from kdtune.planning.front import front
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan
from kdtune.planning.search import known_to
from kdtune.planning.searching import Proposal, Searching
from kdtune.report.cells import aligned, cell, columns, headings
from kdtune.report.table import CONFIRMS, axis_cell
from kdtune.statistics import Interval, mean_interval
from kdtune.store.state import State
from kdtune.sweepfile.searching import most_runs
from kdtune.sweepfile.values import word

Row = Mapping[str, Any]
FRONT = 20  # proposals of the front that the last lines name


@dataclass(frozen=True)
class Tried:
    """A proposal and what is known of it. `state`: known, diverged, unmeasured (all runs are done, and a metric of one
    has no number) or open (a run lacks)."""

    proposal: Proposal
    rows: Sequence[Row]  # of its own runs
    confirming: Sequence[Row]
    state: str
    values: tuple[float, ...] | None  # means by objective, where all of it is known and keeps the constraints
    front: bool = False


def tried(search: Searching, rows: Sequence[Row]) -> list[Tried]:
    """All proposals so far. `rows` are the table's."""
    by_id = {row["id"]: row for row in rows}
    found = []
    for proposal in search.proposals:
        own = [by_id[id] for id in proposal.runs if id in by_id]
        again = [by_id[id] for id in search.confirming.get(proposal.number, ()) if id in by_id]
        done = len(own) == len(proposal.runs) and all(row["state"] == State.DONE for row in own)
        measured = done and all(isfinite(row.get(name, nan)) for row in own for name in search.search.metrics)
        value = tuple(_mean(own, name).mean for name in search.search.metrics) if measured else None
        ended = done or all(row["state"] in (State.DONE, State.DIVERGED) for row in own)
        known = ended or search.values[proposal.number : proposal.number + 1] == [None]
        state = "known" if value else "open" if not known else "unmeasured" if done else "diverged"
        found.append(Tried(proposal, own, again, state, search.search.counted(value)))
    best = set(front([each.values for each in found], search.directions))
    return [Tried(**{**vars(each), "front": place in best}) for place, each in enumerate(found)]


def _mean(rows: Sequence[Row], name: str) -> Interval:
    return mean_interval([float(row[name]) for row in rows])


def with_columns(search: Searching, places: Sequence[Place], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table's rows with the number of the first proposal that asks for a student, whether that is on the front, and
    whether the row is of a run that confirms. `places` are those of the rows."""
    of_run: dict[tuple[str, bool], Tried] = {}
    for each in tried(search, rows):
        for id in each.proposal.runs:
            of_run.setdefault((id, False), each)
        for id in search.confirming.get(each.proposal.number, ()):
            of_run.setdefault((id, True), each)
    found = []
    for place, row in zip(places, rows, strict=True):
        own: dict[str, Any] = {}
        if place.role == "student" and (of := of_run.get((place.id, place.confirms))) is not None:
            own = {"search.number": of.proposal.number, "search.front": of.front, CONFIRMS: place.confirms}
        found.append({**row, **own})
    return found


def proposals(search: Searching, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """search.csv: a row a proposal, with mean and 95 % interval of each objective, then of the runs that confirm it."""
    found = []
    for each in tried(search, rows):
        row: dict[str, Any] = {"number": each.proposal.number}
        row |= {axis: axis_cell(value) for axis, value in each.proposal.point.items()}
        row |= {"listed": each.proposal.number < len(search.file.points), "state": each.state, "front": each.front}
        if search.search.constraints:
            row["feasible"] = each.values is not None
        for name in search.search.metrics:
            row |= _numbers(name, each.rows)
        for name in search.search.metrics:
            row |= _numbers(f"confirmed/{name}", each.confirming, name) if each.confirming else {}
        found.append({**row, "runs": " ".join(each.proposal.runs)})
    return found


def _numbers(title: str, rows: Sequence[Row], name: str = "") -> dict[str, Any]:
    having = [row for row in rows if row["state"] == State.DONE and (name or title) in row]
    if not having:
        return {}
    of = _mean(having, name or title)
    return {title: of.mean, f"{title}.low": of.low, f"{title}.high": of.high, f"{title}.n": of.n}


def about(search: Searching) -> dict[str, Any]:
    """What figures must know of a search."""
    asked = search.search
    return {
        "id": search.id,
        "trials": asked.trials,
        "lag": asked.lag,
        "seeds": [*search.seeds],
        "sampler": asked.sampler.dumped(),
        "objectives": dict(asked.objectives),
        "constraints": {name: each.model_dump(exclude_none=True) for name, each in (asked.constraints or {}).items()},
        "space": {axis: each.dumped() for axis, each in asked.space.items()},
        "proposals": [[*proposal.runs] for proposal in search.proposals],
        "confirming": {str(number): [*runs] for number, runs in search.confirming.items()},
    }


def foreseen(search: Searching, device: Device) -> Iterator[str]:
    """For `--dry-run`: how many runs it may come to, and what one costs at the ends of the space."""
    sweep = search.file.ends[0].sweep
    of_teachers = {axis for point in search.file.ends for axis in point.teacher_parameters}
    students, teachers = most_runs(search.search, sweep, of_teachers)
    yield f"{search.progress}; at most {teachers} teachers and {students} students in all"
    plan = search.at_ends
    seconds = [cost.work_of(plan, id, device).seconds for id, place in plan.runs.items() if place.role == "student"]
    low, high = cost.duration(min(seconds)), cost.duration(max(seconds))
    if (told := blind(search)) is not None:
        yield told
    yield f"a student at the ends of the space: about {low}" + (f" to {high}" if low != high else "")


def blind(search: Searching) -> str | None:
    """That a sampler is never told enough to begin with, where the lag leaves too little."""
    asked = search.search
    least, told = asked.sampler.blind, known_to(asked, asked.trials - 1)
    if told >= least:
        return None
    (field,) = asked.sampler.dumped()[asked.sampler.key]
    return (
        f"{asked.sampler.key} never begins: with lag {asked.lag} the last of {asked.trials} proposals knows {told}, "
        f"and {least} ({field}) are drawn at random; {least + asked.lag} trials or more, a smaller lag or {field} "
        "would do"
    )


def slack(search: Searching, slots: float) -> str | None:
    """That slots will wait for slow runs, where so many runs at a time are more than half of what the lag allows."""
    under_way = search.search.lag * len(search.seeds)
    if under_way >= 2 * slots or len(search.values) == search.search.trials:
        return None
    better = -(-2 * slots // len(search.seeds))
    return (
        f"lag {search.search.lag} x {len(search.seeds)} seeds are at most {under_way} runs under way, for {slots:g} "
        f"at a time: some will wait for slower ones. With lag {better:.0f} they rarely would; that is another search"
    )


def closing(
    search: Searching, plan: Plan, states: Mapping[str, State], rows: Sequence[Row], headlines: Sequence[Metric]
) -> Iterator[str]:
    """The last lines of a search: the front, the runs that confirm, what is open."""
    found = tried(search, rows)
    objectives = [plan.metrics[name] for name in search.search.metrics if name in plan.metrics]
    further = [metric for metric in columns(headlines, rows) if metric not in objectives]
    once = {each.proposal.runs: each for each in reversed(found)}  # a point that came again
    best = [each for each in found if each.front and once[each.proposal.runs] is each]
    goal = ", ".join(f"{name} {way}" for name, way in search.search.objectives.items())
    if bounds := search.search.constraints:
        keep = sum(each.values is not None for each in found)
        told = ", ".join(f"{name} {each}" for name, each in bounds.items())
        goal += f" among the {keep} with {told}"
    known = any(each.state == "known" for each in found)
    over = f"; the best by {goal}, means over {len(search.seeds)} seeds:" if known else ""
    yield f"search {search.id}: {search.progress}{over}"
    if best:
        yield aligned(list(_table("on the front", [(each, each.rows) for each in best[:FRONT]], objectives, further)))
    if len(best) > FRONT:
        yield f"and {len(best) - FRONT} more on the front: search.csv"
    if again := [(found[number], found[number].confirming) for number in search.confirming if number < len(found)]:
        yield "confirmed: chosen by what stands above, done again with seeds that chose nothing:"
        yield aligned(list(_table("confirmed", again, objectives, further)))
    for proposal, id in search.open(states):
        told = plan.runs[id].name
        then = "--retry takes it up" if states[id] is State.STOPPED else "the next command tries it again"
        yield f"proposal {proposal.number} is open, as {told} is {states[id]}: {then}"
    if changed := search.drawn_from_others():
        numbers = ", ".join(map(str, changed))
        yield f"drawn from other weights than there are now, and left as they are: proposals {numbers}"


def _table(
    title: str, of: Sequence[tuple[Tried, Sequence[Row]]], objectives: Sequence[Metric], further: Sequence[Metric]
) -> Iterator[list[str]]:
    shown = [*objectives, *further]
    yield [title, "seeds", *headings(shown)]
    for each, rows in of:
        done = [row for row in rows if row["state"] == State.DONE]
        told = " ".join(f"{axis}={word(value)}" for axis, value in each.proposal.point.items())
        count = f"{len(done)}" if len(done) == len(rows) else f"{len(done)} of {len(rows)}"
        yield [f"{each.proposal.number}: {told}", count, *(cell(done, metric) for metric in shown)]


def to_json(search: Searching) -> str:
    """`about`, as tables keep it."""
    return json.dumps(about(search))
