"""The table of figure 10 (arXiv 1910.05057): corrupted labels by the rate of redrawn targets, ours and the paper's."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latex import document, escape, tabular
from metrics import ACCURACY, shifted, title
from points import LONE, Cell, Contrast, Point, adjusted, alike, cells, need, points, select
from stated import paper, scope
from style import PAGE
from words import heading, remarks, visible

from kdtune.report.table import TableError, to_csv
from kdtune.statistics import LEVEL

if TYPE_CHECKING:
    import pandas as pd

HINTONS = "taught and r == 0"
ABREAST = 5  # corruption rates that fit a page of 7 inches, each with the paper's number beside ours


def checked(table: pd.DataFrame, *axes: str) -> pd.DataFrame:
    """The table itself, if it has these axes as numbers; else a TableError that names what lacks."""
    need(table.dropna(axis="columns", how="all"), *axes)
    for axis in axes:
        if table[axis].dtype.kind not in "if":
            raise TableError(f"sweep {table.attrs.get('sweep')}: its axis `{axis}` is no number; this is over rates")
    return table


@dataclass(frozen=True)
class Row:
    """One row of figure 10; `stated` is its name in paper.yaml, `r` None for those that nobody taught."""

    label: str
    runs: str
    stated: str
    r: float | None = None


@dataclass(frozen=True)
class Entry:
    """What stands at one place of the table. `paper`: its number there, percent; `gain`: paired, over r 0."""

    point: Point
    paper: float | None
    gain: Cell | None = None
    p: float | None = None  # of the gain, by Holm over the rates of its column
    bold: bool = False


@dataclass(frozen=True)
class Block:
    """The table of one metric, by row and corruption rate."""

    metric: str
    rows: Sequence[Row]
    rates: Sequence[float]
    entries: dict[tuple[Row, float], Entry] = field(default_factory=dict)

    def at(self, row: Row, c: float) -> Entry:
        return self.entries[row, c]


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The rows that the table has runs of, finished or not: teachers, the student alone, then r as it grows."""
    rates = sorted(map(float, select(table, "taught")["r"].dropna().unique()))
    rows = [Row("teachers", "role == 'teacher'", "teacher"), Row("student alone", LONE, "wrn-16-2")]
    rows += [Row(f"r {r:g}" + ("" if r else " (Hinton)"), f"taught and r == {r!r}", f"r {r:g}", r) for r in rates]
    return [row for row in rows if len(select(table, row.runs))]


def printed(metric: str, row: str, c: float) -> float | None:
    """The paper's number, Fig. 10 (CIFAR-10, percent, mean of five seeds); None where it has none."""
    block = paper()["label_noise"]
    of_rate = dict(zip(block["corruption"], block.get(metric, {}).get(row, []), strict=False))
    return next((float(value) for rate, value in of_rate.items() if abs(rate - c) < 1e-9), None)


def blocks(table: pd.DataFrame) -> list[Block]:
    """Figure 10 for test accuracy and every shifted set that a finished run has. TableError where that is none."""
    checked(table, "c", "r")
    done = table[table["state"] == "done"]
    asked = [ACCURACY, *shifted(table)]
    names = [name for name in asked if name in done and done[name].notna().any()]
    if not names:
        raise TableError(f"figure10: no finished run has {', '.join(asked)}")
    rows, rates = rows_of(table), sorted(map(float, table["c"].dropna().unique()))
    return [block(table, name, rows, rates) for name in names]


def block(table: pd.DataFrame, metric: str, rows: Sequence[Row], rates: Sequence[float]) -> Block:
    measured = {row: alike(points(select(table, row.runs), "c", metric)) for row in rows}
    gains = {(cell.place["c"], cell.place["r"]): cell for cell in cells(table, GAIN, metric)}
    adjusted = {c: by_holm({r: cell for (rate, r), cell in gains.items() if rate == c}) for c in rates}
    found = Block(metric, rows, rates)
    for c in rates:
        best = best_rate({row.r: measured[row][c] for row in rows if row.r is not None and c in measured[row]})
        for row in rows:
            gain, p = (gains.get((c, row.r)), adjusted[c].get(row.r)) if row.r else (None, None)
            up = gain is not None and gain.difference is not None and gain.difference.mean > 0
            bold = up and row.r == best and p is not None and p < 1 - LEVEL
            of = measured[row].get(c, Point())
            found.entries[row, c] = Entry(of, printed(metric, row.stated, c), gain, p, bold)
    return found


GAIN = Contrast("taught and r > 0", HINTONS, same=("c",), by=("c", "r"))


def by_holm(gains: dict[float, Cell]) -> dict[float | None, float]:
    """Adjusted p-values of one column's rates; those of fewer than two pairs have none and are not counted."""
    of = zip(gains, adjusted([cell.difference for cell in gains.values()]), strict=True)
    return {r: p for r, p in of if p is not None}


def best_rate(of: dict[float, Point]) -> float | None:
    """The r of the highest mean, r 0 among them; None where nothing is measured."""
    there = {r: each.mean for r, each in of.items() if each.n}
    return max(there, key=lambda r: there[r]) if there else None


def sentence(table: pd.DataFrame) -> str:
    """The title: what the table compares, and on whose data."""
    profile, dataset = (table.attrs.get(key, f"({key} not named)") for key in ("profile", "dataset"))
    return f"Corrupted labels (rate c) and redrawn targets (rate r): profile {profile}, on {dataset}"


def columns(found: Sequence[Block]) -> str:
    """Whose numbers the columns hold, which stands above them."""
    ours = "ours: mean ± half of the 95 % Student-t interval"
    if all(entry.paper is None for each in found for entry in each.entries.values()):
        return f"{ours}; paper: it has no number of these settings."
    return f"{ours}; paper: {paper()['paper']}, Fig. 10, on {paper()['dataset']}, means of five seeds, no spread."


def notes(table: pd.DataFrame, found: Sequence[Block]) -> Iterator[str]:
    """How to read the table and how far it carries, a sentence each."""
    entries = [entry for each in found for entry in each.entries.values()]
    if any(entry.point.n == 1 for entry in entries):
        yield "A mean alone is a single run, which has no interval."
    if any(entry.point.n < entry.point.planned for entry in entries):
        yield "Fractions: runs that are there, of those planned."
    which = "" if any(entry.bold for entry in entries) else " Here none is."
    yield (
        "Bold: the best r of a column, where its paired difference to r 0 excludes 0 after Holm's correction over the"
        f" column's rates.{which}"
    )
    yield "Teachers: the mean of all that were trained, of which one was chosen."
    yield from remarks(table, [each.metric for each in found])
    if scope(table)[0] != "paper":
        yield "Only directions compare with the paper's numbers, not levels."


def share(of: Point) -> str:
    """`2/3` where runs are missing."""
    return f"{of.n}/{of.planned}" if of.n < of.planned else ""


def in_latex(table: pd.DataFrame, found: Sequence[Block]) -> str:
    """Title, tabular and notes, for \\input; the document loads booktabs."""
    rates = found[0].rates
    parts = [tabular_of(found, rates[i : i + ABREAST]) for i in range(0, len(rates), ABREAST)]
    words = " ".join(map(escape, notes(table, found)))
    return "\n".join(
        [
            f"% {table.attrs.get('sweep', 'a sweep')}: needs booktabs; as wide as {PAGE:g} inches".replace("\n", " "),
            r"\begingroup\footnotesize\raggedright\setlength{\parindent}{0pt}\setlength{\tabcolsep}{2.5pt}",
            rf"\textbf{{{escape(sentence(table))}}}\par",
            rf"{escape(columns(found))}\par\smallskip",
            "\n\\par\\medskip\n".join(parts),
            rf"\par\smallskip {words}\par",
            r"\endgroup",
            "",
        ]
    )


def tabular_of(found: Sequence[Block], rates: Sequence[float]) -> str:
    """Two columns for each corruption rate, ours and the paper's; a block of rows for each metric."""
    columns = 1 + 2 * len(rates)
    spans = [rf"\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(rates))]
    body: list[Sequence[str] | str] = [
        ["", *(rf"\multicolumn{{2}}{{c}}{{$c = {c:g}$}}" for c in rates)],
        " ".join(spans),
        ["", *[cell for _ in rates for cell in ("ours", r"\textit{paper}")]],
    ]
    for each in found:
        body += [r"\midrule", [rf"\multicolumn{{{columns}}}{{@{{}}l}}{{{escape(title(each.metric))}, \%}}"]]
        for row in each.rows:
            body.append([escape(row.label), *[cell for c in rates for cell in latex_cells(each.at(row, c))]])
    return tabular("@{}l" + r"@{\hspace{9pt}}lr" * len(rates) + "@{}", body)


def latex_cells(entry: Entry) -> tuple[str, str]:
    """Ours and the paper's; the paper's empty where it has none."""
    mean, _, half = entry.point.text().partition(" ± ")
    ours = mean if entry.point.n else "--"
    ours = rf"\textbf{{{ours}}}" if entry.bold else ours
    ours += rf"$\,\pm\,${half}" if half else ""
    ours += rf"\smash{{\textsuperscript{{{share(entry.point)}}}}}" if share(entry.point) else ""
    return ours, "" if entry.paper is None else rf"\textit{{{entry.paper:.2f}}}"


def in_markdown(table: pd.DataFrame, found: Sequence[Block]) -> str:
    words = [heading(table), " ".join([f"Columns, {columns(found)}", *notes(table, found)])]
    parts = [f"# {sentence(table)}", *(textwrap.fill(text, 100) for text in words)]
    for each in found:
        parts += [f"## {title(each.metric)}", "\n".join(markdown_rows(each))]
    if any(entry.gain for each in found for entry in each.entries.values()):
        parts += ["## Paired differences to r 0, points", "\n".join(gain_rows(found))]
    return "\n\n".join(parts) + "\n"


def markdown_rows(of: Block) -> Iterator[str]:
    yield f"| | {' | '.join(f'c {c:g} | paper' for c in of.rates)} |"
    yield "|---" * (1 + 2 * len(of.rates)) + "|"
    for row in of.rows:
        there = [cell for c in of.rates for cell in markdown_cells(of.at(row, c))]
        yield f"| {' | '.join([row.label, *there])} |"


def markdown_cells(entry: Entry) -> tuple[str, str]:
    ours = f"**{entry.point.text()}**" if entry.bold else entry.point.text()
    missing = f" ({share(entry.point)})" if share(entry.point) else ""
    return ours + missing, "" if entry.paper is None else f"{entry.paper:.2f}"


def gain_rows(found: Sequence[Block]) -> Iterator[str]:
    """The differences that bold rests on, and the smallest that so many pairs would show in four of five trials."""
    yield "| metric | c | r | mean ± half of the interval | pairs | p, Holm | smallest visible | seeds for it |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in found:
        for (row, c), entry in each.entries.items():
            if entry.gain is None:
                continue
            pairs = entry.gain.pairs
            p = "" if entry.p is None else f"{entry.p:.3f}"
            cell = (each.metric, f"{c:g}", f"{row.r:g}", pairs.text("+"), f"{pairs.n}/{pairs.planned}", p)
            yield f"| {' | '.join([*cell, *visible(pairs)])} |"


def records(found: Sequence[Block]) -> Iterator[dict[str, Any]]:
    """Rows of the CSV: of each place our mean with what its bold rests on, our runs, the paper's number."""
    for each in found:
        for (row, c), entry in each.entries.items():
            place = {"metric": each.metric, "row": row.label, "c": c, "r": row.r}
            mean, *runs = entry.point.records(place | {"source": "ours"})
            gain = entry.gain.difference if entry.gain else None
            if gain:
                mean |= {"gain": gain.mean, "gain low": gain.low, "gain high": gain.high, "gain pairs": gain.n}
            yield mean | {"p": gain.p if gain else None, "p holm": entry.p, "bold": entry.bold}
            yield from runs
            if entry.paper is not None:
                yield place | {
                    "source": f"{paper()['paper']}, {paper()['dataset']}",
                    "mark": "mean",
                    "value": entry.paper,
                }


def figure10(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes figure10.tex, figure10-standalone.tex, figure10.md and figure10.csv; equal tables give equal files."""
    found = blocks(table)
    body = in_latex(table, found)
    texts = {
        "figure10.tex": body,
        "figure10-standalone.tex": document(body, PAGE),
        "figure10.md": in_markdown(table, found),
        "figure10.csv": to_csv(list(records(found)), first=()).decode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in texts]
