"""What a store keeps of how runs were trained: their histories, an epoch a row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.report.mirror import results_of
from kdtune.store.standing import Standing
from kdtune.store.store import Store

if TYPE_CHECKING:
    import pandas as pd


def histories_of(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """By id, of the finished runs of a table."""
    standing = Standing(Store(results_of(Path(table.attrs["folder"]))))
    found = standing.histories(table.loc[table["state"] == "done", "id"].unique())
    return {id: rows for id, rows in found.items() if rows}
