"""What a command says last: the small table with mean and interval over seeds, and where everything lies."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtune.evaluation.flags import DEGENERATE, FLAGS, flags_of
from kdtune.evaluation.metric import Metric
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan
from kdtune.planning.setbacks import said
from kdtune.report import outdated, searched
from kdtune.report.cells import MARK, aligned, cell, columns, headings
from kdtune.report.charts import OPENING
from kdtune.report.folder import View
from kdtune.store.state import FINISHED, State
from kdtune.sweepfile.values import word

SHOWN = 10  # failed and skipped runs that are named
LINES = 100  # of the table; where there are more, its longest axis is averaged over


def table(plan: Plan, rows: Sequence[Mapping[str, Any]], headlines: Sequence[Metric] | None = None) -> str:
    """A line per role and point of the grid: mean and 95 % t interval over its seeds; rates in percent. Of more than
    LINES the axis of most values is left out, and a line is over its values too.

    `rows` are the table's: one for each place of the plan. `headlines`: the columns, as far as
    any run has them; None: the plan's.
    """
    shown = columns(plan.headlines if headlines is None else headlines, rows)
    places, over = shortened(plan)
    groups: dict[Hashable, dict[str, Mapping[str, Any]]] = {}  # a run once, at however many places it stands
    labels: dict[Hashable, str] = {}
    for place, row in zip(places, rows, strict=True):
        groups.setdefault(place.condition, {})[place.id] = row
        labels.setdefault(place.condition, place.label)
    lines = [["", " x ".join(["seeds", *over]), *headings(shown)]]
    for condition, runs in groups.items():
        members = list(runs.values())
        done = [row for row in members if row["state"] == State.DONE]
        count = f"{len(done)}" if len(done) == len(members) else f"{len(done)} of {len(members)}"
        lines.append([labels[condition], count, *(cell(done, metric) for metric in shown)])
    return aligned(lines)


def shortened(plan: Plan) -> tuple[Sequence[Place], list[str]]:
    """The places of a plan, without the axes that would make more than LINES conditions of them; and these axes."""
    places, over = plan.places, list[str]()
    while len({place.condition for place in places}) > LINES:
        values = {axis: {word(place.point[axis]) for place in places if axis in place.point} for axis in plan.axes}
        longest = max(values, key=lambda axis: len(values[axis]))
        over.append(longest)
        places = tuple(place.without(longest) for place in places)
    return places, over


def flagged(headlines: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the mark in the table means: which flags are up, and for how many runs. Then those of networks that answer
    as if they saw nothing, where no column is marked for them."""
    shown = [metric.name for metric in columns(headlines, rows)]
    runs = {row["id"]: row for row in rows if row["state"] == State.DONE}
    bearing = [{flag for name in shown if name in row for flag in flags_of(row, name) or ()} for row in runs.values()]
    counts = Counter(flag for flags in bearing for flag in FLAGS if flag in flags)
    if counts:
        yield f"{MARK.strip()} not to be believed as it stands: {_said(counts)}"
    dull = Counter(flag for row in runs.values() for flag in flags_of(row) or () if flag in DEGENERATE)
    if unsaid := {flag: count for flag, count in dull.items() if flag not in counts}:
        yield f"flags without a mark: {_said(unsaid)}"


def _said(flags: Mapping[str, int]) -> str:
    return ", ".join(f"{flag} ({count} run{'s' * (count > 1)}: {FLAGS[flag]})" for flag, count in flags.items())


def closing(
    plan: Plan, dispatch: Dispatch, view: View, rows: Sequence[Mapping[str, Any]], seconds: float, again: str
) -> Iterator[str]:
    """The last lines: the table, what failed and why, where the results are, and `again`, the command that goes on."""
    counts = Counter(dispatch.states.values())  # in the plan's order
    yield f"{plan.name} on {plan.dataset}, profile {plan.profile}: {words(counts)}, {seconds:g} s"
    if view.search is None:
        yield table(view.plan, rows, view.headlines)
    else:
        ended = {
            id: state
            for id, state in dispatch.states.items()
            if state is not State.STOPPED or id in dispatch.by_hand  # others have only been interrupted
        }
        yield from searched.closing(view.search, view.plan, ended, rows, view.headlines)
    yield from flagged(view.headlines, rows)
    yield from view.beside(rows)
    yield from view.hidden()
    where = typed(view.local) if "://" not in view.place else shlex.quote(view.uri)
    yield from outdated.lines(plan, view.standing, view.evaluators, where)
    wrong = (State.FAILED, State.SKIPPED)
    named = {*dispatch.by_hand, *(id for id, state in dispatch.states.items() if state in wrong)}
    troubled = [(id, reason) for id, reason in dispatch.reasons.items() if id in named]
    for number, (id, reason) in enumerate(troubled[:SHOWN]):
        text = reason if number == 0 else said(reason)  # the first error in full
        yield f"{dispatch.states[id]}: {plan.runs[id].name} ({id}): {text}"
    if len(troubled) > SHOWN:
        yield f"and {len(troubled) - SHOWN} more: kdtune status {where}"
    yield f"results      {near(Path(view.place) / 'results.csv') if '://' not in view.place else where}"
    own = Path("analysis") / f"{plan.name}.py"
    drawn = own.exists() and "__main__" in own.read_text(encoding="utf-8")  # others are parts of figures
    script = own if drawn else own.with_name("search.py" if view.search else "generic.py")
    if script.exists():
        yield f"figures      python {script} {typed(view.local.parent)} --profile {view.local.name}"
    if (view.local / "report.html").is_file():
        yield f"report       {typed(view.local / 'report.html')}"
    yield f"TensorBoard  tensorboard --logdir {typed(view.local / 'tensorboard')}"
    if (view.local / "tensorboard" / "means").is_dir():
        yield f"{'':12s} its address with {OPENING}: accuracy, loss, robustness, by setting"
    unfinished = counts.keys() - FINISHED
    if dispatch.by_hand:
        yield f"stopped by hand: {len(dispatch.by_hand)}; only --retry takes them up again, from their last checkpoints"
    yield f"{'go on' if unfinished else 'run again':12s} {again}{' --retry' * bool(dispatch.by_hand)}"


def near(path: Path) -> Path:
    """A path as seen from here."""
    try:
        here = Path.cwd()
    except OSError:  # it is gone
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path


def typed(path: Path) -> str:
    """The same as a word of a command: a shell takes it for one, whatever is in it."""
    return shlex.quote(str(near(path)))


def words(counts: Mapping[State, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to do"


def counted(runs: int) -> str:
    """`1 run`, `7 runs`."""
    return f"{runs} run{'' if runs == 1 else 's'}"
