"""The figures of corruptions, all alike: differences to Hinton for the mean and for every family, over an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from figure import Figure
from metrics import corruptions, title
from panels import Panel, Series

if TYPE_CHECKING:
    import pandas as pd

ABREAST = 5


def by_family(
    table: pd.DataFrame, name: str, heading: str, x: str, x_label: str, series: Sequence[Series], about: str
) -> Figure:
    """A small panel for each family of a sweep, the mean first."""
    panels: list[Panel | None] = [Panel(metric, title(metric), difference=True) for metric in corruptions(table)]
    panels += [None] * (-len(panels) % ABREAST)
    rows = [panels[i : i + ABREAST] for i in range(0, len(panels), ABREAST)]
    families = table["corruption/families"].max() if "corruption/families" in table else None
    count = f" The mean is over {families:.0f} families." if families == families and families else ""
    return Figure(table, name, heading, x, x_label, series, rows, about=about + count, height=1.25)
