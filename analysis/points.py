"""The points of a figure: the runs of one condition, their mean and interval, and how many are missing.

One run gives no interval, and missing runs are counted, not averaged away.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from kdtune.report.table import TableError
from kdtune.statistics import mean_interval

if TYPE_CHECKING:
    import pandas as pd

Place = TypeVar("Place")


@dataclass(frozen=True)
class Single:
    """One run's value, in percent, or a difference of two in percentage points."""

    seed: int | None  # None: a teacher that was given, not trained
    id: str
    value: float


@dataclass(frozen=True)
class Point:
    """The runs of one condition, by seed, of which `planned` were to be."""

    runs: tuple[Single, ...] = ()
    planned: int = 0

    @property
    def n(self) -> int:
        return len(self.runs)

    @cached_property
    def mean(self) -> float:
        """Not a number where there are no runs."""
        return sum(run.value for run in self.runs) / self.n if self.runs else float("nan")

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % Student-t interval of the mean; None for fewer than two runs."""
        found = mean_interval([run.value for run in self.runs]) if self.n > 1 else None
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    def text(self, sign: str = "") -> str:
        """`94.28 +-0.12`, mean and half its interval; the mean alone of one run; `-` for none. `sign="+"`: `+0.39`."""
        if not self.runs:
            return "-"
        return f"{self.mean:{sign}.2f}" + (f" +-{self.interval[1] - self.mean:.2f}" if self.interval else "")

    def records(self, place: Mapping[str, Any], taught: Collection[str] = ()) -> Iterator[dict[str, Any]]:
        """Rows of a figure's CSV: the mean, then each run. `taught` holds the ids of teachers that were chosen."""
        low, high = self.interval or (None, None)
        mean = {"value": self.mean if self.runs else None, "low": low, "high": high}
        yield {**place, "mark": "mean", "n": self.n, "planned": self.planned, **mean}
        for run in self.runs:
            chosen = {"taught": True} if run.id in taught else {}
            yield {**place, "mark": "run", "value": run.value, "seed": run.seed, "id": run.id, **chosen}


def measured(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Test accuracy, shifted sets, PGD of 20 steps or else of the most there is; and that PGD's further eps."""
    done = rows[rows["state"] == "done"]
    names = [str(name) for name in rows.columns if done[name].notna().any()]
    steps = [int(found[1]) for name in names if (found := re.fullmatch(r"robust/pgd(\d+)", name))]
    robust = [f"robust/pgd{20 if 20 in steps else max(steps)}"] if steps else []
    further = [name for name in names if robust and re.fullmatch(rf"{robust[0]}@[^/]+", name)]
    return ["test/accuracy", *(name for name in names if re.fullmatch(r"shift/[^/]+", name)), *robust], further


def unmeasured(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[str]:
    """What finished runs lack, in words."""
    for kind, prefix in (("shifted set", "shift/"), ("accuracy under PGD", "robust/")):
        if not any(name.startswith(prefix) for name in metrics):
            yield f"no {kind} was measured: left out"
    done = rows[rows["state"] == "done"]
    for name in metrics:
        lacking = done[name].isna().sum() if name in done else len(done)
        if lacking:
            yield f"{name}: not measured in {lacking} of {len(done)} finished runs"


def point(rows: pd.DataFrame, metric: str) -> Point:
    """One metric over some rows. Runs that are not done, or were not measured so, only count as planned."""
    if metric not in rows:
        return Point((), len(rows))
    measured = rows[(rows["state"] == "done") & rows[metric].notna()].sort_values("seed")
    singles = (
        Single(None if seed != seed or seed is None else int(seed), str(id), float(value))
        for seed, id, value in zip(measured["seed"], measured["id"], measured[metric], strict=True)
    )
    return Point(tuple(singles), len(rows))


def alike(points: Mapping[Place, Point]) -> dict[Place, Point]:
    """The points of one series, each with as many runs planned as the fullest has, so that unequal n show."""
    most = max((point.planned for point in points.values()), default=0)
    return {place: Point(point.runs, most) for place, point in points.items()}


def paired_gain(of: Point, to: Point) -> Point:
    """`of` minus `to`, paired by seed: a seed that only one of them has is left out, and missing from n."""
    others = {run.seed: run.value for run in to.runs}
    pairs = (Single(run.seed, run.id, run.value - others[run.seed]) for run in of.runs if run.seed in others)
    return Point(tuple(pairs), max(of.planned, to.planned))


def refuse_mixtures(rows: pd.DataFrame, by: Sequence[str]) -> None:
    """Raises TableError where a seed stands twice at one place: there is an axis that the figure would average over."""
    keys = ["role", *by]
    for place, group in rows.groupby(keys, dropna=False):
        if group["seed"].duplicated().any():
            settings = [name for name in group.columns if name not in ("id", "seed", "state") and "/" not in name]
            spread = [name for name in settings if group[name].nunique(dropna=False) > 1]
            where = ", ".join(f"{name} {value}" for name, value in zip(keys, place, strict=True))
            raise TableError(
                f"{where}: several runs of one seed, which differ in {', '.join(spread) or 'nothing the table has'}; "
                "this figure would average over them, so it takes only a sweep without such an axis"
            )
