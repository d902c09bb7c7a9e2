"""`search:` of a sweep file, held against the rest of it: its axes, its objectives, its teachers, its size.

What is proposed must be as valid as what is listed. So the ends of all ranges are validated like points of a grid: a
range that leads out of what a knob may be is refused with its line before anything runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import prod
from typing import Any

from pydantic import ValidationError

from kdtune.config import Sweep
from kdtune.data.dataset import Dataset
from kdtune.evaluation.evaluation import declared, named
from kdtune.search.search import Search
from kdtune.search.space import Distribution
from kdtune.settings import meant, nearest
from kdtune.sweepfile import grid
from kdtune.sweepfile.size import TooManyRuns
from kdtune.sweepfile.source import Source
from kdtune.sweepfile.tree import KeyPath, Problem, YamlList, YamlMap, line_at, problem, problem_at
from kdtune.sweepfile.validate import problem_of
from kdtune.sweepfile.values import comparable

SPACE: KeyPath = ("search", "space")
COLUMNS = ("number", "listed", "front", "runs")  # of search.csv, beside the axes


def of_tree(tree: YamlMap, read: Source, given: bool) -> tuple[Search | None, list[Problem]]:
    """What stands at `search`, and what is wrong with that alone. `given`: points are, and nothing is proposed."""
    if (written := tree.get("search")) is None:
        return None, []
    if not isinstance(written, YamlMap):
        message = f"came {written!r}; a search is a mapping, such as {{trials: 20, objectives: ..., space: ...}}"
        return None, [problem_at(tree, read.name, ("search",), message)]
    problems = []
    if "seeds" in written and "seeds" in tree and not given:
        message = "seeds stand here and in search, where they are what counts; remove one of the two"
        problems.append(problem_at(tree, read.name, ("seeds",), message))
    try:
        return Search.model_validate(written), problems
    except ValidationError as failure:
        told = [problem_of(error, tree, tree, read, ("search",)) for error in failure.errors()]
        return None, [*problems, *told]


def with_its_seeds(tree: YamlMap) -> YamlMap:
    """The tree without the search, whose seeds are the sweep's where that names none."""
    rest = YamlMap({key: value for key, value in tree.items() if key != "search"}, tree.lines, tree.line)
    written = tree.get("search")
    if isinstance(written, YamlMap) and "seeds" in written and "seeds" not in tree:
        rest["seeds"], rest.lines["seeds"] = written["seeds"], written.lines.get("seeds")
    return rest


def check_axes(
    search: Search | None, tree: YamlMap, whole: YamlMap, blocks: Sequence[grid.Block], source: str
) -> list[Problem]:
    """Names that are no axis of the space, axes that nothing uses, points of the grid that have other axes or are more
    than the proposals. `whole`: all that names axes."""
    space = tree["search"].get("space") if isinstance(tree["search"], YamlMap) else None
    if not isinstance(space, YamlMap):
        return []  # which has been said
    problems = []
    for axis in space:
        if not grid.AXIS.fullmatch(axis) or axis in grid.RESERVED:
            problems.append(problem_at(tree, source, (*SPACE, axis), grid.no_axis(axis)))
        elif axis in COLUMNS:
            message = f"came {axis!r}, which is a column of search.csv: so is each axis; another name would do"
            problems.append(problem_at(tree, source, (*SPACE, axis), message))
    axes = {axis: _alternatives(space[axis]) for axis in space}
    block = grid.Block(axes, dict(space.lines), 1, line_at(tree, SPACE), SPACE)
    problems += grid.check_names(whole, space, [block], source, "is no axis of search.space")
    for each in blocks if "grid" in tree else ():
        if lacking := [axis for axis in space if axis not in each.axes]:
            message = f"lacks {', '.join(lacking)}; a proposal that is listed has a value for each axis of search.space"
            problems.append(problem(source, each.line or line_at(tree, ("grid",)), each.path, message))
        for axis in (axis for axis in each.axes if axis not in space):
            close = nearest(axis, space)
            message = "is no axis of search.space" + (f"; did you mean {close}?" if close else "")
            problems.append(problem(source, each.lines.get(axis), (*each.path, axis), message))
    listed = sum(each.points() for each in blocks) if "grid" in tree else 0
    if search is not None and listed > search.trials:
        message = f"came {search.trials}, but the grid's {listed} points are proposals too: {listed} or more would do"
        problems.append(problem_at(tree, source, ("search", "trials"), message))
    return problems


def _alternatives(written: Any) -> list[Any]:
    """What may stand there that names another axis."""
    choice = written.get("choice") if isinstance(written, YamlMap) else None
    return list(choice) if isinstance(choice, YamlList) else []


def ends(search: Search, tree: YamlMap) -> list[grid.GridPoint]:
    """The first and the last values of all axes, and each axis at its other values beside these."""
    space = search.space
    low, high = ({axis: each.ends[end] for axis, each in space.items()} for end in (0, -1))
    around = [{**base, axis: value} for base in (low, high) for axis, each in space.items() for value in each.ends]
    apart = {comparable(values): values for values in (low, *around, high)}
    lines, line = tree["search"]["space"].lines, line_at(tree, SPACE)
    blocks = [
        grid.Block({axis: [value] for axis, value in values.items()}, lines, 1, line, SPACE)
        for values in apart.values()
    ]
    return list(grid.points(blocks))


def check(
    search: Search,
    ends: Sequence[tuple[grid.GridPoint, Sweep]],
    listed: Sequence[Sweep],
    of_teachers: Collection[str],
    tree: YamlMap,
    source: str,
) -> list[Problem]:
    """What keeps a search from going by its objectives. `ends`: those of the space, with the sweep at each; `listed`:
    those of the proposals that the file lists; `of_teachers`: axes that decide teachers."""
    sweep = ends[-1][1]
    found = [*_objectives(search, sweep), *_held_out(sweep), *_teachers(search, sweep, of_teachers)]
    found += _one_measure(search, ends, of_teachers) or _measured_otherwise(sweep, listed)
    return [problem_at(tree, source, path, message) for path, message in found]


def _objectives(search: Search, sweep: Sweep) -> Iterator[tuple[KeyPath, str]]:
    dataset = sweep.dataset_of(sweep.student)
    measured = {name: metric for name, (_, metric) in declared(sweep.evaluation, dataset).items()}
    ranking = [name for name, metric in measured.items() if metric.better and name.startswith("val/")]
    asked = [("objectives", name) for name in search.objectives] + [
        ("constraints", name) for name in search.constraints or ()
    ]
    for kind, name in asked:
        path = ("search", kind, name)
        if dataset.validation is None:
            yield path, "nothing is held out: set dataset.validation"
        elif name not in measured:
            hint = meant(name, ranking) if ranking else "an entry with on: val does"
            yield path, f"no entry of evaluation measures it; {hint}"
        elif kind == "constraints":
            continue
        elif (better := measured[name].better) is None:
            yield path, "neither more nor less of it is better; val/accuracy or another that ranks would do"
        elif (better == "higher") != ((direction := search.objectives[name]) == "max"):
            yield path, f"came {direction}, but {better} is better; {'max' if better == 'higher' else 'min'} would do"


def _held_out(sweep: Sweep) -> Iterator[tuple[KeyPath, str]]:
    """Teachers steer what is found, so that test images choose none, whatever the profile."""
    select = sweep.teacher.select if sweep.teacher else None
    if select and select.metric and select.metric.startswith("test/"):
        told = "a search must not see test images, by way of its teachers either; val/accuracy would do"
        yield ("teacher", "select", "metric"), f"came {select.metric}: {told}"
    name = sweep.student.objective.calibration
    if name is not None and getattr(named(sweep.evaluation, name), "fitted_on", "val") == "test":
        yield ("evaluation",), f"{name} is fitted to test images, which a search must not see; remove fitted_on: test"


def _one_measure(
    search: Search, ends: Sequence[tuple[grid.GridPoint, Sweep]], of_teachers: Collection[str]
) -> list[tuple[KeyPath, str]]:
    """Images held out have the labels that training images have, wrong ones too: an axis that changes these, or which
    images they are, makes numbers of proposals that cannot be compared."""
    told = "each proposal would be judged by other images held out, or by other labels of theirs, than the next: list"
    more = "its values in a grid, and search at one of them"
    judged = {comparable(point.values): _judged_by(sweep) for point, sweep in ends}
    first, found = ends[0][0], []
    usual = judged[comparable(first.values)]
    for axis in search.space:
        alike = [judged[comparable(point.values)] for point, _ in ends if _differ(first, point) <= {axis}]
        if any(each != usual for each in alike):
            found.append(((*SPACE, axis), f"{told} {more}"))
        elif usual.asks and axis in of_teachers:
            asking = f"{usual.asking} asks the teacher, which this axis decides"
            found.append(((*SPACE, axis), f"{asking}: {told} {more}"))
    return found


def _measured_otherwise(sweep: Sweep, listed: Sequence[Sweep]) -> list[tuple[KeyPath, str]]:
    """The same of proposals that are listed, whose values need not be any of the space's."""
    if all(_judged_by(each) == _judged_by(sweep) for each in listed):
        return []
    told = "a proposal listed here would be judged by other images held out, or by other labels of theirs, than those"
    return [(("grid",), f"{told} of search.space; search beside it, in a sweep of its own")]


def _judged_by(sweep: Sweep) -> Dataset:
    return sweep.dataset_of(sweep.student).held_out_as


def _differ(one: grid.GridPoint, other: grid.GridPoint) -> set[str]:
    """The axes in which they do."""
    return {axis for axis, value in one.values.items() if comparable(value) != comparable(other.values[axis])}


def _teachers(search: Search, sweep: Sweep, of_teachers: Collection[str]) -> Iterator[tuple[KeyPath, str]]:
    if sweep.teacher is None or not sweep.asks:
        return
    for axis in (axis for axis, each in search.space.items() if each.continuous and axis in of_teachers):
        if search.teachers is None:
            told = "its teachers use this axis, so that every proposal would train a pool of its own"
            yield (*SPACE, axis), f"{told}; if that is meant: search.teachers: many; else a choice or quniform would do"
    select, pool = sweep.teacher.select, sweep.teacher.seeds
    paired = pool if select and select.rule == "paired" else None
    confirming = search.confirm.those(sweep.seeds) if search.confirm else ()
    if paired and (lacking := [seed for seed in confirming if seed not in paired]):
        told = f"rule: paired teaches student i by teacher i, but teacher.seeds {list(paired)} lacks {lacking}"
        yield ("search", "confirm", "seeds"), told


def refuse_too_many(search: Search, sweep: Sweep, of_teachers: Collection[str], at_most: int | None) -> None:
    """Raises TooManyRuns where it may come to more than `at_most` runs. `sweep`: at one end of the space."""
    students, teachers = most_runs(search, sweep, of_teachers)
    if at_most is not None and students + teachers > at_most:
        raise TooManyRuns(
            f"search asks for up to {students:,} students and {teachers:,} teachers; at most {at_most:,} runs are done "
            "(--max-runs). Fewer trials or seeds, or a larger --max-runs would do"
        )


def most_runs(search: Search, sweep: Sweep, of_teachers: Collection[str]) -> tuple[int, int]:
    """Students and teachers, at most."""
    confirm = search.confirm.points * search.confirm.seeds if search.confirm else 0
    pool = len(sweep.teacher.seeds or sweep.seeds) if sweep.teacher and sweep.asks else 0
    counts = [_values(search.space[axis], search.trials) for axis in search.space if axis in of_teachers]
    return search.trials * len(sweep.seeds) + confirm, pool * min(search.trials, prod(counts))


def _values(axis: Distribution, trials: int) -> int:
    return trials if axis.count is None else axis.count
