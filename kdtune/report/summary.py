"""What a command says last: the small table with mean and interval over seeds, and where everything lies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtune.evaluation.flags import FLAGS, flags_of
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan
from kdtune.report.folder import View
from kdtune.statistics import mean_interval
from kdtune.store.state import FINISHED, State

MARK = " !"
SHOWN = 10  # failed and skipped runs that are named

HEADLINE = re.compile(r"robust/pgd(\d+)$")


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics worth a glance: accuracy, shifted sets, PGD at its largest number of steps, corruptions."""
    names = dict.fromkeys(name for row in rows for name in row)
    steps = [(int(match[1]), name) for name in names if (match := HEADLINE.match(name))]
    wanted = [name for name in names if name == "test/accuracy" or name.startswith("shift/")]
    wanted += [max(steps)[1]] if steps else []
    return wanted + [name for name in names if name == "corruption/mca"]


def table(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> str:
    """A line per role and point of the grid: mean and 95 % t interval over its seeds, in percent."""
    shown = columns(rows)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(plan.runs[row["id"]].label, []).append(row)
    lines = [["", "seeds", *shown]]
    for label, members in groups.items():
        done = [row for row in members if row["state"] == State.DONE]
        count = f"{len(done)}" if len(done) == len(members) else f"{len(done)} of {len(members)}"
        lines.append([label, count, *(_cell(done, name) for name in shown)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(done: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean and half of the interval; a robustness number of which a run carries a flag is marked."""
    having = [row for row in done if name in row]
    if not having:
        return "-"
    interval = mean_interval([row[name] for row in having])
    known = interval.low is not None and interval.high is not None
    half = f" +- {(interval.high - interval.low) / 2:4.1f}" if known else " " * 8  # type: ignore[operator]
    mark = MARK if name.startswith("robust/") and any(flags_of(row) for row in having) else ""
    return f"{interval.mean:.1f}{half}{mark}"


def flagged(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What the mark in the table means: which flags are up, and for how many runs."""
    counts = Counter(flag for row in rows for flag in flags_of(row) or ())
    if not counts:
        return None
    words = ", ".join(f"{flag} ({count} runs: {FLAGS[flag]})" for flag, count in counts.items())
    return f"{MARK.strip()} not to be believed as it stands: {words}"


def closing(
    plan: Plan, dispatch: Dispatch, view: View, rows: Sequence[Mapping[str, Any]], seconds: float, again: str
) -> Iterator[str]:
    """The last lines: the table, what failed and why, where the results are, and `again`, the command that goes on."""
    counts = Counter(dispatch.states.values())  # in the plan's order
    yield f"{plan.name} on {plan.dataset}, profile {plan.profile}: {words(counts)}, {seconds:g} s"
    yield table(plan, rows)
    if (marked := flagged(rows)) is not None:
        yield marked
    wrong = (State.FAILED, State.SKIPPED)
    troubled = [(id, reason) for id, reason in dispatch.reasons.items() if dispatch.states[id] in wrong]
    for number, (id, reason) in enumerate(troubled[:SHOWN]):
        text = reason if number == 0 else reason.splitlines()[-1]  # the first error in full
        yield f"{dispatch.states[id]}: {plan.runs[id].name} ({id}): {text}"
    if len(troubled) > SHOWN:
        yield f"and {len(troubled) - SHOWN} more: kdtune status {near(Path(view.place).parent)}"
    yield f"results      {near(Path(view.place) / 'results.csv') if '://' not in view.place else view.place}"
    script = Path("analysis") / f"{plan.name}.py"
    if script.exists():
        yield f"figures      python {script} {near(view.local.parent)} --profile {view.local.name}"
    yield f"TensorBoard  tensorboard --logdir {near(view.local)}"
    unfinished = counts.keys() - FINISHED
    yield f"{'go on' if unfinished else 'run again':12s} {again}"


def near(path: Path) -> Path:
    """A path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def words(counts: Mapping[State, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to do"
