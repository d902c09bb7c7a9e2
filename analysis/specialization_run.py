"""What specialisation means, on one student: the picture of docs/specialisation.md.

    python analysis/specialization_run.py results/specialization [--profile laptop] [--output DIR]

specialization-run: standard training at low rank, the widest student, the first seed. Left, how well each node of the
teacher is found, over the epochs. Middle, the angle of each teacher node to the student node that found it, within the
subspace that inputs fill and off it. Right, how often an attack leaves an answer right, by where it may go.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from figure import command, key, save
from histories import histories_of
from metrics import ORACLE, SPECIALIZED
from outputs import arrays_of
from specialization import prepared
from style import BLUE, GREY, PAGE, STUDENT, TEACHER, VERMILLION
from words import heading, page

from kdtune.report.table import TableError

if TYPE_CHECKING:
    import pandas as pd

PLACES = {"nowhere": "oracle/clean", "within": f"{ORACLE}@in", "off": f"{ORACLE}@out", "anywhere": ORACLE}


def run(table: pd.DataFrame, folder: Path) -> list[Path]:
    table = prepared(table)
    found = table[(table["arm"] == "standard") & table["low"] & (table["state"] == "done") & (table["teaching"] == 1.0)]
    if not len(found):
        raise TableError("specialization-run: no student of standard training at low rank is finished")
    row = found.sort_values(["width", "seed"], ascending=[False, True]).iloc[0]
    history, arrays = histories_of(table).get(row["id"], []), arrays_of(table, SPECIALIZED).get(row["id"])
    if not history or arrays is None or "specialization/cos_out" not in arrays:
        raise TableError("specialization-run: that student was not watched, or its arrays are gone")
    sheet, grid = plt.subplots(1, 3, figsize=(PAGE, 2.7), layout="constrained", width_ratios=(1.15, 1, 1))
    rows = [*over_epochs(grid[0], history), *by_node(grid[1], arrays), *under_attack(grid[2], row)]
    about = (
        f"Student {row['id']}, seed {row['seed']:g}, {row['width']:g} nodes, teacher of 10. Left: largest correlation"
        " of each teacher node with a student node, dark for strong nodes. Middle: cosine of the weights of each"
        " teacher node to those of the student node that correlates with it best. Right: percent of inputs at which"
        " the answer stays right under an attack of length 1, by the oracle's answer there and by its answer before."
    )
    text = page("Specialisation, on one student", heading(table), about)
    return save(sheet, rows, text, folder, "specialization-run")


def over_epochs(axes: Any, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = sorted(name for name in history[0] if name.startswith("specialization/node"))
    shades = plt.get_cmap("cividis")
    for number, name in enumerate(names):
        values = [row[name] for row in history]
        axes.plot([row["epoch"] for row in history], values, color=shades(0.9 * number / max(len(names) - 1, 1)))
    axes.set(xlabel="epoch", ylabel="Best correlation", ylim=(-0.02, 1.04), title="Nodes are found")
    return [
        {"panel": "nodes", "at": row["epoch"], "name": name, "value": row[name]} for row in history for name in names
    ]


def by_node(axes: Any, arrays: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, look in {"cos_in": STUDENT, "cos_out": TEACHER}.items():
        values = arrays[f"specialization/{name}"]
        axes.plot(range(1, len(values) + 1), values, linestyle="none", **look.marks())
        rows += [{"panel": "cosines", "at": at, "name": name, "value": value} for at, value in enumerate(values, 1)]
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.set(xlabel="teacher's node, strongest first", ylabel="Cosine of weights", ylim=(-0.4, 1.04))
    axes.set_title("Within the subspace, not off it")
    axes.legend(handles=[key("within", STUDENT, line=False), key("off", TEACHER, line=False)], frameon=False)
    return rows


def under_attack(axes: Any, row: pd.Series) -> list[dict[str, Any]]:
    rows = []
    labels = {place: name if place == "nowhere" else f"{name}/label" for place, name in PLACES.items()}
    for shift, (names, colour, rule) in enumerate(
        ((PLACES, BLUE, "oracle there"), (labels, VERMILLION, "answer before"))
    ):
        values = [float(row[name]) for name in names.values()]
        axes.bar([at + 0.4 * shift - 0.2 for at in range(len(values))], values, 0.38, color=colour, label=rule)
        rows += [
            {"panel": "attack", "at": at, "name": name, "value": value}
            for at, (name, value) in enumerate(zip(names.values(), values, strict=True))
        ]
    axes.set_xticks(range(len(PLACES)), PLACES)
    axes.set(ylabel="Right, %", ylim=(0, 100), title="An attack that may go")
    axes.legend(frameon=False)
    return rows


if __name__ == "__main__":
    sys.exit(command(__doc__ or "", [run]))
