"""Which setting, and which run, came out best by one metric."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdtune.report.comparison import measured, plain
from kdtune.report.table import TableError, axes
from kdtune.statistics import Interval, mean_interval
from kdtune.sweepfile.values import word

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # settings


def ranked(table: pd.DataFrame, metric: str, only: Mapping[str, Any]) -> Iterator[str]:
    """Settings by their mean over seeds, the best first; then the best run of all. For a terminal.

    Students, unless `only` names another role. Raises TableError where nothing was measured by this metric.
    """
    kept = _kept(table, only)
    means = _means(kept, axes(table), metric)
    if not means:
        near = [str(name) for name in table.columns if str(name).startswith(metric.split("/")[0] + "/")]
        told = f"sweep {table.attrs.get('sweep')}: nothing has {metric}"
        raise TableError(f"{told}; there is {', '.join(near) or 'none of that kind'}")
    lowest = metric in json.loads(table.attrs.get("lower", "[]"))
    order = sorted(means, key=lambda label: means[label].mean, reverse=not lowest)
    width = max(map(len, order[:SHOWN]))
    yield f"by {metric}, {'lowest' if lowest else 'highest'} mean over seeds first"
    for label in order[:SHOWN]:
        mean = means[label]
        half = f" +- {mean.high - mean.mean:.2f}" if mean.high is not None else ""
        yield f"  {label:{width}}  {mean.mean:.2f}{half}  n = {mean.n}"
    if len(order) > SHOWN:
        yield f"  and {len(order) - SHOWN} more"
    done = kept[(kept["state"] == "done") & kept[metric].notna()]
    run = done.loc[done[metric].idxmin() if lowest else done[metric].idxmax()]
    yield f"best run: {_label(run, axes(table))} seed={word(plain(run['seed']))}  {run[metric]:.2f}  {run['id']}"
    if not metric.startswith("val/"):
        yield "chosen by test data: nothing that is reported may rest on this choice; val/accuracy is for that"


def _kept(table: pd.DataFrame, only: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that are as `only` says."""
    wanted = {"role": "student", **only} if (table["role"] == "student").any() else dict(only)
    if lacking := [name for name in wanted if name not in table]:
        known = ", ".join(axes(table)) or "none"
        raise TableError(f"sweep {table.attrs.get('sweep')}: there is no axis {lacking[0]!r}; its axes: {known}")
    alike = [
        all(word(plain(row[name])) == word(value) for name, value in wanted.items()) for _, row in table.iterrows()
    ]
    return table[alike].reset_index(drop=True)


def _means(rows: pd.DataFrame, names: list[str], metric: str) -> dict[str, Interval]:
    """By setting, in words."""
    groups: dict[str, list[Any]] = {}
    for index, row in rows.iterrows():
        groups.setdefault(_label(row, names), []).append(index)
    runs = {label: measured(rows.loc[places].drop_duplicates("id"), metric) for label, places in groups.items()}
    return {label: mean_interval([*values.values()]) for label, values in runs.items() if values}


def _label(row: Any, names: list[str]) -> str:
    """`student dropout=0.2`, without axes that it does not use."""
    used = [f"{axis}={word(plain(row[axis]))}" for axis in names if plain(row[axis]) is not None]
    return " ".join([str(row["role"]), *used])
