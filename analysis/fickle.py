"""Figure 1 of Arani et al. (arXiv 1910.05057): does a teacher whose dropout stays on make a better student?

    python analysis/fickle.py results/fickle [--profile laptop] [--output DIR]

Drawn from the sweep's table alone; writes fickle.png, fickle.pdf and fickle.csv, the data drawn. A column for each
metric: accuracy on the test images, on every shifted set, and under PGD. Above, levels over the dropout rate: students
and their teachers. Below, students' gain over Hinton (plain distillation, rate 0) that trained as long, paired by seed;
hollow beside it the paper's own gap, to the shortest Hinton. Where a rate above 0 has students of several lengths, the
line joins the longest, and the others are grey like the longer Hintons. Gains at further eps are in the CSV only.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import figure
from figure import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from points import Point, alike, measured, paired_gain, point, refuse_mixtures, unmeasured

from kdtune.report.table import TableError, flags_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Style = dict[str, Any]
STUDENT: Style = {"color": BLUE, "marker": "o"}
TEACHER: Style = {"color": VERMILLION, "marker": "s", "linestyle": "--"}
OTHER: Style = {"color": GREY, "marker": "D", "markersize": 3.0}
GAP: Style = {"color": BLUE, "marker": "o", "markerfacecolor": "white", "linestyle": ":"}
TAUGHT: Style = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": BLACK, "markersize": 6.0}
FURTHER: list[Style] = [{"color": hue, "marker": "o", "markersize": 3.0} for hue in (SKY, GREEN, ORANGE, PURPLE)]
PAPER_LINES = {"hinton": (0, (6, 3)), "fickle": (0, (1.5, 1.5))}


@dataclass(frozen=True)
class Metric:
    """One metric's points: students by dropout rate and epochs, teachers by dropout rate."""

    name: str
    students: dict[tuple[float, int], Point]
    teachers: dict[float, Point]

    @property
    def rates(self) -> list[float]:
        return sorted({rate for rate, _ in self.students} | set(self.teachers))

    @property
    def step(self) -> float:
        """How far apart marks of one rate stand, in units of the rate."""
        return (self.rates[-1] - self.rates[0]) / 45 if len(self.rates) > 1 else 0.01

    @property
    def shortest(self) -> int | None:
        """Epochs of the paper's own Hinton: of the shortest students without dropout."""
        return min((epochs for rate, epochs in self.students if rate == 0), default=None)

    @property
    def lengths(self) -> dict[float, int]:
        """The epochs of the students in the line, at each rate."""
        return {rate: epochs for rate, epochs in sorted(self.students) if rate > 0 or epochs == self.shortest}

    @property
    def others(self) -> dict[float, dict[int, Point]]:
        """Students of further lengths, by rate and epochs."""
        found: dict[float, dict[int, Point]] = {}
        for (rate, epochs), runs in sorted(self.students.items()):
            if epochs != self.lengths[rate]:
                found.setdefault(rate, {})[epochs] = runs
        return found

    @property
    def in_line(self) -> dict[float, Point]:
        return {rate: self.students[rate, epochs] for rate, epochs in self.lengths.items()}

    def gains(self, against: int | None = None) -> dict[float, Point]:
        """Of the students in the line over Hinton: of their own length, or of the length `against`."""
        return {
            rate: paired_gain(self.students[rate, epochs], self.students.get((0.0, against or epochs), Point()))
            for rate, epochs in self.lengths.items()
            if rate > 0
        }

    @property
    def gaps(self) -> dict[float, Point]:
        """The paper's own gap, where lengths differ."""
        gaps = self.gains(self.shortest) if self.shortest else {}
        return {rate: gap for rate, gap in gaps.items() if self.lengths[rate] != self.shortest}


def prepared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows at a dropout rate, with `length`: for students the epochs of the recipe, else of the axis, else 0."""
    if "dropout" not in table:
        raise TableError(f"sweep {table.attrs.get('sweep')}: its table has no axis `dropout`; this figure is over it")
    rows = table[table["dropout"].notna()].assign(length=0)
    for column in ("epochs", "recipe.epochs"):
        if column in rows:
            rows["length"] = rows[column].fillna(rows["length"]).astype(int)
    rows.loc[rows["role"] == "teacher", "length"] = 0  # a pool has one length, or refuse_mixtures objects
    refuse_mixtures(rows, ["dropout", "length"])
    return rows


def measure(rows: pd.DataFrame, name: str) -> Metric:
    groups: Any = rows.groupby(["role", "dropout", "length"])
    found = {(role, float(rate), int(epochs)): point(runs, name) for (role, rate, epochs), runs in groups}
    students = {(rate, epochs): runs for (role, rate, epochs), runs in found.items() if role == "student"}
    teachers = {rate: runs for (role, rate, _), runs in found.items() if role == "teacher"}
    return Metric(name, alike(students), alike(teachers))


def missing(rows: pd.DataFrame, metrics: list[Metric]) -> Iterator[str]:
    """What the table lacks, in words."""
    first = metrics[0]
    yield from unmeasured(rows, [metric.name for metric in metrics])
    unmatched = [f"{rate:g}" for rate, epochs in first.lengths.items() if (0.0, epochs) not in first.students]
    if not ((rows["state"] == "done") & (rows["role"] == "student")).any():
        yield "no student has finished"
    elif unmatched:
        yield f"no Hinton as long as the students at dropout {', '.join(unmatched)}: no gain of equal length there"
    if not first.teachers:
        yield "no teachers in the table"


def draw_levels(axes: Axes, metric: Metric, further: list[Metric], chosen: set[str]) -> None:
    step = metric.step
    for other, style in zip(further, FURTHER, strict=False):
        figure.draw(axes, other.in_line, **style, dots=False, row=None)
    figure.draw(axes, metric.teachers, **TEACHER, beside=-step, row=1)
    for rate, pool in metric.teachers.items():
        taught = [run.value for run in pool.runs if run.id in chosen]
        axes.plot([rate - step] * len(taught), taught, **TAUGHT, linestyle="none", zorder=6)
    figure.draw(axes, metric.in_line, **STUDENT, beside=step)
    for rate, others in metric.others.items():
        places = {rate + (3 + 2 * place) * step: runs for place, runs in enumerate(others.values())}
        figure.draw(axes, places, **OTHER, join=False, dots=False, row=None)


def plot(table: pd.DataFrame, metrics: list[Metric], further: list[Metric], chosen: set[str], notes: str) -> Figure:
    lines = figure.stated(table.attrs.get("dataset"), PAPER_LINES)
    keys = legend(metrics[0], further, chosen, bool(lines))
    words = " ".join(caption(table, metrics[0], chosen, bool(lines))), notes
    sheet = figure.Sheet(figure.heading(table), keys, words, len(metrics))
    for metric, (level, gain) in zip(metrics, sheet.panels.T, strict=True):
        robust = metric.name.startswith("robust/")
        draw_levels(level, metric, further if robust else [], chosen)
        gain.axhline(0, color=GREY, linewidth=0.8)
        gaps = {rate + 4 * metric.step: runs for rate, runs in metric.gaps.items()}
        figure.draw(gain, gaps, **GAP, dots=False, row=1)
        figure.draw(gain, metric.gains(), **STUDENT, beside=-metric.step)
        for (method, kind), value in lines.items():
            if value["metric"] == metric.name:
                axes = gain if kind == "gain" else level
                figure.level_line(axes, value["value"], PAPER_LINES[method], above=method == "fickle")
        figure.at_least(level, *((0.5, 0.0) if robust else (2.0, None)))
        figure.at_least(gain, 0.5 if robust else 1.0)
        attack = ", conditional\n" + textwrap.fill(table.attrs.get("attack", "first eps of the sweep"), 26)
        level.set_title(metric.name + (attack if robust else ""))
        level.set_ylabel("% of images right when clean,\nminimum over restarts" if robust else "%")
        gain.set_xticks(metric.rates, [f"{rate:g}" + ("\nHinton" if rate == 0 else "") for rate in metric.rates])
        gain.set_xlabel("dropout rate")
    sheet.panels[1][0].set_ylabel("gain over Hinton,\npercentage points")
    return sheet.figure


def legend(first: Metric, further: list[Metric], chosen: set[str], paper: bool) -> list[Line2D]:
    keys = [("students", STUDENT)] if first.students else []
    lighter = zip((metric.name.split("@")[1] for metric in further), FURTHER, strict=False)
    keys += [(f"students, eps {eps}", style) for eps, style in lighter]
    keys += [("teachers, their dropout off", TEACHER)] if first.teachers else []
    keys += [("teacher that taught", TAUGHT)] if chosen else []
    keys += [("Hinton, longer" if set(first.others) == {0.0} else "other lengths", OTHER)] if first.others else []
    keys += [(f"gain over Hinton of {first.shortest} epochs", GAP)] if first.gaps else []
    keys = [(label, style | {"linestyle": "none"}) for label, style in keys]
    for label, method in (("paper: Hinton", "hinton"), ("paper: Fickle Teacher", "fickle")) if paper else ():
        keys.append((label, {"color": BLACK, "linewidth": 0.8, "linestyle": PAPER_LINES[method]}))
    return [figure.key(label, **style) for label, style in keys]


def caption(table: pd.DataFrame, first: Metric, chosen: set[str], paper: bool) -> Iterator[str]:
    yield from figure.remarks(table, [*first.students.values(), *first.teachers.values()], paper)
    if paper:
        yield "The rate of its Fickle Teacher and the steps of its PGD are not stated."
    if chosen:
        rules = ", ".join(sorted(table["teacher.metric"].dropna().unique())) if "teacher.metric" in table else ""
        test = ", which is test data" if "test/" in rules else ""
        yield "Ring: the teacher that taught" + (f", chosen by {rules}{test}." if rules else ".")
        if len(chosen) <= len(first.teachers):
            yield "Students of a rate share one teacher: their intervals leave out how teachers differ."
    if first.shortest is not None:
        longer = ", ".join(str(epochs) for epochs in first.others.get(0.0, {}))
        hollow = "; hollow, over the shortest, as the paper compares" if first.gaps else ""
        yield f"Hinton: plain distillation, {first.shortest} epochs" + (f" (grey: {longer})." if longer else ".")
        yield f"Gain, paired by seed: filled, over the Hinton of as many epochs{hollow}."
    raised = [flags for row in table.to_dict("records") if (flags := flags_of(row))]
    if raised:
        names = ", ".join(sorted({name for flags in raised for name in flags}))
        yield f"Robustness of {len(raised)} runs is flagged, not to be believed as it stands: {names}."
    yield "Vertical axes are cut to the data, but span at least 2 points (gains 1, PGD 0.5); that of PGD begins at 0."


def records(metric: Metric, chosen: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of the CSV."""
    for (rate, epochs), runs in sorted(metric.students.items()):
        place = {"metric": metric.name, "series": "student", "dropout": rate, "epochs": epochs, "against_epochs": None}
        yield from runs.records(place)
        for series, gains in (("gain, equal length", metric.gains()), ("gain, shortest Hinton", metric.gaps)):
            if rate in gains and metric.lengths[rate] == epochs:
                against = epochs if series == "gain, equal length" else metric.shortest
                yield from gains[rate].records(place | {"series": series, "against_epochs": against})
    for rate, runs in metric.teachers.items():
        yield from runs.records({"metric": metric.name, "series": "teacher", "dropout": rate}, chosen)


def listing(metric: Metric) -> str:
    """What is drawn of a metric, as text of 80 columns: a line for every rate and length."""
    gains, gaps, none = metric.gains(), metric.gaps, Point()
    headings = "students", "teachers", "gain, as long", f"gain over {metric.shortest or '-':>3}"
    lines = [f"{metric.name}: mean +- half of the 95 % interval, and n"]
    lines += [" ".join(["rate epochs", *(f"{heading:>13}  n" for heading in headings)])]
    places = {*metric.students} | {(rate, metric.lengths.get(rate, 0)) for rate in metric.teachers}
    for rate, epochs in sorted(places):
        of_rate = (metric.teachers, gains, gaps) if metric.lengths.get(rate, 0) == epochs else ({}, {}, {})
        cells = [metric.students.get((rate, epochs), none), *(points.get(rate, none) for points in of_rate)]
        texts = [f"{cell.text(sign):>13} {cell.n:>2}" for cell, sign in zip(cells, ("", "", "+", "+"), strict=True)]
        lines.append(" ".join([f"{rate:<4g} {epochs:>6}", *texts]))
    return "\n".join(lines)


def make(table: pd.DataFrame, folder: Path) -> None:
    rows = prepared(table)
    metrics, further = ([measure(rows, name) for name in names] for names in measured(rows))
    chosen = set(rows["teacher.id"].dropna()) if "teacher.id" in rows else set()
    notes = list(missing(rows, metrics))
    notes += [f"{metric.name}: in the CSV only" for metric in further[len(FURTHER) :]]
    drawing = plot(table, metrics, further, chosen, f"Incomplete: {'; '.join(notes)}." if notes else "")
    data = [record for metric in (*metrics, *further) for record in records(metric, chosen)]
    paths = figure.save(drawing, data, folder, "fickle")
    print(figure.heading(table), *map(listing, metrics), sep="\n\n", end="\n\n")
    print(*(f"note: {note}" for note in notes), *(f"wrote {path}" for path in paths), sep="\n")


if __name__ == "__main__":
    sys.exit(figure.command(__doc__ or "", make))
