"""What an evaluator says of a number before it is measured: its name, its unit, which way is better, who shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PERCENT = "%"


@dataclass(frozen=True)
class Metric:
    """One number of a run: a column of the table. Teachers are chosen, tables and figures are made by what it says."""

    name: str
    unit: str = PERCENT
    better: Literal["higher", "lower"] | None = None  # None: nothing can be chosen by it
    headline: bool = False  # the closing table shows it, figures and progress may
    always: bool = True  # False: absent for some networks or images, such as a ratio of nothing
