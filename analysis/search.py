"""What a search found: its history, the front, what single knobs have to do with it, and which matter.

    python analysis/search.py results/search [--profile laptop] [--output DIR]

search-history: each objective over proposals, the best so far, or the hypervolume of two; search-front: one objective
against the other, and the points that were confirmed, with intervals; search-slices: objectives over each knob;
search-importance: the share of their variance that a forest ascribes to each (fANOVA, Hutter et al. 2014). From
results.parquet and search.csv alone.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from figure import command, save
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from metrics import scale, title
from style import BLACK, BLUE, GREY, PAGE, PALE, VERMILLION, literal
from words import heading, page

from kdtune.report.table import TableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet

LEAST = 8  # known proposals inside the space: of fewer a forest says nothing
RESAMPLED = 20  # times, for the intervals of importances
WIDEST = 28  # characters of a line of a panel's title


@dataclass(frozen=True)
class Found:
    """A search as its folder has it: a row a proposal, the runs, objectives with their directions, and the space."""

    table: pd.DataFrame
    proposals: pd.DataFrame
    objectives: Mapping[str, str]
    space: Mapping[str, Mapping[str, Mapping[str, Any]]]  # distributions by axis, with their fields

    @property
    def known(self) -> pd.DataFrame:
        return self.proposals[self.proposals["state"] == "known"]

    @property
    def kept(self) -> pd.DataFrame:
        """Known proposals that keep the search's constraints, if it has any: of these one is best."""
        return self.known[self.known["feasible"].astype(bool)] if "feasible" in self.known else self.known

    @property
    def broken(self) -> pd.DataFrame:
        """Known proposals that do not."""
        return self.known.drop(self.kept.index)

    def runs(self, name: str) -> Iterator[tuple[int, float]]:
        """Single runs that chose: number of the proposal, value."""
        rows = self.table[self.table["search.number"].notna() & (self.table["state"] == "done")]
        for row in rows[~rows["search.confirms"].astype(bool)].to_dict("records"):
            if row.get(name) == row.get(name) and name in row:
                yield int(row["search.number"]), float(row[name])


def found(table: pd.DataFrame) -> Found:
    """Raises TableError where the table is not a search's, or nothing of it is known yet."""
    if "search" not in table.attrs:
        raise TableError(f"sweep {table.attrs.get('sweep')}: this is no search; analysis/generic.py draws any sweep")
    path, about = Path(table.attrs["folder"], "search.csv"), json.loads(table.attrs["search"])
    try:
        proposals = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read ({error}); the sweep's own command writes it anew") from error
    here = Found(table, proposals, about["objectives"], about["space"])
    if here.known.empty:
        raise TableError(f"sweep {table.attrs.get('sweep')}: of none of its proposals all runs are done yet")
    return here


def called(metric: str) -> str:
    """What a person calls a metric of held-out images."""
    return title(metric.removeprefix("val/"))


def words(of: Found, text: str, about: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """NAME.md: what is there, how to read it, the numbers."""
    goals = ", ".join(f"{name} ({way})" for name, way in of.objectives.items())
    total, known = len(of.proposals), len(of.known)
    said = f"{known} of {total} proposals are known. Objectives: {goals}, of images held out; means over seeds."
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numbers = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    numbers += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]
    return page(text, heading(of.table), said, about, lines=numbers)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def history(table: pd.DataFrame, folder: Path) -> list[Path]:
    of = found(table)
    names = [*of.objectives]
    sheet, grid = plt.subplots(
        1, len(names) + (len(names) > 1), figsize=(PAGE, 2.2), squeeze=False, layout="constrained"
    )
    dominated = hypervolumes(of)
    for axes, name in zip(grid[0], names, strict=False):
        for number, value in of.runs(name):
            axes.plot(number, value, ".", color=GREY, markersize=3)
        for listed, marker in ((False, "o"), (True, "D")):
            part = of.known[of.known["listed"] == listed]
            axes.plot(part["number"], part[name], marker, color=BLUE, markersize=4)
        axes.plot(of.broken["number"], of.broken[name], "o", color="white", markersize=2.5)
        if len(names) == 1:
            axes.step(of.kept["number"], dominated, where="post", color=VERMILLION)
        for number in of.proposals.loc[of.proposals["state"].isin(["diverged", "unmeasured"]), "number"]:
            axes.plot(number, 0.02, "x", color=BLACK, transform=axes.get_xaxis_transform())
        _frame(axes, name, "proposal")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(names) > 1:
        grid[0][-1].step(of.kept["number"], dominated, where="post", color=VERMILLION)
        grid[0][-1].set_title("Hypervolume of the front")
        grid[0][-1].set_xlabel("proposal")
        grid[0][-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[0][-1].set_ylabel(" x ".join(scale(name).of_differences for name in names))
    _named_below(sheet, [("a proposal's mean", "o", BLUE), ("listed in the grid", "D", BLUE), ("a run", ".", GREY)])
    rows = [
        {**{"proposal": int(row["number"])}, **{name: row[name] for name in names}, "best so far": value}
        for row, value in zip(of.kept.to_dict("records"), dominated, strict=True)
    ]
    about = (
        "Blue marks are means over a proposal's seeds, grey dots the single runs; diamonds were listed in the grid,"
        " crosses have no value, open marks break a constraint. The line is the best so far; of two objectives the area"
        " that the front so far dominates over the worst values of all proposals. A later best is better in part as"
        " more was tried."
    )
    return save(sheet, rows, words(of, "A search over its proposals", about, rows), folder, "search-history")


def _named_below(sheet: Sheet, marks: Sequence[tuple[str, str, str]], more: Sequence[Line2D] = ()) -> None:
    """What marks mean, below the picture: text, shape, colour."""
    handles = [Line2D([], [], linestyle="", marker=mark, color=colour, label=text) for text, mark, colour in marks]
    handles += more
    sheet.legend(handles=handles, loc="outside lower center", ncols=2 if len(handles) > 3 else 3, frameon=False)


def hypervolumes(of: Found) -> list[float]:
    """What is dominated after each known proposal that keeps the constraints; of one objective the best so far."""
    names = [*of.objectives]
    signs = [1.0 if of.objectives[name] == "max" else -1.0 for name in names]
    values = [tuple(sign * row[name] for sign, name in zip(signs, names, strict=True)) for _, row in of.kept.iterrows()]
    if len(names) == 1:
        return [signs[0] * max(each[0] for each in values[: place + 1]) for place in range(len(values))]
    worst = [min(each[axis] for each in values) for axis in range(2)]
    areas = []
    for place in range(len(values)):
        area, reached = 0.0, worst[1]
        for first, second in sorted(values[: place + 1], reverse=True):
            area += (first - worst[0]) * max(0.0, second - reached)
            reached = max(reached, second)
        areas.append(area)
    return areas


def front(table: pd.DataFrame, folder: Path) -> list[Path]:
    of = found(table)
    if len(of.objectives) != 2:
        raise TableError("search-front: a search by one objective has a best point and no front")
    x, y = of.objectives
    sheet, axes = plt.subplots(figsize=(PAGE * 0.62, 3.6), layout="constrained")
    others, best = of.known[~of.known["front"]], of.known[of.known["front"]].sort_values(x)
    axes.plot(others[x], others[y], "o", color=GREY, markersize=3)
    axes.plot(of.broken[x], of.broken[y], "o", color="white", markersize=2)
    axes.plot(best[x], best[y], "-", color=PALE, zorder=0)
    _crosses(axes, best, x, y, "", BLUE, "o")
    rows = [_record(row, x, y) for row in best.to_dict("records")]
    if f"confirmed/{x}" in of.known:
        again = of.known[of.known[f"confirmed/{x}"].notna()]
        _crosses(axes, again, x, y, "confirmed/", VERMILLION, "s")
        for row in again.to_dict("records"):
            ends = {"xy": (row[f"confirmed/{x}"], row[f"confirmed/{y}"]), "xytext": (row[x], row[y])}
            axes.annotate("", **ends, arrowprops={"arrowstyle": "->", "color": VERMILLION, "lw": 0.7})
    for row in best.to_dict("records"):
        axes.annotate(f" {row['number']:g}", (row[x], row[y]), fontsize=7, va="bottom")
    _limits(axes, of, x, y)
    _frame(axes, y, f"{called(x)}, held out ({scale(x).unit})")
    axes.set_title("")
    axes.set_ylabel(f"{called(y)}, held out ({scale(y).unit})")
    marks = [
        ("on the front", "o", BLUE),
        ("confirmed, other seeds", "s", VERMILLION),
        ("dominated", ".", GREY),
    ]
    more = []
    if len(of.broken):
        more = [Line2D([], [], linestyle="", marker="o", markersize=3, color=GREY, label="breaks a constraint")]
        more[0].set_markerfacecolor("white")
    _named_below(sheet, marks, more)
    about = (
        "Numbers are proposals. Pale bars are 95 % Student-t intervals over seeds, and may reach beyond the picture: of"
        " two seeds they are long. An arrow leads from what a point was chosen by to what seeds say that chose nothing:"
        " where arrows lead down and to the left, that much of the front was luck."
    )
    return save(sheet, rows, words(of, "The front of a search", about, rows), folder, "search-front")


def _crosses(axes: Axes, rows: pd.DataFrame, x: str, y: str, kind: str, colour: str, marker: str) -> None:
    """Means with their intervals both ways."""
    for row in rows.to_dict("records"):
        at = [row[f"{kind}{name}"] for name in (x, y)]
        halves = [row[f"{kind}{name}.high"] - value for name, value in zip((x, y), at, strict=True)]
        known = [half if half == half else None for half in halves]  # of one run there is none
        bars = axes.errorbar(at[0], at[1], yerr=known[1], xerr=known[0], color=colour, linestyle="", elinewidth=0.6)
        for line in bars[2]:
            line.set(alpha=0.35, zorder=1)
        axes.plot(*at, marker, color=colour, markersize=5, zorder=3)


def _record(row: Mapping[str, Any], x: str, y: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"proposal": int(row["number"])}
    for name in (x, y):
        for kind in ("", "confirmed/"):
            for part in ("", ".low", ".high"):
                shown[f"{kind}{name}{part}"] = row.get(f"{kind}{name}{part}")
    return shown


def _limits(axes: Axes, of: Found, x: str, y: str) -> None:
    """As far as single runs lie."""
    for name, put in ((x, axes.set_xlim), (y, axes.set_ylim)):
        values = [value for _, value in of.runs(name)]
        room = 0.06 * ((max(values) - min(values)) or scale(name).least)
        put(min(values) - room, max(values) + room)


def slices(table: pd.DataFrame, folder: Path) -> list[Path]:
    of = found(table)
    size = (PAGE, 1.6 * len(of.objectives) + 0.4)
    sheet, grid = plt.subplots(
        len(of.objectives), len(of.space), figsize=size, squeeze=False, layout="constrained", sharey="row"
    )
    for line, name in zip(grid, of.objectives, strict=True):
        for axes, axis in zip(line, of.space, strict=True):
            at, labels = positions(of, axis)
            ranked = of.known["number"].to_numpy()
            marks = axes.scatter(
                at,
                of.known[name],
                c=ranked,
                cmap="Blues",
                vmin=-0.5 * max(ranked),
                s=12,
                edgecolors=BLACK,
                linewidths=0.3,
            )
            if labels:
                axes.set_xticks(range(len(labels)), [literal(each) for each in labels])
                axes.set_xlim(-0.5, len(labels) - 0.5)
            elif "loguniform" in of.space[axis]:
                _logarithmic(axes, of.space[axis]["loguniform"])
            _frame(axes, name, axis)
            axes.set_title("")
            axes.set_ylabel("")
        line[0].set_ylabel("\n".join(textwrap.wrap(f"{called(name)} ({scale(name).unit})", WIDEST)))
    bar = sheet.colorbar(marks, ax=grid, label="proposal", fraction=0.02, pad=0.01)
    bar.ax.set_ylim(0, max(of.known["number"].max(), 1))
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    rows = [
        {"proposal": int(row["number"]), **{name: row[name] for name in (*of.space, *of.objectives)}}
        for row in of.known.to_dict("records")
    ]
    about = (
        "Each mark is a proposal, the darker the later. All other knobs differ too from mark to mark: a slope here is"
        " no effect of this knob alone. Values that a logarithmic scale does not have (a listed 0) are not drawn."
    )
    return save(sheet, rows, words(of, "Objectives over single knobs", about, rows), folder, "search-slices")


def _logarithmic(axes: Axes, bounds: Mapping[str, float]) -> None:
    axes.set_xscale("log")
    ticks = [digit * 10.0**power for power in range(-9, 9) for digit in (1, 3)]
    shown = [tick for tick in ticks if bounds["lower"] <= tick <= bounds["upper"]]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)


def positions(of: Found, axis: str) -> tuple[list[float], list[str]]:
    """Where the known proposals stand on an axis, and the alternatives of a choice; listed values that are none of them
    stand behind."""
    values = of.known[axis].tolist()
    ((kind, fields),) = of.space[axis].items()
    if kind != "choice":
        return [float(value) for value in values], []
    labels = list(dict.fromkeys([*map(_word, fields["values"]), *map(_word, values)]))
    return [float(labels.index(_word(value))) for value in values], labels


def _word(value: Any) -> str:
    """An alternative as search.csv has it; equal numbers are one."""
    if value is None or value != value:
        return "none"
    if isinstance(value, Mapping):
        return ",".join(
            f"{key}={_word(part) if not isinstance(part, Mapping) else '{' + _word(part) + '}'}"
            for key, part in value.items()
        )
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def importance(table: pd.DataFrame, folder: Path) -> list[Path]:
    of = found(table)
    shares = {name: importances(of, name) for name in of.objectives}
    sheet, grid = plt.subplots(
        1, len(shares), figsize=(PAGE, 0.35 * len(of.space) + 0.9), squeeze=False, layout="constrained", sharey=True
    )
    for axes, (name, by_axis) in zip(grid[0], shares.items(), strict=True):
        for place, axis in enumerate(reversed([*of.space])):
            share, low, high = by_axis[axis]
            axes.barh(place, share, color=BLUE, height=0.6)
            axes.plot([low, high], [place, place], color=BLACK, linewidth=1)
        axes.set_yticks(range(len(of.space)), [literal(axis) for axis in reversed([*of.space])])
        axes.set_xlim(0, 100)
        axes.set_title("\n".join(textwrap.wrap(called(name) + ", held out", WIDEST)))
        axes.set_xlabel("% of the variance")
    rows = [
        {"objective": name, "knob": axis, "share": share, "low": low, "high": high}
        for name, by_axis in shares.items()
        for axis, (share, low, high) in by_axis.items()
    ]
    about = (
        "fANOVA: the share of a random forest's variance over the space that each knob alone accounts for, of the sum"
        f" of these. Black: from the 2.5th to the 97.5th percentile over {RESAMPLED} resamplings of the proposals. A"
        " search looks where it is good, so that what hurts is seen less; of few proposals little can be said."
    )
    return save(sheet, rows, words(of, "Which knobs matter", about, rows), folder, "search-importance")


def importances(of: Found, name: str) -> dict[str, tuple[float, float, float]]:
    """Percent by axis: of all proposals inside the space, and an interval over resamplings. Raises TableError of too
    few."""
    import numpy
    import optuna

    built = {axis: _distribution(written) for axis, written in of.space.items()}
    trials = []
    for row in of.known.to_dict("records"):
        params = {axis: _told(row[axis], of.space[axis]) for axis in of.space}
        if all(value is not None and built[axis]._contains(value) for axis, value in params.items()):
            trials.append(optuna.trial.create_trial(params=params, distributions=built, value=float(row[name])))
    if len(trials) < LEAST:
        raise TableError(
            f"search-importance: {len(trials)} known proposals lie in the space; {LEAST} or more say something"
        )
    draws = numpy.random.default_rng(0)
    picks = [range(len(trials)), *(draws.integers(len(trials), size=len(trials)) for _ in range(RESAMPLED))]
    drawn = [_fanova([trials[place] for place in pick]) for pick in picks]
    found = {}
    for axis in of.space:
        shares = [100 * each.get(axis, 0.0) for each in drawn]
        low, high = (float(each) for each in numpy.percentile(shares[1:], [2.5, 97.5]))
        found[axis] = (shares[0], low, high)
    return found


def _fanova(trials: Sequence[Any]) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.add_trials(trials)
    if len({trial.value for trial in trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(written: Mapping[str, Mapping[str, Any]]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    ((kind, fields),) = written.items()
    if kind == "choice":
        return CategoricalDistribution(range(len(fields["values"])))
    if kind == "randint":
        return IntDistribution(fields["lower"], fields["upper"] - 1)
    return FloatDistribution(fields["lower"], fields["upper"], log=kind == "loguniform", step=fields.get("q"))


def _told(value: Any, written: Mapping[str, Mapping[str, Any]]) -> Any:
    """A value of search.csv as that distribution has it; None for an alternative that it lacks."""
    ((kind, fields),) = written.items()
    if kind == "choice":
        known = [_word(each) for each in fields["values"]]
        return known.index(_word(value)) if _word(value) in known else None
    return int(value) if kind == "randint" else float(value)


def _frame(axes: Axes, metric: str, below: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(called(metric) + ", held out", WIDEST)))
    axes.set_xlabel(literal(below))
    axes.set_ylabel(scale(metric).unit)


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [history, front, slices, importance]))
