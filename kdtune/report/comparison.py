"""A table to read or to print: settings down the side, means over seeds, and what differs from a baseline.

compared([table], Asked(rows=("dropout",), columns=("test/accuracy",), baseline={"dropout": 0.0}))

A cell is the mean over the runs of one setting, each once, and half of its 95 % t interval; it is marked where the
interval of its difference to the baseline, paired by seed, excludes 0. A cell never averages over an axis in silence.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdtune.report.cells import aligned
from kdtune.report.settings import digits, is_flagged, measured, refuse_unknown, those, value_of
from kdtune.report.table import TableError, axes, headlines, inert
from kdtune.statistics import Interval, mean_interval, paired_difference
from kdtune.sweepfile.values import word

if TYPE_CHECKING:
    import pandas as pd

Settings = tuple[tuple[str, str], ...]  # axes and their values in words


@dataclass(frozen=True)
class Asked:
    """What to show: axes down the side and one across, metrics, the setting that others are compared with."""

    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()  # none: the sweep's headlines
    across: str | None = None
    baseline: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)  # axes, seed or role; the role is student by default


@dataclass(frozen=True)
class Cell:
    """One metric of one setting: `n` of `planned` runs have it."""

    interval: Interval | None
    planned: int
    differs: bool = False
    flagged: bool = False

    @property
    def half(self) -> float | None:
        between = self.interval
        return None if between is None or between.high is None else between.high - between.mean


@dataclass(frozen=True)
class Comparison:
    """Titles of the columns, and lines of as many cells; how many axes stand before them."""

    heads: list[str]
    titles: list[str]
    lines: list[tuple[list[str], list[Cell | None]]]
    against: str = ""  # the baseline, in words


def compared(tables: Sequence[pd.DataFrame], asked: Asked) -> Comparison:
    """The comparison of these tables, one below the other. Raises TableError where one lacks an axis or a metric, or
    where a cell would average over a further axis."""
    several = len(tables) > 1
    heads = [*(["sweep"] if several else []), *asked.rows]
    lines, titles = [], list[str]()
    for table in tables:
        metrics = asked.columns or tuple(headlines(table))
        groups = _groups(table, asked)
        across = list(dict.fromkeys(dict(settings)[asked.across] for settings in groups)) if asked.across else [None]
        mine = [_title(metric, asked.across, value) for value in across for metric in metrics]
        titles = titles or mine
        if titles != mine:
            raise TableError(f"the tables have other columns ({', '.join(mine)}); name them with --columns")
        for names in dict.fromkeys(tuple(dict(settings)[axis] for axis in asked.rows) for settings in groups):
            cells: list[Cell | None] = []
            for value in across:
                here = (*zip(asked.rows, names, strict=True), *([(asked.across, value)] if asked.across else []))
                cells += [_cell(groups, here, metric, asked) for metric in metrics]  # type: ignore[arg-type]
            lines.append(([*([str(table.attrs.get("sweep"))] if several else []), *names], cells))
    return Comparison(
        heads, titles, lines, ", ".join(f"{axis}={word(value)}" for axis, value in asked.baseline.items())
    )


def _title(metric: str, axis: str | None, value: str | None) -> str:
    return metric if axis is None else f"{metric}, {axis}={value}"


def _groups(table: pd.DataFrame, asked: Asked) -> dict[Settings, pd.DataFrame]:
    """The runs of each setting, each once, in the order of the table."""
    shown = [*asked.rows, *([asked.across] if asked.across else [])]
    named = {**asked.only, **asked.baseline}
    refuse_unknown(table, [*shown, *named])
    for metric in asked.columns:
        if metric not in table:
            near = [name for name in table.columns if str(name).startswith(metric.split("/")[0])]
            told = f"sweep {table.attrs.get('sweep')} has no {metric}"
            raise TableError(f"{told}; there is {', '.join(near) or 'none of that name'}")
    rows = those(table, asked.only)
    groups: dict[Settings, list[Any]] = {}
    for index, row in rows.iterrows():
        groups.setdefault(tuple((axis, word(value_of(row, axis))) for axis in shown), []).append(index)
    found = {settings: rows.loc[places].drop_duplicates("id") for settings, places in groups.items()}
    for settings, runs in found.items():
        _refuse_mixtures(settings, runs, table)
    if not found:
        raise TableError(f"sweep {table.attrs.get('sweep')}: no run is as --only asks")
    _refuse_no_baseline(found, asked)
    return found


def _refuse_no_baseline(groups: Mapping[Settings, pd.DataFrame], asked: Asked) -> None:
    """TableError where nothing would be compared with the baseline: no mark would pass for no difference."""
    for axis, value in asked.baseline.items():
        if axis not in (*asked.rows, asked.across):
            raise TableError(f"--baseline {axis}={word(value)}: {axis} is neither in --rows nor --across")
    wanted = {axis: word(value) for axis, value in asked.baseline.items()}
    if not any(all(dict(settings)[axis] == value for axis, value in wanted.items()) for settings in groups):
        told = ", ".join(f"{axis}={value}" for axis, value in wanted.items())
        raise TableError(f"--baseline {told}: no run that is shown has that")


def _refuse_mixtures(settings: Settings, runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """TableError where runs of one cell differ in an axis that is not shown, or two have one seed."""
    spread = [axis for axis in axes(table) if len({word(value_of(row, axis)) for _, row in runs.iterrows()}) > 1]
    if not spread and not runs.duplicated(["seed"]).any():
        return
    where = ", ".join(f"{axis}={value}" for axis, value in settings)
    raise TableError(
        f"{where}: a mean would be over {', '.join(spread) or 'several settings'} too; add it to --rows, or take one of"
        f" its values with --only {spread[0] if spread else 'AXIS'}=VALUE"
    )


def _cell(groups: Mapping[Settings, pd.DataFrame], here: Settings, metric: str, asked: Asked) -> Cell | None:
    if (runs := groups.get(here)) is None:
        return None
    values = measured(runs, metric)
    interval = mean_interval(list(values.values())) if values else None
    theirs = tuple((axis, word(asked.baseline[axis]) if axis in asked.baseline else value) for axis, value in here)
    differs = False
    if asked.baseline and theirs != here and (base := groups.get(theirs)) is not None:
        difference = paired_difference(values, measured(base, metric))
        differs = difference is not None and difference.excludes_zero
    return Cell(interval, len(runs), differs, is_flagged(runs, metric))


def written(comparison: Comparison, form: str) -> str:
    """The comparison as text, csv, md or latex (booktabs)."""
    if form == "csv":
        return _csv(comparison)
    cells = [[*names, *(_said(cell, form) for cell in line)] for names, line in comparison.lines]
    rows = [[*comparison.heads, *comparison.titles], *cells]
    first = len(comparison.heads)
    if form == "latex":
        return "\n".join([*(f"% {note}" for note in _notes(comparison, form)), *_latex(rows, first)]) + "\n"
    if form == "md":
        ruled = [rows[0], [*["---"] * first, *["---:"] * len(comparison.titles)], *rows[1:]]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in ruled]
        return "\n".join([*lines, *(part for note in _notes(comparison, form) for part in ("", note))]) + "\n"
    return "\n".join([aligned(rows, first), *_notes(comparison, form)]) + "\n"


def _notes(comparison: Comparison, form: str) -> Iterator[str]:
    cells = [cell for _, line in comparison.lines for cell in line if cell]
    if form == "latex":
        yield "needs booktabs"
    if form != "text" and any(cell.half is not None for cell in cells):
        yield f"{'+-' if form == 'latex' else '±'}: half of the 95 % Student-t interval over seeds"
    if any(cell.differs for cell in cells):
        mark = "*" if form == "text" else "bold:"
        told = "the 95 % interval of the difference, paired by seed, excludes 0"
        yield f"{mark} differs from {comparison.against}: {told}"
    if any(cell.flagged for cell in cells):
        yield "! not to be believed as it stands: a flag of a run bears on it"


def _said(cell: Cell | None, form: str) -> str:
    if cell is None or cell.interval is None:
        return "-"
    plus = {"text": " +- ", "md": " ± ", "latex": r" \pm "}[form]
    width = digits(cell.interval.mean)
    said = f"{cell.interval.mean:{width}}" + ("" if cell.half is None else f"{plus}{cell.half:{width}}")
    few = f" ({cell.interval.n} of {cell.planned})" if cell.interval.n < cell.planned else ""
    mark = "!" if cell.flagged else ""
    if form == "latex":
        number = rf"\mathbf{{{said}}}" if cell.differs else said
        return f"${number}${few}{mark}"
    if form == "md":
        return f"{f'**{said}**' if cell.differs else said}{few}{mark}"
    return f"{said}{few}{' *' if cell.differs else ''}{' !' if mark else ''}"


def _latex(rows: Sequence[Sequence[str]], first: int) -> Iterator[str]:
    yield rf"\begin{{tabular}}{{{'l' * first}{'r' * (len(rows[0]) - first)}}}"
    yield r"\toprule"
    yield f"{' & '.join(map(_escaped, rows[0]))} \\\\"
    yield r"\midrule"
    for row in rows[1:]:
        yield f"{' & '.join([*map(_escaped, row[:first]), *row[first:]])} \\\\"
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _escaped(text: str) -> str:
    """Text for LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(each, f"\\{each}" if each in "&%$#_{}" else each) for each in text)


def _csv(comparison: Comparison) -> str:
    """A row a setting and metric: numbers as they are, for another program."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*comparison.heads, "metric", "mean", "low", "high", "n", "planned", "differs", "flagged"])
    for names, cells in comparison.lines:
        shown = [name if _is_number(name) else inert(name) for name in names]  # -0.5 is no formula
        for title, cell in zip(comparison.titles, cells, strict=True):
            if cell is not None:
                between = cell.interval
                numbers = (between.mean, between.low, between.high, between.n) if between else (None, None, None, 0)
                writer.writerow([*shown, title, *numbers, cell.planned, int(cell.differs), int(cell.flagged)])
    return text.getvalue()


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
