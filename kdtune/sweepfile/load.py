"""A sweep file as its points: read, profile laid over, overrides, `$names`, validation; all that is wrong at once.

load_sweep("sweeps/fickle.yaml", "laptop").points   ->   one validated `config.Sweep` per point of the grid
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from collections.abc import Mapping as Values
from collections.abc import Sequence as Strings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kdtune.config import Sweep
from kdtune.settings import UNKNOWN
from kdtune.sweepfile import grid, reader
from kdtune.sweepfile.overrides import assign
from kdtune.sweepfile.tree import Problem, SweepFileError, YamlMap, merge, problem_at

PAPER = "paper"  # the profile of a file as it stands, without an overlay


@dataclass(frozen=True)
class SweepPoint:
    """The sweep at one point of its grid, with the axis values that the teacher and the student use there."""

    sweep: Sweep
    teacher_parameters: dict[str, Any]
    student_parameters: dict[str, Any]


@dataclass(frozen=True)
class SweepFile:
    path: str
    folder: str  # what the paths in it are relative to
    name: str
    profile: str
    changes: tuple[str, ...]  # the dotted paths that the profile sets
    axes: tuple[str, ...]
    points: tuple[SweepPoint, ...]
    tree: YamlMap  # after profile and overrides, grid included: what a sweep's folder keeps


def load_sweep(
    path: str | Path,
    profile: str = PAPER,
    overrides: Strings[str] = (),
    at: Values[str, Any] | None = None,
    folder: str | None = None,
) -> SweepFile:
    """Reads a sweep file; `at` gives one value for every axis and stands for the whole grid.

    Paths in the file are relative to `folder`, by default the file's own.

    Raises SweepFileError with every problem found, each with line, path, what came and what would do.
    """
    source = str(path)
    folder = folder or str(Path(path).resolve().parent)
    tree, overlay = _with_profile(reader.read(path), profile, source)
    tree = assign(tree, *overrides)
    if at is not None:
        tree["grid"] = YamlMap(at)
    body = YamlMap({key: value for key, value in tree.items() if key != "grid"}, tree.lines, tree.line)
    whole = _with_whole_recipes(body)
    found, problems = grid.points(tree.get("grid"), source)
    if not problems:
        problems = grid.check_names(whole, tree.get("grid"), found, source)
    used = {part: _axes_of(whole, part) for part in ("teacher", "student")}
    points = []
    for point in found or [grid.GridPoint({}, {}, 1, None)]:
        substituted = _with_whole_recipes(grid.substitute(body, point))
        sweep, refused = _validated(substituted, tree, profile, source, folder)
        problems += refused
        if sweep is not None:
            parameters = ({axis: point.values[axis] for axis in point.values if axis in used[part]} for part in used)
            points.append(SweepPoint(sweep, *parameters))
    if problems:
        raise SweepFileError(sorted(dict.fromkeys(problems), key=lambda problem: (problem.line or 0, problem.message)))
    axes = tuple(dict.fromkeys(axis for point in found for axis in point.values))
    return SweepFile(source, folder, points[0].sweep.name, profile, tuple(_leaves(overlay)), axes, tuple(points), tree)


def profiles_of(path: str | Path) -> list[str]:
    """The profiles a sweep file offers."""
    overlays = reader.read(path).get("profiles")
    return list(dict.fromkeys([PAPER, *(overlays if isinstance(overlays, YamlMap) else ())]))


def _with_profile(tree: YamlMap, profile: str, source: str) -> tuple[YamlMap, YamlMap]:
    overlays = tree.pop("profiles", YamlMap())
    if not isinstance(overlays, YamlMap) or not all(isinstance(overlay, YamlMap) for overlay in overlays.values()):
        raise SweepFileError([Problem(source, None, ("profiles",), "takes a mapping from profile names to overlays")])
    known = list(dict.fromkeys([PAPER, *overlays]))
    if profile not in known:
        raise SweepFileError([Problem(source, None, ("profiles",), f"no profile {profile!r}; has {', '.join(known)}")])
    overlay = overlays.get(profile, YamlMap())
    return merge(tree, overlay), overlay


def _with_whole_recipes(tree: YamlMap) -> YamlMap:
    """The sweep's recipe laid under the teacher's and the student's own: from here on each network has all of it.

    Once more at every point, since a network's own recipe may be an axis.
    """
    result = copy.deepcopy(tree)
    shared = result.pop("recipe", None)
    for part in ("teacher", "student"):
        network = result.get(part)
        if isinstance(network, YamlMap) and isinstance(shared, YamlMap):
            own = YamlMap() if network.get("recipe") is None else network["recipe"]
            network["recipe"] = merge(shared, own) if isinstance(own, YamlMap) else own
            network.lines.setdefault("recipe", tree.lines.get("recipe"))
    return result


def _axes_of(tree: YamlMap, part: str) -> set[str]:
    """The `$names` that decide the runs of one part; what is beside both parts, such as the data set, decides both."""
    others = {"teacher", "student"} - {part}
    return {name for name, path in grid.names(tree) if path[0] not in others}


def _validated(
    tree: YamlMap, written: YamlMap, profile: str, source: str, folder: str
) -> tuple[Sweep | None, list[Problem]]:
    try:
        sweep = Sweep.model_validate(dict(tree), context={"folder": folder})
    except ValidationError as failure:
        # A `$name` still in place is reported by the grid's own check.
        errors = [error for error in failure.errors() if not str(error["input"]).startswith("$")]
        return None, [_problem(error, tree, written, source) for error in errors]
    metric = sweep.teacher.select.metric if sweep.teacher and sweep.teacher.select else None
    if metric and metric.startswith("test/") and profile != PAPER:
        path = ("teacher", "select", "metric")
        message = f"came {metric}: only the paper profile may choose by test data; here val/accuracy would do"
        return None, [problem_at(tree, source, path, message)]
    return sweep, []


def _problem(error: ErrorDetails, tree: YamlMap, written: YamlMap, source: str) -> Problem:
    """One of pydantic's errors in the words of a sweep file: where, what came, what would do."""
    path = error["loc"]
    came, message = error["input"], error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "is missing; nothing stands in for it"
    elif error["type"] != UNKNOWN and not isinstance(came, dict | list):
        message = f"came {came!r}; {message[:1].lower()}{message[1:]}"
    if path[:2] in (("teacher", "recipe"), ("student", "recipe")) and not _stands(written, path):
        return replace(
            problem_at(tree, source, path, message), path=path[1:]
        )  # written once, in the sweep's own recipe
    return problem_at(tree, source, path, message)


def _stands(tree: Any, path: tuple[Any, ...]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _leaves(tree: Any, path: str = "") -> Iterator[str]:
    if isinstance(tree, YamlMap) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path
