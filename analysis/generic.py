"""Any sweep: its headline metrics over one numeric axis, a line for each combination of the others.

    python analysis/generic.py results/mine [--profile laptop] [--output DIR]

generic: over the numeric axis with the most values. Teachers are a line of their own where the axis is theirs too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from figure import Figure, command, figures
from forest import plain
from metrics import title
from panels import Panel, Series
from style import LINES, TEACHER

from kdtune.report.table import TableError, axes, headlines

if TYPE_CHECKING:
    import pandas as pd

ABREAST = 3  # panels


def axis_of(table: pd.DataFrame) -> str:
    """The numeric axis with the most values; the first of equals."""
    numeric = [name for name in axes(table) if table[name].dtype.kind in "if" and table[name].nunique() > 1]
    if not numeric:
        raise TableError(f"sweep {table.attrs.get('sweep')}: none of its axes is numeric and has several values")
    return max(numeric, key=lambda name: table[name].nunique())


def lines(table: pd.DataFrame, x: str) -> list[Series]:
    """A line for each combination of the further axes that students have, and one for the teachers."""
    students = table[(table["role"] == "student") & table[x].notna()]
    further = [name for name in axes(table) if name != x and students[name].nunique(dropna=False) > 1]
    groups = students[further].drop_duplicates() if further else students[[x]].head(1)
    if numeric := [name for name in further if groups[name].dtype.kind in "if"]:
        groups = groups.sort_values(numeric)
    if len(groups) > len(LINES):
        raise TableError(
            f"sweep {table.attrs.get('sweep')}: {len(groups)} combinations of {', '.join(further)} are more lines than"
            f" the {len(LINES)} that can be told apart; write a script with those that matter"
        )
    teachers = table[(table["role"] == "teacher") & table[x].notna()]
    settings = [name for name in axes(table) if name != x and teachers[name].nunique(dropna=False) > 1]
    beside = len(teachers) > 0 and not settings and len(groups) < len(LINES)
    looks = [look for look in LINES if not (beside and look == TEACHER)]
    found = []
    for values, look in zip(groups[further].itertuples(index=False), looks, strict=False):
        parts = {name: plain(value) for name, value in zip(further, values, strict=True)}
        label = ", ".join(f"{name} {worded(value)}" for name, value in parts.items())
        conditions = [
            f"`{name}`.isna()" if value != value else f"`{name}` == {value!r}" for name, value in parts.items()
        ]
        query = " and ".join(["role == 'student'", *conditions])
        found.append(Series(label or "students", query, look))
    return [*found, Series("teachers", "role == 'teacher'", TEACHER)] if beside else found


def worded(value: Any) -> str:
    """As a sweep file has it: an axis that some points lack is a column of floats."""
    if value != value:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def generic(table: pd.DataFrame) -> Figure:
    x = axis_of(table)
    names = [name for name in headlines(table) if not name.endswith("unconditional")]
    panels: list[Panel | None] = [Panel(name, title(name)) for name in names]
    panels += [None] * (-len(panels) % ABREAST if len(panels) > ABREAST else 0)
    rows = [panels[i : i + ABREAST] for i in range(0, len(panels), ABREAST)]
    heading = f"{table.attrs.get('sweep')} over {x}"
    return Figure(table, "generic", heading, x, x, lines(table, x), rows, legend_columns=3)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", figures(generic)))
