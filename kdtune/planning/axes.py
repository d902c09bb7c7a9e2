"""An axis must change something. One that changes no run is an error of the file: its rows would be labelled wrongly.

Two values of an axis are told apart by the runs they lead to: somewhere in the grid there must be two points that
differ in nothing else and ask for different runs. Elsewhere they may well share runs: at sigma 0 all kinds of noise are
one run, and a point may stand in several blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

from kdtune.run import Run
from kdtune.sweepfile.grid import names
from kdtune.sweepfile.load import SweepFile, SweepPoint
from kdtune.sweepfile.tree import Problem, SweepFileError, problem
from kdtune.sweepfile.values import comparable, word

Runs = frozenset[str]  # ids
Group = dict[Hashable, tuple[SweepPoint, Runs]]  # points that differ in one axis only, by its value


def refuse_idle_axes(file: SweepFile, runs_at: Sequence[Runs]) -> None:
    """`runs_at` has the runs that each point of the file asks for. Raises SweepFileError with a problem per axis."""
    problems = []
    for axis in file.axes:
        groups = _differing_in(axis, zip(file.points, runs_at, strict=True))
        # An alternative of another axis that names this one is the same alternative whatever this one is.
        named = _differing_in(axis, zip(file.points, runs_at, strict=True), as_written=True)
        pair = next((pair for pair in _alike(groups) if not _told_apart(pair, [*groups, *named])), None)
        if pair is not None:
            problems.append(_problem(file, axis, *pair.values()))
    if problems:
        raise SweepFileError(problems)


def refuse_deafness(file: SweepFile, students: Sequence[Run]) -> None:
    """Raises SweepFileError where target knobs stand at students none of which looks at what they make of labels. Not
    where an axis decides on that: elsewhere in a grid, or in the next trial, they may well do."""
    student = file.tree.get("student") or {}
    axes = any(any(names(student.get(part))) for part in ("distillation", "loss", "noise"))
    if students and not axes and all(run.deaf for run in students):
        told = "changes labels, and no student looks at these: alpha is 1; remove it, or give the labels a share"
        named = next(iter(students[0].noise.knobs("target")))
        raise SweepFileError([Problem(file.path, None, ("student", "noise", "target"), f"{named} {told}")])


def _differing_in(axis: str, points: Iterable[tuple[SweepPoint, Runs]], as_written: bool = False) -> Collection[Group]:
    groups: dict[Hashable, Group] = {}
    for point, runs in points:
        values = dict(point.at.written if as_written else point.at.values)
        if axis in values:
            del values[axis]
            value = comparable(point.at.values[axis])
            groups.setdefault(comparable(dict(sorted(values.items()))), {}).setdefault(value, (point, runs))
    return groups.values()


def _alike(groups: Collection[Group]) -> Iterator[dict[Hashable, SweepPoint]]:
    """Pairs of values, with the points that have them, that lead to the same runs somewhere; each pair once."""
    seen = set()
    for group in groups:
        first: dict[Runs, Hashable] = {}
        for value, (point, runs) in group.items():
            other = first.setdefault(runs, value)
            if other != value and (other, value) not in seen:
                seen.add((other, value))
                yield {other: group[other][0], value: point}


def _told_apart(pair: Collection[Hashable], groups: Collection[Group]) -> bool:
    one, other = pair
    return any(one in group and other in group and group[one][1] != group[other][1] for group in groups)


def _problem(file: SweepFile, axis: str, one: SweepPoint, other: SweepPoint) -> Problem:
    line = other.at.lines.get(axis)
    words = [word(point.at.values[axis]) for point in (one, other)]
    message = (
        f"came {' and '.join(words)}, which make the same runs wherever they stand: what ${axis} sets is off, replaced "
        "or not asked for there; remove one of the two, or write the axis where it changes a run"
    )
    return problem(file.path, line, (*(("search", "space") if file.search else ("grid",)), axis), message)
