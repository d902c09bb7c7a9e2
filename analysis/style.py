"""One look for all figures: sizes in print, type, colours and marks that survive grey printing and colour blindness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COLUMN, PAGE = 3.4, 7.0  # inches: one column and both, of a page of two columns

# Okabe and Ito's palette: told apart with any common colour blindness. In grey some are alike, so that no two lines of
# a figure share a marker or a dash.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
BLACK, GREY, PALE = "#000000", "#707070", "#E6E6E6"

LOOK = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 8,  # points, and the figure is printed at its own size
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2,
    "pdf.fonttype": 42,  # text stays text: searchable, and editable in a drawing program
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Look:
    """How one line looks: two lines of a figure never differ in colour alone."""

    colour: str
    marker: str
    dash: Any = "-"  # matplotlib's linestyle

    def marks(self, *, hollow: bool = False, small: bool = False) -> dict[str, Any]:
        """For errorbar and legends. Hollow: a number that is flagged. Small: a single run, which has no interval."""
        face = "white" if hollow else self.colour
        size = LOOK["lines.markersize"] * (0.6 if small else 1.0)  # type: ignore[operator]
        return {"color": self.colour, "marker": self.marker, "markerfacecolor": face, "markersize": size}


STUDENT = Look(BLUE, "o")
TEACHER = Look(VERMILLION, "s", (0, (4, 1.5)))
HINTON = Look(BLACK, "D", (0, (1, 1.2)))
ALONE = Look(GREY, "v", (0, (6, 1.5, 1, 1.5)))
FURTHER = (
    Look(GREEN, "^", (0, (5, 1, 1, 1))),
    Look(PURPLE, "P", (0, (2, 1))),
    Look(ORANGE, "X", (0, (3, 1, 1, 1, 1, 1))),
    Look(SKY, "<", (0, (7, 1.5))),
    Look(BLACK, ">", (0, (1, 2))),
    Look(GREY, "h", (0, (3, 2))),
)
LINES = (STUDENT, TEACHER, *FURTHER)  # for as many groups as a sweep happens to have


def literal(text: str) -> str:
    """Text of a user's own as matplotlib shows it letter by letter: between two dollars it would read mathematics."""
    return text.replace("$", r"\$")
