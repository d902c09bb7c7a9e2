"""What sweeps say of claims, of paper.yaml: A1 to A14 (arXiv 1910.05057), B1 to B4 (Wallace, Distill 2019),
C1 to C5 (Yang et al., arXiv 2102.13170), D1 to D5 (Dong et al., arXiv 2110.03135).

    python analysis/claims.py results/ [--profile laptop] [--output DIR]

Prints a line for each claim and writes claims.md, with every comparison that a verdict rests on, and claims.csv. A
folder of one sweep, or of one profile, will do too. Verdicts on the paper come from its own setting alone.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figure import output, read_table
from judging import ATTACKS, Answer, Found, Judged, judged, plain, smallest, teachers
from metrics import scale, title
from stated import paper, scope
from verdicts import Verdict

from kdtune.report.table import StorageError, TableError, opened, to_csv

if TYPE_CHECKING:
    import pandas as pd

ORDER = ("paper", "replication", "direction")
DIRECTIONS = {  # what is no verdict on the paper does not read like one
    Verdict.REPRODUCED: "as claimed",
    Verdict.CONTRADICTED: "not as claimed",
    Verdict.INCONCLUSIVE: "open",
}
RULES = """\
A verdict looks at the 95 % Student-t interval of differences paired by seed. Inside ± the smallest effect of interest
(paper.yaml) a difference is negligible: that bears out what was to stay unchanged and contradicts an effect. On the
claimed side of 0 it is reproduced, on the other contradicted, else inconclusive: then it is said which difference so
many pairs show in four of five trials, and how many seeds the smallest effect of interest takes. A claim needs all
its statements. "Every" needs every cell, and where one cell would decide, to bear out "any" or to contradict "every",
Holm's correction is over all of them. Robust accuracy has a second verdict, whether it may be believed: under PGD, PGD
on the margin, a gradient-free attack, the teacher's examples and AutoAttack alike, all at one radius, and with no flag
up. One is up where PGD misses adversarial examples that were planted in a copy of a network, whatever else finds them;
where none were planted, that is said and decides nothing. What the paper calls slight or a little is judged by its
direction alone."""


@dataclass(frozen=True)
class Line:
    """A claim as one table speaks of it."""

    table: pd.DataFrame
    scope: str
    of: Judged

    @property
    def number(self) -> tuple[str, int]:
        """Of the claim: its text's letter, and its place there."""
        return self.of.claim.id[0], int(self.of.claim.id[1:])

    @property
    def heading(self) -> str:
        """What may stand together: of one scope, data set and profile."""
        return f"Profile {Path(self.table.attrs['folder']).name}: {scope(self.table)[1]}"  # overrides have their own

    def word(self, verdict: Verdict | None) -> str:
        if verdict is None:
            return ""
        return DIRECTIONS.get(verdict, str(verdict)) if self.scope == "direction" else str(verdict)

    def found(self) -> str:
        """The verdict, on how much of the claim it rests, and for which teachers it holds."""
        answers = self.of.answers
        against = sum(each.verdict is Verdict.CONTRADICTED for each in answers)
        words = [self.word(self.of.verdict) + (f" in {against} of {len(answers)}" if against else "")]
        if self.of.verdict in (Verdict.REPRODUCED, Verdict.CONTRADICTED) and teachers(self.of):
            words.append(teachers(self.of))
        return ", ".join(words)


def grouped(found: Sequence[Line]) -> dict[str, list[Line]]:
    """By heading, the paper's own scope first; claims in their order."""
    groups: dict[str, list[Line]] = {}
    for line in sorted(found, key=lambda each: (ORDER.index(each.scope), each.heading, each.number)):
        groups.setdefault(line.heading, []).append(line)
    return groups


def in_text(found: Sequence[Line]) -> Iterator[str]:
    """For the terminal: a line for each claim, and one more for what may be believed of its robust accuracy."""
    for heading, group in grouped(found).items():
        yield heading
        width = max(len(line.found()) for line in group)
        for line in group:
            yield f"  {line.of.claim.id:4}{line.found():{width}}  {line.of.claim.claim}"
            if line.of.believable:
                yield f"  {'':4}{'':{width}}  robustness to be believed: {line.word(line.of.believable)}"


def markdown(found: Sequence[Line]) -> Iterator[str]:
    letters = {line.number[0] for line in found}
    texts = {"A": paper()["paper"]} | {letter: text["paper"] for letter, text in paper()["texts"].items()}
    yield f"# Claims of {'; '.join(name for letter, name in texts.items() if letter in letters)}\n\n{RULES}"
    for heading, group in grouped(found).items():
        yield f"## {heading}"
        rows = ["| | claim | found | robustness to be believed | sweep |", "|---|---|---|---|---|"]
        for line in group:
            claim = line.of.claim
            rows.append(
                f"| {claim.id} | {claim.claim} | {line.found()} | {line.word(line.of.believable)} | {claim.sweep} |"
            )
        yield "\n".join(rows)
        for line in group:
            yield from details(line)


def details(line: Line) -> Iterator[str]:
    """Of one claim: each statement with its verdict, then a row for each comparison."""
    claim = line.of.claim
    printed = f" In print: {claim.stated}." if line.scope == "paper" and claim.stated != "plot" else ""
    yield f"### {claim.id}\n\n{claim.claim} {claim.where}.{printed}"
    for answer in line.of.answers:
        yield "\n".join([textwrap.fill(sentence(line, answer), 100), *rows(line, answer)])
        if (near := answer.nearest) is not None:
            words = f"The same by **{title(near.metric).lower()}**, which is no part of the claim:"
            yield "\n".join([f"{words} {line.word(near.verdict)}.", *rows(line, near)])


CELLS = {"every": "in every cell", "any": "in one cell or more", "growth": "from the first cell to the last"}


def sentence(line: Line, answer: Answer) -> str:
    asked = answer.statement
    words = f"**{title(answer.metric)}**, {asked.says}; claimed: {asked.direction} {CELLS[asked.holds]}."
    words += f" Found: **{line.word(answer.verdict)}**" + (f", {answer.lacks}." if answer.lacks else ".")
    if answer.believable:
        under = [
            f"{name} {'at another radius' if name in answer.elsewhere else line.word(verdict)}"
            for name, verdict in answer.under.items()
        ]
        under += [f"planted examples {answer.planted}"]
        under += [f"flags up: {' '.join(answer.flags)}"] if answer.flags else []
        words += f" To be believed: **{line.word(answer.believable)}** ({', '.join(under)})."
    return words


def rows(line: Line, answer: Answer) -> Iterator[str]:
    if not answer.found:
        return
    yield "\n| setting | difference ± half of the interval | pairs | p, Holm | found |\n|---|---|---|---|---|"
    for each in answer.found:
        pairs, judgement = each.cell.pairs, each.judgement
        p = "" if each.p is None else f"{each.p:.3g}"
        words = line.word(judgement.verdict) + (f": {judgement.why}" if judgement.why else "")
        words += "; flagged" if pairs.flagged else ""
        difference = pairs.text("+", scale(answer.metric).digits)
        yield f"| {setting(each)} | {difference} | {pairs.n}/{pairs.planned} | {p} | {words} |"


def setting(found: Found) -> str:
    """`dropout 0.1, epochs 250`: of dotted names the last part says enough."""
    words = (f"{name.rpartition('.')[2]} {plain(value)}" for name, value in found.cell.place.items())
    return ", ".join(words).replace("|", "/").replace("\n", " ")


def records(found: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """Rows of the CSV: one for each comparison, with the verdicts that it is part of."""
    for line in (each for group in grouped(found).values() for each in group):
        about: dict[str, Any] = {"scope": line.scope}
        about |= {key: line.table.attrs.get(key) for key in ("dataset", "sweep", "profile")}
        about |= {"claim": line.of.claim.id, "claim verdict": str(line.of.verdict)}
        for answer in (each for of in line.of.answers for each in (of, of.nearest) if each):
            asked = answer.statement
            row = about | {"statement": asked.says, "direction": asked.direction, "cells": asked.holds}
            row |= {"metric": answer.metric, "smallest": smallest(answer.metric), "verdict": str(answer.verdict)}
            row |= {"believable": answer.believable, "lacks": answer.lacks, "flags": " ".join(answer.flags)}
            row |= {"planted examples": answer.planted}
            row |= {name: answer.under.get(name) for name in ATTACKS}
            for each in answer.found or [None]:
                yield row | dict.fromkeys(NUMBERS) | (numbers(each) if each else {})


NUMBERS = (
    "setting",
    "pairs",
    "planned",
    "teachers",
    "flagged",
    "difference",
    "low",
    "high",
    "p",
    "p holm",
    "cell",
    "why",
)


def numbers(found: Found) -> dict[str, Any]:
    row: dict[str, Any] = {"setting": setting(found), "pairs": found.cell.pairs.n, "planned": found.cell.planned}
    row |= {"teachers": found.cell.teachers, "flagged": found.cell.pairs.flagged}
    if (difference := found.cell.difference) is not None:
        row |= {"difference": difference.mean, "low": difference.low, "high": difference.high, "p": difference.p}
    return row | {"p holm": found.p, "cell": found.judgement.verdict, "why": found.judgement.why}


def places(folder: Path, profile: str | None) -> list[Path]:
    """The folders of profiles that lie in a folder of results, of a sweep, or of one profile. TableError for none."""
    found = next(
        (found for depth in ("", "*/", "*/*/") if (found := sorted(folder.glob(f"{depth}results.parquet")))), []
    )
    kept = [path.parent for path in found if profile in (None, path.parent.name)]
    if not kept:
        of = (
            f" of profile {profile}; there is {', '.join(sorted({path.parent.name for path in found}))}"
            if found
            else ""
        )
        raise TableError(f"{folder}: no results here{of}")
    return kept


def read(folder: Path, profile: str | None) -> list[Line]:
    """What the tables of a folder say of claims. Of tables that cannot be read it is said on stderr; TableError where
    none speaks of a claim."""
    found = []
    for place in places(folder.resolve(), profile):
        try:
            table = read_table(place)
            if "search" in table.attrs:
                raise TableError(f"{place} is a search's, which looks where it is good: that bears out no claim")
            found += [Line(table, scope(table)[0], of) for of in judged(table)]
        except TableError as error:
            print(f"left out: {error}", file=sys.stderr)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # by a table that kdtune does not write
            print(f"left out: {place} cannot be judged: {type(error).__name__}: {error}", file=sys.stderr)
    if not found:
        asked = ", ".join(sorted({claim["sweep"] for claim in paper()["claims"].values()}))
        raise TableError(f"{folder}: no table of a sweep that the claims are about: {asked}")
    return found


def write(found: Sequence[Line], folder: Path) -> list[Path]:
    """Writes claims.md and claims.csv; equal tables give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "claims.md", folder / "claims.csv"]
    paths[0].write_text("\n\n".join(markdown(found)) + "\n", encoding="utf-8")
    paths[1].write_bytes(to_csv(list(records(found)), first=()))
    return paths


def command(arguments: Sequence[str] | None = None) -> int:
    """Status 0; 2 where no table speaks of a claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="a folder of results, of one sweep in it, or of one profile")
    parser.add_argument("--profile", help="which profile alone, where several lie there")
    parser.add_argument("--output", type=Path, help="where to write (default: figures/ in that folder)")
    asked = parser.parse_args(arguments)
    try:
        results = opened(asked.results)
        folder = output(asked.output, results)
        found = read(results, asked.profile)
    except (TableError, StorageError) as error:
        print(error, file=sys.stderr)
        return 4 if isinstance(error, StorageError) else 2
    try:
        written = write(found, folder)
    except OSError as error:
        print(f"{folder} cannot be written ({error.strerror}); --output names another", file=sys.stderr)
        return 2
    for line in [*in_text(found), *(f"wrote {path}" for path in written)]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(command())
