"""Rows of the table by setting: a role and a point of the grid, whose runs differ in their seeds alone.

An axis that a student's own part of the file does not use may still be its teacher's: then that is its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdtune.evaluation.flags import flags_of
from kdtune.report.table import TableError, axes
from kdtune.sweepfile.values import word

if TYPE_CHECKING:
    import pandas as pd


WHOLE = 1e15  # a fraction from here on is written with an exponent


def plain(value: Any) -> Any:
    """A cell of the table as a sweep file would have it."""
    if value is None or value != value:
        return None
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE else value


def value_of(row: Any, axis: str) -> Any:
    """The value of an axis that leads to a row: its own, else its teacher's; None where neither has one."""
    own = plain(row.get(axis))
    return plain(row.get(f"teacher.{axis}")) if own is None else own


def label(row: Any, names: Sequence[str]) -> str:
    """`student dropout=0.2`, without axes that it does not use."""
    used = {axis: value_of(row, axis) for axis in names}
    return " ".join([str(row["role"]), *(f"{axis}={word(value)}" for axis, value in used.items() if value is not None)])


def by_setting(table: pd.DataFrame, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The runs of each role and point of these axes, each once, by its label."""
    places: dict[str, list[Any]] = {}
    for index, row in table.iterrows():
        places.setdefault(label(row, names), []).append(index)
    return {told: table.loc[rows].drop_duplicates("id") for told, rows in places.items()}


def those(table: pd.DataFrame, only: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that are as `only` says, students where it names no role and there are any. Raises TableError for what
    is no axis."""
    wanted = {"role": "student", **only} if (table["role"] == "student").any() else dict(only)
    refuse_unknown(table, wanted)
    words = {axis: word(plain(value)) for axis, value in wanted.items()}
    alike = [all(word(value_of(row, axis)) == told for axis, told in words.items()) for _, row in table.iterrows()]
    return table[alike].reset_index(drop=True)


def refuse_unknown(table: pd.DataFrame, names: Sequence[str] | Mapping[str, Any]) -> None:
    """TableError for the first of these that is no column."""
    if lacking := [name for name in names if name not in table]:
        known = ", ".join(axes(table)) or "none"
        raise TableError(f"sweep {table.attrs.get('sweep')}: there is no axis {lacking[0]!r}; its axes: {known}")


def done(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Those that are done and have the metric."""
    return runs[(runs["state"] == "done") & runs[metric].notna()] if metric in runs else runs[:0]


def digits(mean: float) -> str:
    """How a mean is written: rates are percent; what is small is another unit."""
    return ".1f" if abs(mean) >= 2 else ".3f"


def with_half(mean: float, high: float | None) -> str:
    """A mean and half of its interval, which ends at `high`: `82.1 ± 4.5`, held together on a page."""
    form = digits(mean)
    return f"{mean:{form}}" + ("" if high is None else f"\u00a0±\u00a0{high - mean:{form}}")


def is_flagged(runs: pd.DataFrame, metric: str) -> bool:
    """Whether a flag bears on this metric of any of them that is done."""
    return any(flags_of(row, metric) for row in done(runs, metric).to_dict("records"))


def measured(runs: pd.DataFrame, metric: str) -> dict[int, float]:
    """One metric of some runs that are done, by seed; those without a seed (teachers from a file) by other numbers.
    Raises TableError for a column of words."""
    found = {}
    for number, row in enumerate(done(runs, metric).to_dict("records")):
        seed = plain(row["seed"])
        try:
            found[-1 - number if seed is None else int(seed)] = float(row[metric])
        except ValueError as error:
            raise TableError(f"{metric} is no number of a run: came {row[metric]!r}") from error
    return found
