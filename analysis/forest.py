"""Rows of a column of panels for each metric, as in a meta-analysis: settings against their baselines (`forest`), or
settings by themselves (`levels`)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from figure import save
from metrics import scale, title
from panels import BEYOND, Panel
from points import Cell, Contrast, Point, adjusted, cells, point, refuse_mixtures, select
from stated import stated
from style import GREY, PAGE, STUDENT, literal
from words import heading, page, remarks, visible

from kdtune.report.table import TableError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet


@dataclass(frozen=True)
class Comparison:
    """A question with its contrast; every cell of that is a row."""

    question: str
    contrast: Contrast


@dataclass(frozen=True)
class Row:
    """One setting against its baseline, by metric."""

    question: str
    setting: str
    cells: dict[str, Cell]


def rows_of(table: pd.DataFrame, comparisons: Sequence[Comparison], metrics: Sequence[str]) -> list[Row]:
    """The rows that a table has runs for, in the order asked."""
    found: dict[tuple[str, str], Row] = {}
    for each in comparisons:
        for metric in metrics:
            for cell in cells(table, each.contrast, metric):
                setting = ", ".join(_word(name, plain(value)) for name, value in cell.place.items() if value == value)
                key = (each.question, setting)
                found.setdefault(key, Row(*key, {})).cells[metric] = cell
    return list(found.values())


def plain(value: Any) -> Any:
    """A value of a table as Python's own: numpy's are written as calls."""
    return value.item() if hasattr(value, "item") else value


def _word(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{name} {value}".lower() if isinstance(value, bool) else f"{name} {value:g}"


def forest(
    table: pd.DataFrame,
    name: str,
    heading_: str,
    comparisons: Sequence[Comparison],
    metrics: Sequence[str],
    about: str,
    folder: Path,
) -> list[Path]:
    """Draws and saves such a figure. Raises TableError where the table has no run of any comparison."""
    done = table[table["state"] == "done"]
    measured = [metric for metric in metrics if metric in done and done[metric].notna().any()]
    rows = rows_of(table, comparisons, measured) if measured else []
    if not any(cell.pairs.n for row in rows for cell in row.cells.values()):
        raise TableError(f"{name}: none of its comparisons has a pair of finished runs")
    sheet = draw(rows, measured)
    words = caption(table, heading_, rows, measured, about)
    return save(sheet, list(records(rows)), words, folder, name)


@dataclass(frozen=True)
class Arm:
    """Runs by a query, and the question that they are an answer to."""

    question: str
    setting: str
    runs: str


def levels(
    table: pd.DataFrame,
    name: str,
    heading_: str,
    arms: Sequence[Arm],
    panels: Sequence[Panel],
    about: str,
    folder: Path,
    lines: Mapping[str, float] | None = None,
) -> list[Path]:
    """Draws and saves the mean of each arm, with a line at stated values (`Panel.paper`) and at `lines`, by words, in
    the first panel. Raises TableError where no arm has a finished run."""
    rows: list[Row] = []
    for arm in arms:
        runs = select(table, arm.runs)
        refuse_mixtures(runs)
        at = {panel.metric: Cell({}, None, _level(runs, panel.metric), 0) for panel in panels}
        if len(runs):
            rows.append(Row(arm.question, arm.setting, at))
    there = [panel for panel in panels if any(row.cells[panel.metric].pairs.n for row in rows)]
    if not there:
        raise TableError(f"{name}: none of its arms has a finished run")
    marked = {panel.metric: dict(stated(table, panel)) for panel in there}
    marked[there[0].metric] |= lines or {}
    sheet = draw(rows, [panel.metric for panel in there], marked)
    marks = (
        "Marks: means over runs with 95 % Student-t intervals; hollow: a run's number is flagged; small: a single run."
    )
    for words in marked.values():
        marks += "".join(f" Dashed: {what}, {value:.4g}." for what, value in words.items())
    paragraphs = [heading(table), about, marks, " ".join(remarks(table, [panel.metric for panel in there]))]
    told = ["| metric | question | setting | mean ± half of the interval | n |", "|---|---|---|---|---|"]
    for panel in there:
        for row in rows:
            at_row = row.cells[panel.metric].pairs
            mean = at_row.text(digits=scale(panel.metric).digits)
            cell = (panel.metric, row.question, row.setting, mean, f"{at_row.n}/{at_row.planned}")
            told.append(f"| {' | '.join(cell)} |")
    return save(sheet, list(records(rows)), page(heading_, *paragraphs, lines=told), folder, name)


def _level(runs: pd.DataFrame, metric: str) -> Point:
    """What no run has that is done, an agreement of teachers say, is not missing."""
    found = point(runs, metric)
    return found if found.n or not (runs["state"] == "done").all() else Point()


def draw(rows: Sequence[Row], metrics: Sequence[str], marked: Mapping[str, Mapping[str, float]] | None = None) -> Sheet:
    """`marked`: values to mark, with words, by metric, where rows are levels and not differences."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.question, []).append(row)
    places: list[tuple[float, str, Row | None]] = []
    y = 0.0
    for question, group in groups.items():
        *lines, last = textwrap.wrap(question, 44)
        lone = group[0] if len(group) == 1 and not group[0].setting else None  # its mark stands beside the question
        for line in (*lines, last):
            places.append((y, line, lone if line is last else None))
            y -= 1
        for row in group if lone is None else ():
            first, *more = textwrap.wrap(re.sub(r",(?! )", ", ", row.setting), 40) or [""]
            places.append((y, f"   {first}", row))
            places += [(y - 1 - i, f"   {line}", None) for i, line in enumerate(more)]
            y -= 1 + len(more)
        y -= 0.4
    sheet, grid = plt.subplots(
        1, len(metrics), figsize=(PAGE, 0.6 - 0.145 * y), squeeze=False, sharey=True, layout="constrained"
    )
    there = [(at, row) for at, _, row in places if row]
    for axes, metric in zip(grid[0], metrics, strict=True):
        stated = None if marked is None else marked[metric]
        draw_column(axes, there, metric, stated, 16 if len(metrics) < 5 else 13)
    grid[0][0].set_yticks([at for at, _, _ in places], [literal(text) for _, text, _ in places], ha="left")
    for axes in grid[0]:
        axes.tick_params(axis="y", length=0)
    grid[0][0].tick_params(axis="y", pad=158)
    grid[0][0].set_ylim(y, 1)
    return sheet


def draw_column(
    axes: Axes, rows: Sequence[tuple[float, Row]], metric: str, marked: Mapping[str, float] | None, width: int
) -> None:
    """`width`: characters of a line of its title."""
    for value in (0.0,) if marked is None else marked.values():
        dash = "-" if marked is None else (0, (8, 4))
        axes.axvline(value, color=GREY, linewidth=0.8, linestyle=dash, zorder=1)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    for at, row in rows:
        pairs = row.cells[metric].pairs
        if pairs.interval:
            marks = STUDENT.marks(hollow=pairs.flagged) | {"linestyle": "none", "elinewidth": 0.9, "zorder": 3}
            low, high = pairs.interval
            axes.errorbar([pairs.mean], [at], xerr=[[pairs.mean - low], [high - pairs.mean]], **marks)
        elif pairs.n:
            axes.plot([pairs.mean], [at], linestyle="none", **STUDENT.marks(hollow=pairs.flagged, small=True))
        if pairs.n < pairs.planned:
            beside = axes.get_yaxis_transform()
            axes.text(1.0, at, f"{pairs.n}/{pairs.planned}", fontsize=7, transform=beside, ha="right", va="center")
    if marked is not None and scale(metric).unit == "%":  # an interval of few runs may leave what a rate can be
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -BEYOND), min(high, 100 + BEYOND))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
    axes.set_title(textwrap.fill(title(metric), width, break_long_words=False))
    axes.set_xlabel(scale(metric).of_differences if marked is None else scale(metric).unit)


def caption(table: pd.DataFrame, heading_: str, rows: Sequence[Row], metrics: Sequence[str], about: str) -> str:
    marks = (
        "Marks: mean differences, paired by seed, with 95 % Student-t intervals; hollow: a run's"
        " number is flagged; small: a single pair, which has no interval; fractions: pairs that are there, of those"
        " planned. p after Holm: over all rows of a metric, since one of many would be found by chance."
    )
    paragraphs = [heading(table), about, marks, " ".join(remarks(table, metrics))]
    return page(heading_, *paragraphs, lines=numbers(rows, metrics))


def numbers(rows: Sequence[Row], metrics: Sequence[str]) -> Iterator[str]:
    heads = ("metric", "question", "setting", "difference ± half of the interval", "n", "p after Holm")
    yield f"| {' | '.join(heads)} | smallest visible | seeds for it |"
    yield "|---|---|---|---|---|---|---|---|"
    for metric in metrics:
        tested = [row.cells[metric].difference for row in rows]
        for row, p_value in zip(rows, adjusted(tested), strict=True):
            pairs = row.cells[metric].pairs
            p = "" if p_value is None else f"{p_value:.3g}"
            count = f"{pairs.n}/{pairs.planned}"
            digits = scale(metric).digits
            line = (metric, row.question, row.setting, pairs.text("+", digits), count, p, *visible(pairs, digits))
            yield f"| {' | '.join(line)} |"


def records(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for metric, cell in row.cells.items():
            yield from cell.pairs.records({"metric": metric, "question": row.question, "setting": row.setting})
