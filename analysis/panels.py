"""What a figure is made of, lines over an axis in panels, and how they are drawn on matplotlib's axes.

Marks stand at their true x. Filled: a mean and its 95 % interval; hollow: one of its runs is flagged; small: a single
run, which has no interval; a cross at the foot: runs were planned there, and none is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metrics import scale
from points import Contrast, Point, alike, cells, need, point, points, refuse_mixtures, select
from style import BLACK, GREY, Look

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BEYOND = 2.0  # percent points that a panel of rates may show beside 0 and 100, for marks that lie there


@dataclass(frozen=True)
class Series:
    """The runs of one line over a figure's axis. `runs` is a query of the table.

    `join`: columns in which neighbours must agree for the line to join them. `against` and `same`: whose runs a panel
    of differences compares these with, see points.Contrast; without, such a panel leaves the series out.
    """

    label: str
    runs: str
    look: Look
    join: tuple[str, ...] = ()
    against: str = ""
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """Runs that have no place on the axis: a line across the panel, and a band for its interval."""

    label: str
    runs: str
    look: Look


@dataclass(frozen=True)
class Panel:
    """One metric over the axis: its levels, or differences to each series' baseline, in percentage points."""

    metric: str
    title: str
    difference: bool = False
    within: tuple[float, float] | None = None  # the part of the axis that it shows
    only: tuple[str, ...] = ()  # labels of its series and levels; empty: all
    paper: tuple[str, ...] = ()  # values of paper.yaml that are drawn on the paper's own data set

    def shows(self, label: str) -> bool:
        return not self.only or label in self.only


def values(table: pd.DataFrame, series: Series, x: str, panel: Panel) -> dict[float, Point]:
    """What a panel draws of a series, by x."""
    if panel.difference and not series.against:
        return {}
    if panel.difference:
        contrast = Contrast(series.runs, series.against, series.same, (x,))
        found = {float(cell.place[x]): cell.pairs for cell in cells(table, contrast, panel.metric)}
    else:
        found = points(select(table, series.runs), x, panel.metric)
    low, high = panel.within or (float("-inf"), float("inf"))
    return {at: each for at, each in sorted(alike(found).items()) if low <= at <= high}


def places(table: pd.DataFrame, series: Series, x: str) -> set[float]:
    """Where on the axis a series has runs, finished or not."""
    need(table, x)
    return set(map(float, select(table, series.runs)[x].dropna()))


def level(table: pd.DataFrame, of: Level, metric: str) -> Point:
    rows = select(table, of.runs)
    refuse_mixtures(rows)
    return point(rows, metric)


def segments(table: pd.DataFrame, series: Series, x: str, at: Mapping[float, Point]) -> list[list[float]]:
    """The x that one line joins: neighbours that have an interval and agree in `join`."""
    rows = select(table, series.runs) if series.join else table
    found: list[list[float]] = [[]]
    before: Any = None
    for value in sorted(at):
        here = rows[rows[x] == value] if series.join else rows
        settings = tuple(tuple(sorted(map(str, here[name].unique()))) for name in series.join if name in here)
        if not at[value].interval:
            found.append([])
            continue
        if found[-1] and settings != before:
            found.append([])
        found[-1].append(value)
        before = settings
    return [line for line in found if len(line) > 1]


def draw_series(axes: Axes, at: Mapping[float, Point], look: Look, lines: list[list[float]]) -> None:
    for line in lines:
        axes.plot(line, [at[x].mean for x in line], color=look.colour, linestyle=look.dash, zorder=2)
    for x, each in at.items():
        if each.interval:
            low, high = each.interval
            marks = look.marks(hollow=each.flagged) | {"linestyle": "none", "elinewidth": 0.9, "zorder": 3}
            axes.errorbar([x], [each.mean], [[each.mean - low], [high - each.mean]], **marks)
        elif each.n:
            marks = look.marks(hollow=each.flagged, small=True) | {"linestyle": "none", "zorder": 3}
            axes.plot([x], [each.mean], **marks)
        else:
            across = axes.get_xaxis_transform()
            axes.plot([x], [0.02], "x", color=look.colour, markersize=5, transform=across, clip_on=False, zorder=4)


def draw_level(axes: Axes, of: Point, look: Look) -> None:
    if not of.n:
        return
    axes.axhline(of.mean, color=look.colour, linestyle=look.dash, linewidth=1.0, zorder=1)
    if of.interval:
        axes.axhspan(*of.interval, color=look.colour, alpha=0.12, linewidth=0, zorder=0)


def draw_stated(axes: Axes, value: float, words: str) -> None:
    """A value that the paper states: a thin line, with its words at the right end, above it."""
    axes.axhline(value, color=BLACK, linewidth=0.6, linestyle=(0, (8, 4)), zorder=1)
    axes.annotate(
        f"{words} {value:g}",
        (1, value),
        (0, 1),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=7,
        ha="right",
        color=BLACK,
    )


def missing(axes: Axes, at: Mapping[float, Point], look: Look, row: int) -> bool:
    """Writes n above the panel, in text row `row`, where runs are missing; whether there was anything to write."""
    short = {x: each for x, each in at.items() if each.n < each.planned}
    for x, each in short.items():
        axes.annotate(
            f"{each.n}/{each.planned}",
            (x, 1),
            (0, 1 + 8 * row),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            fontsize=7,
            color=look.colour,
            ha="center",
            annotation_clip=False,
        )
    return bool(short)


def frame(axes: Axes, panel: Panel) -> None:
    """The vertical axis: its unit, its least span, a line at no difference. An interval of few seeds may be wider than
    what a rate can be: it is cut there, for what is beyond says nothing."""
    if panel.difference:
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    low, high = axes.get_ylim()
    spare = max(0.0, scale(panel.metric).least - (high - low)) / 2
    low, high = low - spare, high + spare
    if scale(panel.metric).unit == "%" and not panel.difference:
        low, high = max(low, -BEYOND), min(high, 100 + BEYOND)
    axes.set_ylim(low, high)
