"""What the figures share: one look, a sheet to draw on, a heading that says what is there, saving, a command line.

A figure is drawn from a sweep's table alone.
"""

from __future__ import annotations

import argparse
import csv
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import yaml
from matplotlib.lines import Line2D

from kdtune.report.table import TableError, profile_folder, read

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from points import Point

# Okabe and Ito's palette: told apart with any common colour blindness.
BLUE, VERMILLION, GREEN, SKY, ORANGE, PURPLE = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7"
BLACK, GREY = "#000000", "#808080"

LOOK = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titlepad": 16,  # room for two rows of n=...
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # text stays text: searchable, and editable in a drawing program
    "savefig.dpi": 200,
}
PAPER = Path(__file__).with_name("paper.yaml")


def heading(table: pd.DataFrame) -> str:
    """Sweep, profile and data set; then how much of it is there: `43 of 45 runs; 1 diverged, 1 failed`."""
    sweep, profile, dataset = (table.attrs.get(key, f"({key} not named)") for key in ("sweep", "profile", "dataset"))
    pools = table[table["role"] == "teacher"].groupby("dropout" if "dropout" in table else "role").size()
    students = table.loc[table["role"] == "student", "seed"].nunique()
    teachers = f"pools of {plural(pools.max(), 'teacher')}" if len(pools) else "no teachers"
    counts = table["state"].value_counts()
    others = [f"{counts[state]} {state}" for state in sorted(counts.index) if state != "done"]
    runs = f"{counts.get('done', 0)} of {plural(len(table), 'run')}" + (f"; {', '.join(others)}" if others else "")
    return f"{sweep}, profile {profile}: {dataset}\n{plural(students, 'student seed')}, {teachers}; {runs}"


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def stated(dataset: str | None, methods: Collection[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the paper states of some methods, by method and kind; nothing for another data set than the paper's."""
    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    named = {tuple(name.split("/")): value for name, value in paper["values"].items()}
    return {name: value for name, value in named.items() if dataset == paper["dataset"] and name[0] in methods}


def remarks(table: pd.DataFrame, points: Sequence[Point], paper: bool) -> Iterator[str]:
    """What every caption says: what the marks are, and how far the paper's levels and this scale carry."""
    profile = str(table.attrs.get("profile"))
    yield "Large marks: mean and 95 % Student-t interval over seeds, teachers over their pool. Small dots: single runs."
    if any(point.n < point.planned for point in points):
        yield "n = above a panel: fewer runs than elsewhere or than planned (of small marks: in the CSV)."
    if any(point.n == 1 for point in points):
        yield "A single run has no interval: it is a small mark only."
    if paper:
        yield "Dashed: stated in the paper, means of five seeds without spread."
    if paper and profile != "paper":
        yield f"Those levels belong to the paper's scale, not to the profile {profile}."
    if profile.startswith("laptop"):
        yield "Laptop profile: directions at most: no verdict on the paper comes from this scale."


class Sheet:
    """Panels in two rows, `columns` wide, levels above differences; heading, legend and caption outside the data."""

    def __init__(self, heading: str, legend: Sequence[Line2D], caption: Sequence[str], columns: int) -> None:
        width = max(6.9, 2.3 * columns)  # inches: the width of a page's text; wider for many metrics
        lines = [line for text in caption for line in textwrap.wrap(text, int(width * 20.5))]
        abreast = 3
        head, keys, foot = 0.55, 0.18 * -(-len(legend) // abreast) + 0.1, 0.125 * len(lines) + 0.12
        height = head + 4.1 + keys + foot
        self.figure: Figure
        self.figure, self.panels = plt.subplots(
            2,
            columns,
            figsize=(width, height),
            sharex="col",
            squeeze=False,
            height_ratios=[1.6, 1],
            layout="constrained",
        )
        rect = (0, (foot + keys) / height, 1, 1 - (foot + keys + head) / height)
        self.figure.get_layout_engine().set(rect=rect, h_pad=0.05, w_pad=0.05)  # type: ignore[union-attr, call-arg]
        self.figure.text(0.01, 1 - 0.1 / height, heading, va="top", fontsize=9, linespacing=1.4)
        self.figure.text(0.01, foot / height, "\n".join(lines), va="top", fontsize=6.5, linespacing=1.35)
        self.figure.legend(
            handles=legend,
            loc="lower center",
            bbox_to_anchor=(0.5, foot / height),
            ncols=abreast,
            frameon=False,
            borderpad=0.2,
            columnspacing=1.5,
        )


def key(label: str, **style: Any) -> Line2D:
    """An entry of a legend."""
    look: dict[str, Any] = {"linestyle": "none", "markersize": 5.0} | style
    return Line2D([], [], label=label, **look)


def draw(
    axes: Axes,
    points: Mapping[float, Point],
    *,
    beside: float = 0.0,
    join: bool = True,
    dots: bool = True,
    row: int | None = 0,
    **style: Any,
) -> None:
    """Means with intervals, joined by a line, and single runs as dots `beside` them, in units of x.

    A point of one run is a small mark; it breaks the line, as a point without runs does. Where runs are missing, n
    stands above the panel, in text row `row`, if there is one.
    """
    means = [points[x].mean if points[x].interval else float("nan") for x in sorted(points)]
    line = style.pop("linestyle", "-")
    if join:
        axes.plot(sorted(points), means, color=style["color"], linestyle=line, zorder=2)
    style = style | {"linestyle": "none"}
    marks: dict[str, Any] = {"markersize": 5.0, "zorder": 3} | style
    bars: dict[str, Any] = {"capsize": 2, "elinewidth": 0.9}
    small: dict[str, Any] = {"color": style["color"], "alpha": 0.65, "linewidths": 0, "s": 7, "zorder": 4}
    for x, point in points.items():
        if point.interval:
            low, high = point.interval
            axes.errorbar([x], [point.mean], [[point.mean - low], [high - point.mean]], **marks, **bars)
        elif point.n:
            axes.plot([x], [point.mean], **marks | {"markersize": 2.5})
        if dots and point.interval:
            axes.scatter([x + beside] * point.n, [run.value for run in point.runs], **small)
        if point.n < point.planned and row is not None:
            axes.annotate(
                f"n={point.n}",
                (x, 1),
                (0, 2 + 7 * row),
                xycoords=axes.get_xaxis_transform(),
                fontsize=6,
                textcoords="offset points",
                color=style["color"],
                ha="center",
                annotation_clip=False,
            )


def level_line(axes: Axes, value: float, style: Any, *, above: bool) -> None:
    """A stated level, dashed across a panel; its value stands in the margin, where no data is."""
    axes.axhline(value, color=BLACK, linewidth=0.8, linestyle=style, zorder=1)
    side = "bottom" if above else "top"
    axes.text(1.01, value, f"{value:g}", transform=axes.get_yaxis_transform(), fontsize=6, va=side)


def at_least(axes: Axes, span: float, floor: float | None = None) -> None:
    """Widens a vertical axis to some percentage points, so that chance does not fill it; `floor` is where it begins."""
    low, high = axes.get_ylim()
    spare = max(0.0, span - (high - low)) / 2
    low, high = (low - spare, high + spare) if floor is None else (floor, max(high, floor + span))
    axes.set_ylim(low, high)


def save(figure: Figure, rows: Sequence[Mapping[str, Any]], folder: Path, name: str) -> list[Path]:
    """Writes name.png, name.pdf and name.csv, the data drawn. Equal tables give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf", "csv")]
    figure.savefig(paths[0])
    figure.savefig(paths[1], metadata={"CreationDate": None})
    plt.close(figure)
    with open(paths[2], "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return paths


def command(about: str, make: Callable[[pd.DataFrame, Path], None], arguments: Sequence[str] | None = None) -> int:
    """A figure script's command line. Status 0; 2 where there is no table that it could draw."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="a sweep's folder, such as results/fickle")
    parser.add_argument("--profile", help="which profile, where several lie in the folder")
    parser.add_argument("--output", type=Path, help="where to write (default: figures/ beside the table)")
    asked = parser.parse_args(arguments)
    try:
        folder = asked.output or profile_folder(asked.results, asked.profile) / "figures"
        with plt.rc_context(LOOK):
            make(read(asked.results, asked.profile), folder)
    except TableError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
