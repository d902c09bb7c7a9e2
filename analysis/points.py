"""The runs of one condition as a point: their mean and interval, how many are missing; and differences between two.

One run gives no interval, and missing runs are counted, not averaged away. Values are joined by the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kdtune.report.table import CONFIRMS, TableError, flags_of
from kdtune.statistics import Difference, holm, mean_interval, paired_difference

if TYPE_CHECKING:
    import pandas as pd

TEACHER = "its teacher"  # what a difference may be to: of each student, the teacher that taught it


@dataclass(frozen=True)
class Single:
    """One run's value, or a difference of two."""

    seed: int | None  # None: a teacher that was given, not trained
    id: str
    value: float
    flags: tuple[str, ...] = ()  # that bear on this number


@dataclass(frozen=True)
class Point:
    """The runs of one condition, of which `planned` were to be."""

    runs: tuple[Single, ...] = ()
    planned: int = 0

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def flagged(self) -> bool:
        return any(run.flags for run in self.runs)

    @cached_property
    def mean(self) -> float:
        """Not a number where there are no runs."""
        return mean_interval([run.value for run in self.runs]).mean if self.runs else float("nan")

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % Student-t interval of the mean; None for fewer than two runs."""
        found = mean_interval([run.value for run in self.runs]) if self.runs else None
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    def text(self, sign: str = "", digits: int = 2) -> str:
        """`94.28 ± 0.12`, mean and half its interval; the mean alone of one run; `-` for none. `sign="+"`: `+0.39`."""
        if not self.runs:
            return "-"
        half = f" ± {self.interval[1] - self.mean:.{digits}f}" if self.interval else ""
        return f"{self.mean:{sign}.{digits}f}{half}"

    def records(self, place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of a figure's CSV: the mean, then each run."""
        low, high = self.interval or (None, None)
        mean = {"value": self.mean if self.runs else None, "low": low, "high": high}
        yield {**place, "mark": "mean", "n": self.n, "planned": self.planned, **mean, "flagged": self.flagged}
        for run in self.runs:
            yield {
                **place,
                "mark": "run",
                "value": run.value,
                "seed": run.seed,
                "id": run.id,
                "flags": " ".join(run.flags),
            }


def select(table: pd.DataFrame, query: str) -> pd.DataFrame:
    """The rows that a query names, in pandas' words; columns that the table lacks are a TableError."""
    from pandas.errors import UndefinedVariableError

    named = [name for name in table.columns if str(name) in query]  # pandas reads the name of every column it is given
    try:
        return table[table[named].eval(query, engine="python")]
    except UndefinedVariableError as error:
        lacking = str(error).split("'")[1] if "'" in str(error) else str(error)
        raise TableError(
            f"sweep {table.attrs.get('sweep')}: its table has no {lacking}; this asks for `{query}`"
        ) from error


LONE = "role == 'student' and not taught"  # students that learn alone


def need(table: pd.DataFrame, *axes: str) -> None:
    """Raises TableError where a table lacks one of these columns: it is another sweep's."""
    if lacking := [f"`{name}`" for name in axes if name not in table]:
        raise TableError(f"sweep {table.attrs.get('sweep')}: its table has no axis {', '.join(lacking)}")


def point(rows: pd.DataFrame, metric: str) -> Point:
    """One metric over the runs of some rows, each once. Those that are not done, or were not measured so, only count as
    planned."""
    rows = rows.drop_duplicates("id")
    return Point(tuple(_singles(rows, metric)), len(rows))


def _singles(rows: pd.DataFrame, metric: str) -> Iterator[Single]:
    """The rows that are done and have the metric, by seed."""
    if metric not in rows:
        return
    flags = [name for name in rows.columns if str(name).startswith("flags/")]
    asked = rows[list(dict.fromkeys(["id", "seed", "state", metric, *flags]))]
    measured = asked[(asked["state"] == "done") & asked[metric].notna()].sort_values("seed")
    for row in measured.to_dict("records"):
        seed = None if row["seed"] != row["seed"] or row["seed"] is None else int(row["seed"])
        yield Single(seed, str(row["id"]), float(row[metric]), flags_of(row, metric) or ())


def points(rows: pd.DataFrame, x: str, metric: str) -> dict[float, Point]:
    """Over a numeric axis, a point at each value. Raises TableError where a point would average over another axis."""
    if x not in rows:
        return {}
    refuse_mixtures(rows, x)
    return {float(value): point(group, metric) for value, group in rows.groupby(x)}


def alike(series: Mapping[float, Point]) -> dict[float, Point]:
    """The points of one series, each with as many runs planned as the fullest has, so that unequal n show."""
    most = max((point.planned for point in series.values()), default=0)
    return {x: Point(point.runs, most) for x, point in series.items()}


def refuse_mixtures(rows: pd.DataFrame, *by: str) -> None:
    """Raises TableError where two runs of one seed stand at one place of a figure: there is an axis that it would
    average over. One run that several points of the sweep ask for is no mixture."""
    for place, rows_there in rows.groupby(list(by), dropna=False) if by else [((), rows)]:
        group = rows_there.drop_duplicates("id")
        where = ", ".join(f"{name} {value}" for name, value in zip(by, place, strict=True)) or "there"
        if CONFIRMS in group and group[CONFIRMS].nunique() > 1:
            raise TableError(
                f"{where}: runs by which a search chose and runs that confirm its choice; no mean is over both"
            )
        if group["seed"].duplicated().any():
            settings = [name for name in group.columns if name not in ("id", "seed", "state") and "/" not in name]
            spread = [name for name in settings if group[name].nunique(dropna=False) > 1]
            raise TableError(
                f"{where}: several runs of one seed, which differ in {', '.join(spread) or 'nothing the table has'}; "
                "this would average over them, so it takes only a sweep without such an axis"
            )


@dataclass(frozen=True)
class Contrast:
    """Runs against a baseline, joined by seed: `of` minus `against`, queries of the table.

    `same`: columns in which a run's baseline agrees with it. `against` may be TEACHER: the one each student learned
    from; or a number. `by`: columns that tell one cell from the next. Where the baseline is one teacher, each
    student is compared with it.
    """

    of: str
    against: str | float
    same: tuple[str, ...] = ()
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One comparison: settings of the runs compared, their difference, how many pairs were to be, what is flagged."""

    place: Mapping[str, Any]
    difference: Difference | None  # None: there is no pair
    pairs: Point  # the differences by seed
    teachers: int  # that taught the runs compared: of one, what is seen holds for this one teacher

    @property
    def planned(self) -> int:
        return self.pairs.planned


def cells(table: pd.DataFrame, contrast: Contrast, metric: str) -> list[Cell]:
    """The comparisons that a contrast makes in a table, in the order of `by`; none of a run with itself."""
    treated = select(table, contrast.of)
    need(table, *contrast.by, *contrast.same)
    groups = treated.groupby(list(contrast.by), sort=True, dropna=False) if contrast.by else [((), treated)]
    found = []
    for place, runs in groups:
        refuse_mixtures(runs)
        where = dict(zip(contrast.by, place, strict=True))
        if not isinstance(contrast.against, str):
            level = {int(seed): Single(int(seed), "", float(contrast.against)) for seed in runs["seed"].dropna()}
            found.append(_cell(where, runs, level, len(level), metric))
            continue
        others = table[table["role"] == "teacher"] if contrast.against == TEACHER else select(table, contrast.against)
        baseline = _baseline(others, contrast, runs)
        if set(runs["id"]) - set(baseline["id"]):
            found.append(_cell(where, runs, _each(baseline, metric), baseline["seed"].nunique(), metric))
    return found


def adjusted(differences: Sequence[Difference | None]) -> list[float | None]:
    """The p-values after Holm's correction for being several, in their order; None where there is none."""
    known = [each.p for each in differences if each is not None and each.p is not None]
    found = iter(holm(known))
    return [next(found) if each is not None and each.p is not None else None for each in differences]


def _baseline(rows: pd.DataFrame, contrast: Contrast, runs: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of a contrast's baseline those that the runs of one cell are compared with; teachers get the seeds of
    their students."""
    if contrast.against == TEACHER:
        teachers = rows.drop_duplicates("id").drop(columns="seed")
        learned = (
            runs[["seed", "teacher.id"]] if "teacher.id" in runs else runs[["seed"]].assign(**{"teacher.id": None})
        )
        return learned.drop_duplicates().merge(teachers, left_on="teacher.id", right_on="id", suffixes=("_of", ""))
    if set(rows["role"]) == {"teacher"} and set(runs["role"]) == {"student"} and rows["id"].nunique() == 1:
        return runs[["seed"]].drop_duplicates().merge(rows.drop_duplicates("id").drop(columns="seed"), how="cross")
    keys = ["seed", *contrast.same]
    asked = set(map(str, runs[keys].itertuples(index=False, name=None)))  # as text: an empty cell is equal to another
    rows = rows.loc[[str(place) in asked for place in rows[keys].itertuples(index=False, name=None)]]
    refuse_mixtures(rows)
    return rows


def _cell(
    place: Mapping[str, Any], runs: pd.DataFrame, baseline: Mapping[int, Single], planned: int, metric: str
) -> Cell:
    """`baseline` by seed, of which `planned` were to be."""
    of, own = point(runs, metric), set(runs["id"])
    to = {seed: run for seed, run in baseline.items() if run.id not in own}  # none with itself
    pairs = tuple(
        Single(run.seed, run.id, run.value - to[run.seed].value, tuple(dict.fromkeys(run.flags + to[run.seed].flags)))
        for run in of.runs
        if run.seed is not None and run.seed in to
    )
    compared = runs[runs["id"].isin({run.id for run in pairs})]
    return Cell(
        place,
        paired_difference(
            {run.seed: run.value for run in of.runs if run.seed is not None},
            {seed: run.value for seed, run in to.items()},
        ),
        Point(pairs, max(of.planned, planned)),
        int(compared["teacher.id"].nunique()) if "teacher.id" in compared else 0,
    )


def _each(rows: pd.DataFrame, metric: str) -> dict[int, Single]:
    """One metric by seed; a teacher of several students stands for each of them."""
    return {run.seed: run for run in _singles(rows, metric) if run.seed is not None}
