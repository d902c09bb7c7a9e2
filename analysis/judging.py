"""The paper's claims, from paper.yaml, put to a sweep's table: every comparison with its verdict.

A claim is a conjunction of statements, and a statement is judged on each of its metrics by the rules of verdicts.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cross_domain
import double_descent
import errors
import fixed_label_corruption
import robust_overfitting
import specialization
import two_dimensional
from metrics import DISTANCE, attacked, shifted
from outputs import with_outputs
from points import Cell, Contrast, Point, Single, adjusted, cells
from stated import paper
from verdicts import Direction, Judgement, Verdict, any_of, corrected, every, judge

from kdtune.report.table import TableError, flags_of
from kdtune.statistics import paired_difference

if TYPE_CHECKING:
    import pandas as pd

# What a robust number must withstand to be believed, by what masking.py, autoattack.py and distance.py measure.
ATTACKS = {
    "margin PGD": "masking/margin20",
    "gradient-free": "masking/square",
    "transfer": "masking/transfer",
    "AutoAttack": "robust/autoattack",
    "distance": DISTANCE,
}
MARGIN, SQUARE, TRANSFER, AUTOATTACK, BY_DISTANCE = ATTACKS
MADE_BY = dict.fromkeys((MARGIN, SQUARE, TRANSFER), "masking") | {AUTOATTACK: "autoattack"}  # evaluators
PLANTED = "flags/planted_missed"  # by planted.py; behind an @: of an entry with a label
PREPARED = {
    "fixed_label_corruption": fixed_label_corruption.with_rate,
    "messy": with_outputs,
    "errors": errors.prepared,
    "cross_domain": cross_domain.prepared,
    "two_dimensional": two_dimensional.prepared,
    "robust_overfitting": robust_overfitting.prepared,
    "double_descent": double_descent.prepared,
    "specialization": specialization.prepared,
}


@dataclass(frozen=True)
class Statement:
    """A part of a claim, on one metric or one kind of them. `holds`: in every cell, any, or their growth."""

    says: str
    metric: str
    contrast: Contrast
    direction: Direction
    holds: str


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    where: str
    stated: str
    sweep: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Found:
    """One comparison of a statement. `p`: after Holm's correction, where one of several cells would do."""

    cell: Cell
    judgement: Judgement
    p: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a table says to a statement on one of its columns. `lacks`: why there is no comparison."""

    statement: Statement
    metric: str
    found: tuple[Found, ...]
    verdict: Verdict
    lacks: str = ""
    believable: Verdict | None = None  # of robust accuracy alone
    under: Mapping[str, Verdict] = field(default_factory=dict)  # by ATTACKS, what that rests on
    nearest: Answer | None = None  # the same by distance: it ranks networks where robust accuracy is at its floor
    elsewhere: tuple[str, ...] = ()  # of ATTACKS those made at another radius, which say nothing here
    flags: tuple[str, ...] = ()  # that are up for the robust accuracy of runs compared
    planted: str = ""  # whether PGD finds examples that were planted in their networks, of robust accuracy alone


@dataclass(frozen=True)
class Judged:
    """A claim with the answers of one table."""

    claim: Claim
    answers: tuple[Answer, ...]

    @property
    def verdict(self) -> Verdict:
        return every(answer.verdict for answer in self.answers)

    @property
    def believable(self) -> Verdict | None:
        found = [answer.believable for answer in self.answers if answer.believable]
        if Verdict.NOT_ESTABLISHED in found:
            return Verdict.NOT_ESTABLISHED
        return every(found) if found else None


def claims() -> list[Claim]:
    """As paper.yaml has them; a statement on several metrics is as many statements."""
    found = []
    for id, claim in paper()["claims"].items():
        statements = []
        for each in claim["statements"]:
            contrast = Contrast(each["of"], each["against"], tuple(each.get("same", ())), tuple(each["by"]))
            for metric in each["metric"]:
                statements.append(Statement(each["says"], metric, contrast, each["direction"], each["cells"]))
        found.append(Claim(id, claim["claim"], claim["where"], claim["stated"], claim["sweep"], tuple(statements)))
    return found


def smallest(metric: str) -> float:
    """The smallest effect of interest in a metric, fixed in paper.yaml."""
    of = paper()["smallest"]
    return float(of.get(metric) or of[metric.partition("/")[0]])


def judged(table: pd.DataFrame) -> list[Judged]:
    """The claims about a table's sweep."""
    sweep = str(table.attrs.get("sweep"))
    asked = [claim for claim in claims() if claim.sweep == sweep]
    if not asked:
        return []
    table = PREPARED.get(sweep, lambda whole: whole)(table)
    named = {each.metric for claim in asked for each in claim.statements} | {*shifted(table), attacked(table)}
    kinds = tuple({*named, *ATTACKS.values(), "flags/"})
    # Tables are wide, and every comparison takes a part of one: metrics that no claim is about only take time.
    table = table[[name for name in table if "/" not in str(name) or str(name).startswith(kinds)]]
    return [
        Judged(claim, tuple(answer for each in claim.statements for answer in answers(table, each))) for claim in asked
    ]


def answers(table: pd.DataFrame, statement: Statement) -> Iterator[Answer]:
    """One for each column that the statement is about."""
    if statement.metric == "shift":
        for metric in shifted(table) or ["shift"]:
            yield answer(table, statement, metric)
    elif statement.metric == "robust/pgd":
        yield with_attacks(table, statement, answer(table, statement, attacked(table)))
    else:
        yield answer(table, statement, statement.metric)


def answer(table: pd.DataFrame, statement: Statement, metric: str) -> Answer:
    try:
        compared = cells(table, statement.contrast, metric)
        compared = [growth(compared)] if statement.holds == "growth" else compared
    except TableError as error:
        return Answer(statement, metric, (), Verdict.NOT_MEASURED, str(error))
    if not compared:
        return Answer(statement, metric, (), Verdict.NOT_MEASURED, "the table has no such runs")
    done = table[table["state"] == "done"]
    if metric not in done or not done[metric].notna().any():
        return Answer(statement, metric, (), Verdict.NOT_MEASURED, f"no finished run has {metric}")
    judgements = [judge(cell.difference, statement.direction, smallest(metric)) for cell in compared]
    p_values = adjusted([cell.difference for cell in compared])
    if statement.holds == "any":
        judgements = corrected(judgements, p_values, Verdict.REPRODUCED)
        verdict = any_of(judgements)
    else:  # where one cell is enough to contradict it
        judgements = corrected(judgements, p_values, Verdict.CONTRADICTED)
        verdict = every(each.verdict for each in judgements)
    found = tuple(Found(*each) for each in zip(compared, judgements, p_values, strict=True))
    return Answer(statement, metric, found, verdict)


def growth(compared: Sequence[Cell]) -> Cell:
    """By how much the differences of the last cell exceed those of the first, by seed."""
    if len(compared) < 2:
        raise TableError("growth takes two cells, and the table has not so many")
    first, last = compared[0], compared[-1]
    before = {run.seed: run for run in first.pairs.runs}
    runs = tuple(
        Single(run.seed, run.id, run.value - before[run.seed].value, run.flags + before[run.seed].flags)
        for run in last.pairs.runs
        if run.seed in before
    )
    of, to = ({run.seed: run.value for run in cell.pairs.runs if run.seed is not None} for cell in (last, first))
    place = {name: f"{plain(value)} over {plain(first.place[name])}" for name, value in last.place.items()}
    planned = max(first.planned, last.planned)
    return Cell(place, paired_difference(of, to), Point(runs, planned), min(first.teachers, last.teachers))


def with_attacks(table: pd.DataFrame, statement: Statement, measured: Answer) -> Answer:
    """The answer of a robust accuracy with a second verdict, whether it may be believed: PGD and all others say so.

    Not without AutoAttack, not where a flag is up, not at another radius. A flag is up, too, where PGD misses examples
    that were planted in a network: then Square alone, or whatever else finds them, does not make up for it. Where none
    were planted, that is said and decides nothing. Teachers' examples cannot be tried on what nobody taught: then that
    attack is left out, and so is the distance, which has no radius, where it was not measured.
    """
    if measured.verdict is Verdict.NOT_MEASURED:
        return measured
    tried = {name: answer(table, statement, metric) for name, metric in ATTACKS.items()}
    if tried[TRANSFER].verdict is Verdict.NOT_MEASURED and tried[MARGIN].verdict is not Verdict.NOT_MEASURED:
        del tried[TRANSFER]  # both are measured at once, so one side has no teacher
    if (nearest := tried[BY_DISTANCE]).verdict is Verdict.NOT_MEASURED:
        del tried[BY_DISTANCE]
    radii = json.loads(table.attrs.get("radii", "{}"))
    own = radii.get("pgd")
    others = {name for name, maker in MADE_BY.items() if own is not None and radii.get(maker, own) != own}
    elsewhere = tuple(name for name in tried if name in others)
    under = {name: Verdict.NOT_MEASURED if name in elsewhere else each.verdict for name, each in tried.items()}
    compared = [cell for each in (measured, *tried.values()) for cell in each.found]
    flags = flags_up(table, compared)
    established = not flags and under[AUTOATTACK] is not Verdict.NOT_MEASURED
    believable = every([measured.verdict, *under.values()]) if established else Verdict.NOT_ESTABLISHED
    examples = planted(rows_of(table, compared), elsewhere=own is not None and radii.get("planted", own) != own)
    measured = replace(measured, nearest=nearest if BY_DISTANCE in tried else None)
    return replace(measured, believable=believable, under=under, elsewhere=elsewhere, flags=flags, planted=examples)


def flags_up(table: pd.DataFrame, found: Sequence[Found]) -> tuple[str, ...]:
    """The flags that bear on robust accuracy: of the runs compared; under PGD and AutoAttack of their baselines too."""
    up = {flag for row in rows_of(table, found) for flag in flags_of(row, "robust/pgd") or ()}
    return tuple(sorted(up | {flag for each in found for run in each.cell.pairs.runs for flag in run.flags}))


def planted(rows: Sequence[Mapping[str, Any]], elsewhere: bool) -> str:
    """What became of examples that were planted in the networks of these runs; `elsewhere`: at another radius."""
    told = [[row[name] for name in row if str(name).partition("@")[0] == PLANTED] for row in rows]
    told = [[value for value in of if value == value and value is not None] for of in told]
    if any(any(of) for of in told):
        return "missed"
    if not any(told):
        return "not tried"
    return "found at another radius" if elsewhere else "found" if all(told) else "found, not tried in every network"


def rows_of(table: pd.DataFrame, found: Sequence[Found]) -> list[dict[Any, Any]]:
    """The rows of the runs compared, each run once."""
    compared = {run.id for each in found for run in each.cell.pairs.runs}
    return list(table[table["id"].isin(compared)].drop_duplicates("id").to_dict("records"))


def plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def teachers(of: Judged) -> str:
    """For whom a claim about a method holds: not beyond the teachers that taught the runs compared."""
    counts = [
        (each.cell.teachers, each.cell.pairs.n) for answer in of.answers for each in answer.found if each.cell.teachers
    ]
    if not counts or all(1 < few >= pairs for few, pairs in counts):
        return ""
    fewest = min(few for few, _ in counts)
    return "for this one teacher" if fewest == 1 else f"for these {fewest} teachers"
