"""What a reader of a figure must know and the picture does not say: NAME.md beside it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from metrics import scale
from points import Point
from stated import scope, stated

from kdtune.report.table import flags_of
from kdtune.statistics import seeds_needed, smallest_visible_effect, spread

if TYPE_CHECKING:
    import pandas as pd
    from figure import Figure, Points
    from panels import Panel


# What stands behind `metrics.under_attack`.
UNDER_ATTACK = (
    "Worst of all attacks: percent of a few images, right when clean, that nothing within the radius changes, neither"
    " steps on three losses or on averaged gradients, nor random squares, nor the teacher's adversarial examples."
    " Distance: that of the nearest image that is answered otherwise, as far as a search finds it; it has no radius."
)


def caption(figure: Figure, rows: Sequence[Sequence[Panel | None]], drawn: Points) -> str:
    """The whole file: title, what is there, how to read it, what it cannot say, and the numbers as a table."""
    table = figure.table
    panels = [panel for row in rows for panel in row if panel]
    paragraphs = [heading(table), figure.about, " ".join(reading(table, panels, drawn))]
    paragraphs += [" ".join(remarks(table, [panel.metric for panel in panels]))]
    return page(figure.title, *paragraphs, lines=numbers(figure, drawn))


def page(title: str, *paragraphs: str, lines: Iterable[str] = ()) -> str:
    """NAME.md: a title, paragraphs, of which empty ones are left out, and the lines of a table below."""
    parts = [f"# {title}", *(textwrap.fill(text, 100) for text in paragraphs if text)]
    return "\n\n".join([*parts, table] if (table := "\n".join(lines)) else parts) + "\n"


def heading(table: pd.DataFrame) -> str:
    """Sweep, profile and data set; then how much of it is there: `43 of 45 runs; 1 diverged, 1 failed`."""
    sweep, profile, dataset = (table.attrs.get(key, f"({key} not named)") for key in ("sweep", "profile", "dataset"))
    distinct = table.drop_duplicates("id")  # a run may have several rows
    counts = distinct["state"].value_counts()
    others = [f"{counts[state]} {state}" for state in sorted(counts.index) if state != "done"]
    runs = f"{counts.get('done', 0)} of {plural(len(distinct), 'run')}" + (f" ({', '.join(others)})" if others else "")
    students = distinct[distinct["role"] == "student"]
    again = students.get("search.confirms", students["role"]).eq(True)  # of a sweep that is no search none
    seeds = plural(students.loc[~again, "seed"].nunique(), "student seed")
    more = f", {students.loc[again, 'seed'].nunique()} that confirm" if again.any() else ""
    return f"Sweep {sweep}, profile {profile}, on {dataset}: {runs}, {seeds}{more}."


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def reading(table: pd.DataFrame, panels: Sequence[Panel], drawn: Points) -> Iterator[str]:
    """What the marks are."""
    each = [point for at in drawn.values() for point in at.values()]
    yield "Marks: means over seeds with 95 % Student-t intervals, at their true place on the axis."
    if any(panel.difference for panel in panels):
        yield "Differences are paired by seed."
    if any(point.n == 1 for point in each):
        yield "Small marks are single runs, which have no interval."
    if any(point.flagged for point in each):
        yield "Hollow marks: a run's number is flagged, not to be believed as it stands."
    if any(0 < point.n < point.planned for point in each):
        yield "Fractions above a panel: runs that are there, of those planned."
    if any(point.planned and not point.n for point in each):
        yield "Crosses at the foot: runs are planned there, and none is there yet."
    if robust := [panel.metric for panel in panels if panel.metric.startswith("robust/")]:
        least = ", minimum over restarts" if all(re.fullmatch(r"robust/pgd[^/]*", name) for name in robust) else ""
        yield (
            "Robust accuracy is of the images that are right when clean"
            f" ({table.attrs.get('attack', 'see the sweep')}){least}."
        )
    if any(panel.metric.endswith("/worst") for panel in panels):
        yield "Worst: an image counts only if no restart changes its class."
    if any(panel.metric.startswith("corruption/") for panel in panels):
        yield "Accuracy under a corruption is of the images that are right when clean, the mean of five severities."
    if any(True for panel in panels for _ in stated(table, panel)):
        yield "Thin dashed lines: stated in the paper, means of five seeds without spread."


def remarks(table: pd.DataFrame, metrics: Sequence[str]) -> Iterator[str]:
    """How far the numbers carry: who chose the teacher and by what, what is flagged, at which scale."""
    if "teacher.metric" in table and (rules := sorted(map(str, table["teacher.metric"].dropna().unique()))):
        test = any(rule.startswith("test/") for rule in rules)
        yield f"Teacher chosen on {'test data' if test else 'held-out data'} ({', '.join(rules)})."
    if settings := sharing(table):
        yield f"Students of {settings} share one teacher: intervals leave out how teachers differ."
    flagged = [flags for row in table.drop_duplicates("id").to_dict("records") if (flags := raised(row, metrics))]
    if flagged:
        names = ", ".join(sorted({name for flags in flagged for name in flags}))
        yield f"Flagged: {plural(len(flagged), 'run')} ({names})."
    yield f"Scope: {scope(table)[1]}."


def raised(row: dict[str, object], metrics: Sequence[str]) -> tuple[str, ...]:
    """The flags of a run that bear on some of the metrics."""
    return tuple(dict.fromkeys(name for metric in metrics for name in flags_of(row, metric) or ()))


def sharing(table: pd.DataFrame) -> str:
    """Of how many settings the students learned from one teacher, in words; empty where of none."""
    if "teacher.id" not in table:
        return ""
    shared = table[table["teacher.id"].notna()].groupby("teacher.id")["seed"].nunique() > 1
    return "" if not shared.any() else "one setting" if shared.all() else "some settings"


def numbers(figure: Figure, drawn: Points) -> Iterator[str]:
    """All that is drawn, as a markdown table; of differences also what so few seeds could see."""
    yield f"| metric | series | {figure.x_label} | mean ± half of the interval | n | smallest visible | seeds for it |"
    yield "|---|---|---|---|---|---|---|"
    for (panel, label), at in drawn.items():
        name = panel.metric + (", difference" if panel.difference else "")
        for x, each in at.items():
            place = f"{x:g}" if x == x else ""
            digits = scale(panel.metric).digits
            seen, needed = visible(each, digits) if panel.difference else ("", "")
            cells = (
                name,
                label,
                place,
                each.text("+" if panel.difference else "", digits),
                f"{each.n}/{each.planned}",
                seen,
                needed,
            )
            yield f"| {' | '.join(cells)} |"


def visible(differences: Point, digits: int = 2) -> tuple[str, str]:
    """The smallest difference that so many pairs show in four of five trials, and the pairs that theirs takes."""
    if differences.n < 2:
        return "", ""
    sd = spread([run.value for run in differences.runs])
    effect = smallest_visible_effect(sd, differences.n)
    needed = seeds_needed(sd, abs(differences.mean)) if differences.mean else None
    return f"{effect:.{digits}f}", f"{needed}" if needed else "> 10,000"
