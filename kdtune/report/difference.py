"""Two sweeps side by side: the settings that differ, the runs they share, and what came out otherwise.

A setting of one sweep is compared with that of the other that has the same role and the same values of the axes which
both have; runs are paired by their seed. A run that both have is no difference, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdtune.planning.place import ROLES
from kdtune.report.cells import aligned
from kdtune.report.settings import by_setting, measured, plain
from kdtune.report.table import FIRST, TableError, axes, headlines
from kdtune.statistics import Difference, paired_difference
from kdtune.sweepfile.values import word

if TYPE_CHECKING:
    import pandas as pd

VERSIONS = ("recipe_version", "bfloat16_version")
FOUND = (
    *("teacher.id", "teacher.weights_sha256", "source.id", "source.weights_sha256", "kept.epoch"),
    *("calibrated.temperature", "calibrated.alpha", "search.number", "search.front", "search.confirms"),
)
NO_SETTINGS = (*FIRST, *VERSIONS, "taught", *FOUND)
ABSENT = "-"


@dataclass(frozen=True)
class Setting:
    """One key whose values differ, in words, between the runs of a role."""

    role: str
    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Line:
    """One setting of both sweeps: the second minus the first by metric; None where no seed has both."""

    label: str
    pairs: int
    differences: dict[str, Difference | None]


@dataclass(frozen=True)
class Sweeps:
    """The whole comparison."""

    names: tuple[str, str]
    runs: tuple[int, int]
    shared: int
    settings: list[Setting]
    metrics: list[str]
    lines: list[Line]


def between(first: pd.DataFrame, second: pd.DataFrame, metrics: Sequence[str] = ()) -> Sweeps:
    """The second against the first, by default in the headlines that both have. Raises TableError for a metric that
    one of them lacks."""
    for table in (first, second):
        if lacking := [metric for metric in metrics if metric not in table]:
            raise TableError(f"sweep {table.attrs.get('sweep')} has no {lacking[0]}")
    both = [name for name in headlines(first) if name in headlines(second)]
    shown = list(metrics) or both
    ids = [set(table["id"]) for table in (first, second)]
    return Sweeps(
        names=(_name(first), _name(second)),
        runs=(len(ids[0]), len(ids[1])),
        shared=len(ids[0] & ids[1]),
        settings=[*_settings(first, second)],
        metrics=shown,
        lines=[*_lines(first, second, shown)],
    )


def _name(table: pd.DataFrame) -> str:
    return f"{table.attrs.get('sweep')} ({table.attrs.get('profile')}, {table.attrs.get('dataset')})"


def _settings(first: pd.DataFrame, second: pd.DataFrame) -> Iterator[Setting]:
    """Keys of runs' descriptions, role by role."""
    names = [name for name in dict.fromkeys([*first, *second]) if "/" not in str(name) and name not in NO_SETTINGS]
    for role in ROLES:
        for name in names:
            one, other = (_values_of(table, role, name) for table in (first, second))
            if one != other:
                yield Setting(role, name, one, other)


def _values_of(table: pd.DataFrame, role: str, name: str) -> str:
    """The values of a key among the runs of a role, in words."""
    rows = table[table["role"] == role]
    if name not in rows:
        return ABSENT
    found = dict.fromkeys(word(plain(value)) for value in rows[name] if plain(value) is not None)
    return ", ".join(found) or ABSENT


def _lines(first: pd.DataFrame, second: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Line]:
    common = [axis for axis in axes(first) if axis in axes(second)]
    groups, others = (by_setting(table, common) for table in (first, second))
    for label, runs in groups.items():
        if (theirs := others.get(label)) is None:
            continue
        new, old = theirs[~theirs["id"].isin(runs["id"])], runs[~runs["id"].isin(theirs["id"])]
        if new.duplicated(["seed"]).any() or old.duplicated(["seed"]).any():
            continue  # a further axis of one of them: there is no one run to pair with
        found = {metric: paired_difference(measured(new, metric), measured(old, metric)) for metric in metrics}
        if pairs := max((each.n for each in found.values() if each is not None), default=0):
            yield Line(label, pairs, found)


def told(found: Sweeps) -> Iterator[str]:
    """For a terminal."""
    yield f"first   {found.names[0]}: {found.runs[0]} runs"
    yield f"second  {found.names[1]}: {found.runs[1]} runs, {found.shared} of them shared"
    if found.settings:
        yield "settings that differ, first | second:"
    width = max((len(f"{each.role} {each.name}") for each in found.settings), default=0)
    for each in found.settings:
        yield f"  {f'{each.role} {each.name}':{width}}  {each.first} | {each.second}"
    if not found.lines:
        yield "no setting of one has other runs of the same seeds in the other: nothing to compare"
        return
    rows = [["second minus first", "pairs", *found.metrics]]
    for line in found.lines:
        rows.append([line.label, f"{line.pairs}", *(said(line.differences[name]) for name in found.metrics)])
    yield from aligned(rows).splitlines()
    if any(each and each.excludes_zero for line in found.lines for each in line.differences.values()):
        yield "* the 95 % interval of the difference, paired by seed, excludes 0"


def said(each: Difference | None) -> str:
    """In words: `+1.25 +- 0.40 *`, `-0.0041 +- 0.0038 *`: more digits where two would leave nothing."""
    if each is None:
        return ABSENT
    width = 0.0 if each.high is None else each.high - each.mean
    largest = max(abs(each.mean), width)
    digits = max(2, 1 - math.floor(math.log10(largest))) if 1e-6 < largest < math.inf else 2
    half = "" if each.high is None else f" +- {width:.{digits}f}"
    return f"{each.mean:+.{digits}f}{half}{' *' if each.excludes_zero else ''}"
