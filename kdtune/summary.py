"""What a command says last: the small table with mean and interval over seeds, and where everything lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdtune.planning import Plan
from kdtune.statistics import mean_interval

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
        done = [row for row in members if row["state"] == "done"]
        count = f"{len(done)}" if len(done) == len(members) else f"{len(done)} of {len(members)}"
        lines.append([label, count, *(_cell([row[name] for row in done if name in row]) for name in shown)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    interval = mean_interval(values)
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.1f}        "
    return f"{interval.mean:.1f} +- {(interval.high - interval.low) / 2:4.1f}"
