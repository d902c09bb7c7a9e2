"""What a search found, for its page: proposals on the front, and the runs that confirm them; from search.csv alone."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from kdtune.report.settings import with_half

CONFIRMED = "confirmed/"
CAUTION = (
    "Proposals on the front: means over their seeds and 95 % t intervals, which are wide over two. What is best of many"
    " by a number looks better by it than it is: confirmed/ are seeds that chose nothing."
)


def found_by_search(place: Path) -> tuple[list[str], list[list[str]]] | None:
    """Heads, and a line for each proposal that is on the front or was confirmed; None for a sweep that is no search."""
    if not (file := place / "search.csv").is_file():
        return None
    with open(file, newline="", encoding="utf-8") as opened:
        reader = csv.DictReader(opened)
        names, rows = [*(reader.fieldnames or ())], [*reader]
    axes = names[names.index("number") + 1 : names.index("listed")]
    metrics = [name for name in names if f"{name}.low" in names]
    again = [name for name in metrics if name.startswith(CONFIRMED)]
    lines = [
        [row["number"], *(row[axis] for axis in axes), *(_cell(row, metric) for metric in metrics)]
        for row in rows
        if row["front"] == "True" or any(row[name] for name in again)
    ]
    return ["proposal", *axes, *metrics], lines


def _cell(row: Mapping[str, str], metric: str) -> str:
    """`82.1 ± 4.5 (n = 3)`: mean, half of the 95 % interval, and of how many seeds; of one there is no interval."""
    if not row[metric]:
        return "-"
    high = row[f"{metric}.high"]
    return f"{with_half(float(row[metric]), float(high) if high else None)} (n = {row[f'{metric}.n']})"
