"""Each setting of a sweep beside its controls: the settings that differ from it in one axis alone, which is off there.

Off is 0, false or nothing. `dropout=0.2 epochs=30` is compared with `dropout=0 epochs=30`; where several axes are on,
each of them is taken away in turn, as far as the grid has that. Runs are paired by their seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdtune.report.settings import by_setting, is_flagged, measured, value_of
from kdtune.report.table import axes
from kdtune.statistics import Difference, paired_difference

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Control:
    """A setting minus that without `axis`, by metric; None where no seed has both. `flagged`: metrics of which a flag
    bears on a run of either."""

    setting: str
    axis: str
    pairs: int
    differences: dict[str, Difference | None]
    flagged: frozenset[str]


def controls(table: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Control]:
    """In the order of the table; a pair of settings of which no seed has both is left out."""
    names = axes(table)
    groups = by_setting(table, names)
    places = {tuple(_place(runs.iloc[0], names).items()): told for told, runs in groups.items()}
    for told, runs in groups.items():
        here = _place(runs.iloc[0], names)
        for axis in (axis for axis in names if not _is_off(here[axis])):
            for there in (other for other in places if _is_without(dict(other), here, axis)):
                base = groups[places[there]]
                found = {each: paired_difference(measured(runs, each), measured(base, each)) for each in metrics}
                if pairs := max((each.n for each in found.values() if each is not None), default=0):
                    flagged = frozenset(each for each in metrics if is_flagged(runs, each) or is_flagged(base, each))
                    yield Control(told, axis, pairs, found, flagged)


def _place(row: Any, names: Sequence[str]) -> dict[str, Any]:
    return {"role": str(row["role"]), **{axis: value_of(row, axis) for axis in names}}


def _is_off(value: Any) -> bool:
    return value is None or value in (0, "false", "null")  # False is 0


def _is_without(other: dict[str, Any], here: dict[str, Any], axis: str) -> bool:
    return _is_off(other[axis]) and all(other[name] == here[name] for name in here if name != axis)
