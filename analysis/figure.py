"""A figure from a sweep's table: PNG and PDF, the data drawn as CSV, and all that a reader must know as MD.

Nothing but the drawing is in the picture: its words are in NAME.md beside it.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from metrics import scale
from panels import (
    Level,
    Panel,
    Series,
    draw_level,
    draw_series,
    draw_stated,
    frame,
    level,
    missing,
    places,
    segments,
    values,
)
from points import Point
from stated import stated
from style import LOOK, PAGE, Look, literal
from words import caption

from kdtune.report import table as tables
from kdtune.report.table import StorageError, TableError, profile_folder, read, to_csv

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet


TITLE = 13  # characters of a panel's title to an inch: the last one ends where its panel does


@dataclass(frozen=True)
class Figure:
    """Panels over one axis of a sweep. `panels`: rows of equal length, None where a place is empty."""

    table: pd.DataFrame
    name: str  # of its files
    title: str  # what is compared, as a sentence; the heading of NAME.md
    x: str  # the column
    x_label: str
    series: Sequence[Series]
    panels: Sequence[Sequence[Panel | None]]
    levels: Sequence[Level] = ()
    about: str = ""  # further words for NAME.md: how to read it, what the paper shows there
    width: float = PAGE  # inches
    height: float = 1.7  # inches, of a row of panels
    legend_columns: int = 4


Points = dict[tuple[Panel, str], dict[float, Point]]


def measured(figure: Figure) -> list[list[Panel | None]]:
    """Its panels without those whose metric no finished run has; rows without any are left out.

    Raises TableError where nothing is left.
    """
    table = figure.table
    there = {name for name in table.columns if table.loc[table["state"] == "done", name].notna().any()}
    kept = [[panel if panel and panel.metric in there else None for panel in row] for row in figure.panels]
    kept = [row for row in kept if any(row)]
    if not kept:
        asked = ", ".join(dict.fromkeys(panel.metric for row in figure.panels for panel in row if panel))
        raise TableError(f"{figure.name}: no finished run has {asked}")
    return kept


def draw(figure: Figure, rows: Sequence[Sequence[Panel | None]]) -> tuple[Sheet, Points]:
    """The sheet, and the points on it by panel and label."""
    columns = max(len(row) for row in rows)
    handles = legend(figure)
    keys = -(-len(handles) // figure.legend_columns)
    height = figure.height * len(rows) + 0.19 * keys + 0.3
    sheet, grid = plt.subplots(len(rows), columns, figsize=(figure.width, height), squeeze=False, layout="constrained")
    sheet.get_layout_engine().set(rect=(0, 0.19 * keys / height, 1, 1 - 0.19 * keys / height), h_pad=0.05, w_pad=0.04)
    at = {x for series in figure.series for x in places(figure.table, series, figure.x)}
    drawn: Points = {}
    for row, line in zip(grid, rows, strict=True):
        for axes, panel in zip(row, line, strict=True):
            if panel is None:
                axes.set_axis_off()
            else:
                drawn |= draw_panel(axes, figure, panel, round(TITLE * figure.width / columns))
                ticks(axes, panel, at)
        units = [unit(panel) if panel else "" for panel in line]
        for axes, words, before in zip(row, units, ["", *units], strict=False):
            if words != before:
                axes.set_ylabel(words)
    for column in range(columns):
        filled = [row for row, line in enumerate(rows) if column < len(line) and line[column]]
        if filled:
            grid[max(filled)][column].set_xlabel(figure.x_label)
    sheet.legend(handles=handles, loc="lower center", ncols=figure.legend_columns, frameon=False, borderpad=0.1)
    return sheet, drawn


def unit(panel: Panel) -> str:
    of = scale(panel.metric)
    return f"difference, {of.of_differences}" if panel.difference else of.unit


def draw_panel(axes: Axes, figure: Figure, panel: Panel, width: int) -> Points:
    """`width`: characters of a line of its title; what is longer would run into the next panel, or off the page."""
    table = figure.table
    drawn: Points = {}
    short = 0
    for of in figure.levels:
        if panel.shows(of.label) and not panel.difference:
            across = level(table, of, panel.metric)
            drawn[panel, of.label] = {float("nan"): across}
            draw_level(axes, across, of.look)
    for series in figure.series:
        if not panel.shows(series.label):
            continue
        at = drawn[panel, series.label] = values(table, series, figure.x, panel)
        draw_series(axes, at, series.look, segments(table, series, figure.x, at))
        short += missing(axes, at, series.look, short)
    for words, value in stated(table, panel):
        draw_stated(axes, value, words)
    frame(axes, panel)
    axes.set_title(textwrap.fill(panel.title, width, break_long_words=False), pad=6 + 8 * short)
    return drawn


def ticks(axes: Axes, panel: Panel, at: set[float]) -> None:
    """The values of the axis that were run, the same in all panels; of those too near to be told apart, the first."""
    low, high = panel.within or (float("-inf"), float("inf"))
    there = {x for x in at if low <= x <= high}
    if not there:
        return
    span = max(there) - min(there) or 1.0
    shown: list[float] = []
    for x in sorted(there):
        if not shown or x - shown[-1] >= span / 9:
            shown.append(x)
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.set_xticks(sorted(there - set(shown)), minor=True)
    axes.set_xlim(min(there) - 0.06 * span, max(there) + 0.06 * span)


def legend(figure: Figure) -> list[Line2D]:
    return [key(each.label, each.look) for each in figure.series] + [
        key(each.label, each.look, mark=False) for each in figure.levels
    ]


def key(label: str, look: Look, *, mark: bool = True, line: bool = True) -> Line2D:
    marks = look.marks() if mark else {"color": look.colour}
    return Line2D([], [], label=literal(label), linestyle=look.dash if line else "none", **marks)


def records(figure: Figure, drawn: Points) -> Iterator[dict[str, Any]]:
    """Rows of the CSV."""
    for (panel, label), at in drawn.items():
        for x, each in at.items():
            place = {"metric": panel.metric, "kind": "difference" if panel.difference else "level", "series": label}
            yield from each.records(place | {figure.x: x if x == x else None})


def save(sheet: Sheet, rows: Sequence[Mapping[str, Any]], words: str, folder: Path, name: str) -> list[Path]:
    """Writes name.png, name.pdf, name.csv and name.md. Equal tables give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf", "csv", "md")]
    settle(sheet)
    sheet.savefig(paths[0], metadata={"Software": None})  # else its version and its address
    sheet.savefig(paths[1], metadata={"CreationDate": None})
    plt.close(sheet)
    paths[2].write_bytes(to_csv(rows, first=()))
    paths[3].write_text(words, encoding="utf-8")
    return paths


def settle(sheet: Sheet) -> None:
    """Lays a sheet out, once for all its files. Rounded, because the solver orders its unknowns by their addresses, so
    that its last bits differ from time to time."""
    sheet.draw_without_rendering()
    sheet.set_layout_engine("none")
    for axes in sheet.axes:
        left, bottom, width, height = (round(part, 6) for part in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def make(figure: Figure, folder: Path) -> list[Path]:
    """Draws and saves one figure. Raises TableError where its table has nothing of it."""
    rows = measured(figure)
    sheet, drawn = draw(figure, rows)
    return save(sheet, list(records(figure, drawn)), caption(figure, rows, drawn), folder, figure.name)


Make = Callable[["pd.DataFrame", Path], list[Path]]


def figures(*of: Callable[[pd.DataFrame], Figure]) -> list[Make]:
    """Figures that a table describes, as what `command` takes."""
    return [lambda table, folder, each=each: make(each(table), folder) for each in of]  # type: ignore[misc]


def command(about: str, makers: Sequence[Make], arguments: Sequence[str] | None = None) -> int:
    """A figure script's command line: draws all that the table has. Status 0; 2 where that is nothing."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="a sweep's folder, such as results/fickle")
    parser.add_argument("--profile", help="which profile, where several lie in the folder")
    parser.add_argument("--output", type=Path, help="where to write (default: figures/ beside the table)")
    asked = parser.parse_args(arguments)
    lacking: list[str] = []
    written: list[Path] = []
    try:
        place = profile_folder(asked.results, asked.profile)  # once: of a URI it is a copy, made anew each time
        folder = output(asked.output, place)
        table = read_table(place)
    except (TableError, StorageError) as error:
        print(error, file=sys.stderr)
        return 4 if isinstance(error, StorageError) else 2
    with plt.rc_context(LOOK):
        for each in makers:
            try:
                written += each(table, folder)
            except TableError as error:
                plt.close("all")  # one that was begun
                lacking.append(str(error))
            except OSError as error:
                print(f"{folder} cannot be written ({error.strerror}); --output names another", file=sys.stderr)
                return 2
    for line in lacking:
        print(f"not drawn: {line}", file=sys.stderr)
    for path in written:
        print(f"wrote {path}")
    return 0 if written else 2


def output(asked: Path | None, results: Path) -> Path:
    """The folder to write to, by default beside the results. TableError for a file, and for a link nobody named."""
    folder = asked or results / "figures"
    if asked is None and folder.is_symlink():
        raise TableError(f"{folder} is a link; say where to write with --output")
    if folder.exists() and not folder.is_dir():
        raise TableError(f"{folder} is no folder; say where to write with --output")
    return folder


def read_table(results: str | Path) -> pd.DataFrame:
    """A sweep's table as figures ask for it: its folder in `.attrs`, `taught`, whether a run learned from a teacher,
    `chosen`, whether it taught one, and in a student's row its teacher's value of an axis that it has not itself."""
    table, place = read(results), profile_folder(results)
    if "axes" not in table.attrs:  # students' rows could not be told apart by what their teachers have
        raise TableError(f"{place} was written by an earlier kdtune; the sweep's own command writes its table anew")
    table.attrs["folder"] = str(place)
    for axis in tables.axes(table):
        if f"teacher.{axis}" in table:
            table[axis] = table[axis].where(table[axis].notna(), table[f"teacher.{axis}"])
    if "taught" not in table:  # of an earlier kdtune, which had no other loss of students
        learned = [name for name in table if str(name).startswith("distillation.")]
        table["taught"] = table[learned].notna().any(axis=1)
    taught_by = set(table["teacher.id"].dropna()) if "teacher.id" in table else set()
    return table.assign(chosen=table["id"].isin(taught_by))
