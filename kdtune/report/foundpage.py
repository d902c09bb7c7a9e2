"""What a search found, for its page: proposals on the front, and the runs that confirm them; from search.csv alone."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from kdtune.report.settings import digits

if TYPE_CHECKING:
    import pandas as pd

CONFIRMED = "confirmed/"
CAUTION = (
    "Proposals on the front: means over their seeds and 95 % t intervals, which are wide over two. What is best of many"
    " by a number looks better by it than it is: confirmed/ are seeds that chose nothing."
)


def found_by_search(place: Path) -> tuple[list[str], list[list[str]]] | None:
    """Heads, and a line for each proposal that is on the front or was confirmed; None for a sweep that is no search."""
    import pandas as pd

    if not (file := place / "search.csv").is_file():
        return None
    frame = pd.read_csv(file)
    names = [*frame.columns]
    axes = names[names.index("number") + 1 : names.index("listed")]
    metrics = [name for name in names if f"{name}.low" in names]
    again = frame[[f"{name}.n" for name in metrics if name.startswith(CONFIRMED)]].notna().any(axis=1)
    shown = frame[frame["front"].astype(bool) | again]
    lines = [[str(row["number"]), *(str(row[axis]) for axis in axes), *(_cell(row, each) for each in metrics)]
             for _, row in shown.iterrows()]  # fmt: skip
    return ["proposal", *axes, *metrics], lines


def _cell(row: pd.Series, metric: str) -> str:
    """`82.1 ± 4.5 (n = 3)`: mean, half of the 95 % interval, and of how many seeds; of one there is no interval."""
    mean, high, count = row[metric], row[f"{metric}.high"], row[f"{metric}.n"]
    if isnan(mean):
        return "-"
    form = digits(mean)
    half = f"\u00a0±\u00a0{high - mean:{form}}" if not isnan(high) and count > 1 else ""
    return f"{mean:{form}}{half} (n = {count:.0f})"
