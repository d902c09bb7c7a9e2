"""What a store keeps of how runs were trained: their histories, an epoch a row; and their mean over epochs, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from style import Look

from kdtune.report.mirror import results_of
from kdtune.statistics import mean_interval
from kdtune.store.standing import Standing
from kdtune.store.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def histories_of(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """By id, of the finished runs of a table."""
    standing = Standing(Store(results_of(Path(table.attrs["folder"]))))
    found = standing.histories(table.loc[table["state"] == "done", "id"].unique())
    return {id: rows for id, rows in found.items() if rows}


def curve(
    axes: Axes,
    histories: Sequence[list[dict[str, Any]]],
    name: str,
    look: Look,
    place: dict[str, Any],
    *,
    band: bool = True,
) -> list[dict[str, Any]]:
    """Draws the mean over runs where all have a value, with a band for its interval; its rows for the CSV."""
    values: dict[int, list[float]] = {}
    for rows in histories:
        for row in rows:
            if name in row:
                values.setdefault(int(row["epoch"]), []).append(float(row[name]))
    epochs = sorted(epoch for epoch, of in values.items() if len(of) == len(histories))
    found = [mean_interval(values[epoch]) for epoch in epochs]
    axes.plot(epochs, [each.mean for each in found], color=look.colour, linestyle=look.dash)
    if band and len(histories) > 1:
        low = [each.mean if each.low is None else each.low for each in found]
        high = [each.mean if each.high is None else each.high for each in found]
        axes.fill_between(epochs, low, high, color=look.colour, alpha=0.12, linewidth=0)
    return [
        place | {"epoch": epoch, "mean": each.mean, "low": each.low, "high": each.high, "n": len(histories)}
        for epoch, each in zip(epochs, found, strict=True)
    ]
