"""A table for LaTeX: text made safe to print, rows of equal length, and a document that pdflatex compiles alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

SPECIAL = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "\N{ZERO WIDTH SPACE}": "{}",  # keeps two hyphens from printing as a dash
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
} | {character: f"\\{character}" for character in "#$%&_{}"}
SPANNING = re.compile(r"\\multicolumn\{(\d+)\}")


def escape(text: str) -> str:
    """The text as LaTeX prints it. What pdflatex's fonts lack is printed as its code point, `[U+4E2D]`."""
    return "".join(map(_safe, " ".join(text.split()).replace("--", "-\N{ZERO WIDTH SPACE}-")))


def _safe(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    if character.isascii():
        return character if character.isprintable() else ""
    base = unicodedata.normalize("NFKD", character)[0]
    return character if "À" <= character <= "ÿ" and base.isascii() else f"[U+{ord(character):04X}]"


def width(row: Sequence[str]) -> int:
    """How many columns a row's cells fill."""
    return sum(int(found[1]) if (found := SPANNING.match(cell)) else 1 for cell in row)


def tabular(columns: str, rows: Sequence[Sequence[str] | str]) -> str:
    """A tabular. Rows are cells, already LaTeX; a text is a rule between two rows, such as `\\midrule`.

    Raises ValueError where the rows differ in length.
    """
    if len(widths := {width(row) for row in rows if not isinstance(row, str)}) > 1:
        raise ValueError(f"rows of {sorted(widths)} columns in one table")
    lines = [row if isinstance(row, str) else " & ".join(row) + r" \\" for row in rows]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}"])


def document(body: str, width: float) -> str:
    """A page that compiles alone; `width` of its text in inches."""
    loads = [
        r"\usepackage{booktabs}",
        rf"\usepackage[letterpaper,textwidth={width}in,textheight=9in]{{geometry}}",
    ]
    start = [r"\documentclass[10pt]{article}", *loads, r"\pagestyle{empty}", r"\setlength{\parindent}{0pt}"]
    return "\n".join([*start, r"\begin{document}", body.rstrip(), r"\end{document}"]) + "\n"
