"""The small tables of a command's last lines: their columns, mean and interval in a cell, how they are aligned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdtune.evaluation.flags import flags_of
from kdtune.evaluation.metric import PERCENT, Metric
from kdtune.statistics import mean_interval

MARK = " !"
UNCONDITIONAL = "/unconditional"


def columns(headlines: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The metrics worth a glance: what evaluators call their headlines, where any run has them."""
    return [metric for metric in headlines if any(metric.name in row for row in rows)]


def headings(shown: Sequence[Metric]) -> Iterator[str]:
    """Names, and units where they are not percent; `/unconditional` beside the rate that it belongs to."""
    before = None
    for metric in shown:
        beside = f"{before}{UNCONDITIONAL}" == metric.name
        name = UNCONDITIONAL if beside else metric.name
        yield name if metric.unit == PERCENT else f"{name} ({metric.unit})"
        before = metric.name


def cell(done: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """Mean and half of the interval; of how many, where not all that are done have it. A number on which a flag of a
    run bears is marked."""
    having = [row for row in done if metric.name in row]
    if not having:
        return "-"
    interval = mean_interval([row[metric.name] for row in having])
    half = None if interval.low is None or interval.high is None else (interval.high - interval.low) / 2
    mark = MARK if any(flags_of(row, metric.name) for row in having) else ""
    mark = f" ({len(having)}){mark}" if len(having) < len(done) else mark
    if metric.unit != PERCENT:  # of any size
        return f"{interval.mean:.3g}{'' if half is None else f' +- {half:.2g}'}{mark}"
    return f"{interval.mean:.1f}{' ' * 8 if half is None else f' +- {half:4.1f}'}{mark}"


def aligned(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lines of as many cells each as text: the first `left` columns to the left, all others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
