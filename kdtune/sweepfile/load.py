"""A sweep file as its points: read, profile laid over, overrides, `$names`, validation; all that is wrong at once.

load_sweep("sweeps/fickle.yaml", "laptop").points   ->   one validated `config.Sweep` per point of the grid
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtune.config import Sweep
from kdtune.data.dataset import names_a_set
from kdtune.garbage import uncollected
from kdtune.search.search import Search
from kdtune.sweepfile import grid, searching
from kdtune.sweepfile.overrides import Override, assign
from kdtune.sweepfile.size import MAX_RUNS, refuse_too_many
from kdtune.sweepfile.source import PAPER, Source, read_source
from kdtune.sweepfile.tree import (
    NETWORKS,
    Problem,
    SweepFileError,
    YamlList,
    YamlMap,
    merge,
    names_a_kind,
    overlay,
    problem_at,
)
from kdtune.sweepfile.validate import validated
from kdtune.sweepfile.values import grown, plain

SHARED = ("recipe", "dataset")  # what the sweep says for all its networks, and each may say otherwise


@dataclass(frozen=True)
class SweepPoint:
    """The sweep at one point of its grid, with the axis values that its networks use there."""

    sweep: Sweep
    at: grid.GridPoint
    teacher_parameters: dict[str, Any]
    source_parameters: dict[str, Any]
    student_parameters: dict[str, Any]

    def led_by(self, part: str) -> dict[str, Any]:
        """The axis values of what the runs of a source or of a student wait for."""
        learners = self.sweep.learners
        found = self.teacher_parameters if self.sweep.asks_teacher(learners[part]) else {}
        return found | self.source_parameters if part == "student" and "source" in learners else found


@dataclass(frozen=True)
class SweepFile:
    path: str  # what errors call it
    folder: str  # what paths in it are relative to
    origin: str | None  # where it lies; None for a pipe
    name: str
    profile: str
    asked: tuple[str, ...]  # beside what the file says: overrides, and the paths that are meant in them
    changes: tuple[str, ...]  # the dotted paths that the profile sets
    axes: tuple[str, ...]
    points: tuple[SweepPoint, ...]  # of a search those of its grid, which may be none
    tree: YamlMap  # after profile and overrides, grid included: what a sweep's folder keeps
    search: Search | None = None
    ends: tuple[SweepPoint, ...] = ()  # of a search the ends of its ranges


@uncollected()
def load_sweep(
    path: str | Path | Source,
    profile: str = PAPER,
    overrides: Sequence[Override] = (),
    at: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    folder: str | None = None,
    max_runs: int | None = MAX_RUNS,
) -> SweepFile:
    """Reads a sweep file, or takes one that was read; `at` gives one value for every axis, or several such points, and
    stands for the grid and for what a search would propose.

    Paths in the file are relative to `folder`, by default the file's own; those in overrides to the current folder.

    Raises SweepFileError with every problem found, each with line, path, what came and what would do; TooManyRuns,
    before any is laid out, where they would be more than `max_runs`.
    """
    read = path if isinstance(path, Source) else read_source(path, folder)
    base, overlay = _with_profile(read, profile)
    tree = assign(merge(base, overlay), *overrides)
    if "profiles" in tree:  # those of the file are taken out by now
        message = "stand at the top of the file alone: neither inside a profile nor on the command line"
        raise SweepFileError([problem_at(tree, read.name, ("profiles",), message)])
    search, problems = searching.of_tree(tree, read, given=at is not None)
    if at is not None:  # one alternative each, a list too
        tree["grid"] = _block(at) if isinstance(at, Mapping) else YamlList(map(_block, at))
    body = searching.with_its_seeds(_without(tree, "grid"))
    used, whole = _used(body)
    blocks, wrong = grid.blocks(tree, read.name)
    searched = at is None and "search" in tree
    if max_runs is not None and not searched:
        refuse_too_many(tree, [grid.NO_AXES] if wrong else blocks, used["teacher"], max_runs)
    found: list[grid.GridPoint] = []
    ends: list[grid.GridPoint] = []
    if searched:
        wrong += searching.check_axes(search, tree, whole, [] if wrong else blocks, read.name)
        if search is not None and not wrong:
            found, ends = list(grid.points(blocks)) if "grid" in tree else [], searching.ends(search, tree)
    elif not wrong:
        found = list(grid.points(blocks))
        wrong += grid.check_names(whole, tree.get("grid"), blocks, read.name)
    problems += [*wrong, *grid.check_common(body, [*found, *ends], read.name)]
    context: dict[str, Any] = {"folder": read.folder, "paths": {}}
    points = []
    for point in [*found, *ends] or grid.points([grid.NO_AXES]):
        resolved = _with_whole_networks(grid.substitute(body, point))
        sweep, refused = validated(resolved, tree, read, profile, context)
        problems += refused
        if sweep is not None:
            parameters = (
                {axis: plain(value, {}) for axis, value in point.values.items() if axis in used[part]} for part in used
            )
            points.append(SweepPoint(sweep, point, *parameters))
    if searched and search is not None and not problems:
        of_ends = [(each.at, each.sweep) for each in points[len(found) :]]
        listed = [each.sweep for each in points[: len(found)]]
        problems += searching.check(search, of_ends, listed, used["teacher"], tree, read.name)
        searching.refuse_too_many(search, points[-1].sweep, used["teacher"], max_runs)
    if problems:
        raise SweepFileError(sorted(dict.fromkeys(problems), key=lambda problem: (problem.line or 0, problem.message)))
    axes = dict.fromkeys(axis for block in blocks for axis in block.axes)
    return SweepFile(
        path=read.name,
        folder=read.folder,
        origin=read.file,
        name=points[0].sweep.name,
        profile=profile,
        asked=(*map(str, overrides), *sorted(context["paths"].values())),
        changes=tuple(_leaves(overlay)) if overlay else (),
        axes=tuple(axes if search is None else search.space),
        points=tuple(points[: len(points) - len(ends)]),
        tree=plain(tree, context["paths"]),
        search=search,
        ends=tuple(points[len(points) - len(ends) :]),
    )


def _block(values: Mapping[str, Any]) -> YamlMap:
    return YamlMap({axis: YamlList([grown(value)]) for axis, value in values.items()}, dict.fromkeys(values))


def _used(body: YamlMap) -> tuple[dict[str, set[str]], YamlMap]:
    """The axes that decide the runs of each part; and all that names any, as a tree."""
    whole = _with_whole_networks(body)
    beneath = {
        part: {name for key in SHARED for name in _beneath(body.get(key), body[part].get(key), (key,))}
        for part in NETWORKS
        if isinstance(body.get(part), YamlMap)
    }
    used = {part: _axes_of(whole, part) | beneath.get(part, set()) for part in NETWORKS}
    return used, YamlMap({"recipe": YamlList(f"${name}" for name in set().union(*beneath.values()))} | whole)


def _with_profile(read: Source, profile: str) -> tuple[YamlMap, YamlMap]:
    """The file as it stands, without profiles, and the overlay of one."""
    known = read.profiles
    if profile not in known:
        message = f"no profile {profile!r}; has {', '.join(known)}"
        raise SweepFileError([Problem(read.name, None, ("profiles",), message)])
    return _without(read.tree, "profiles"), known[profile]


def _without(tree: YamlMap, key: str) -> YamlMap:
    return YamlMap({name: value for name, value in tree.items() if name != key}, tree.lines, tree.line)


def _with_whole_networks(tree: YamlMap) -> YamlMap:
    """The sweep's recipe laid under the networks' own: from here on each network has all of it. So
    with the data set, where a network has something of its own to say of it.

    Once more at every point, since what the sweep or a network says may be an axis.
    """
    result = copy.deepcopy(tree)
    networks = [network for part in NETWORKS if isinstance(network := result.get(part), YamlMap)]
    shared, dataset = result.get("recipe"), result.get("dataset")
    if isinstance(dataset, str) and not grid.is_name(dataset):  # a bare name, which others may be laid over
        dataset = YamlMap({dataset: YamlMap()}, {dataset: tree.lines.get("dataset")})
    if isinstance(shared, YamlMap | None):
        result.pop("recipe", None)
    for network in networks:
        if isinstance(shared, YamlMap):
            own = YamlMap() if network.get("recipe") is None else network["recipe"]
            network["recipe"] = merge(shared, own) if isinstance(own, YamlMap) else own
            network.lines.setdefault("recipe", tree.lines.get("recipe"))
        own = network.get("dataset")
        if isinstance(own, YamlMap) and isinstance(dataset, YamlMap) and not names_a_set(own):
            network["dataset"] = overlay(copy.deepcopy(dataset), own, ("dataset",))
    return result


def _axes_of(tree: YamlMap, part: str) -> set[str]:
    """The `$names` that decide the runs of one part; what is beside all parts decides all, but the data set only
    where a part has none of its own."""
    others = set(NETWORKS) - {part}
    if isinstance(network := tree.get(part), YamlMap) and network.get("dataset") is not None:
        others |= {"dataset"}
    return {name for name, path in grid.names(tree) if path[0] not in others}


def _beneath(shared: Any, own: Any, path: tuple[str, ...]) -> Iterator[str]:
    """The `$names` of what the sweep says that lie below a `$name` of a network's own, which is laid over them."""
    if grid.is_name(own) and isinstance(shared, YamlMap) and (path == ("dataset",) or not names_a_kind(path)):
        yield from (name for name, _ in grid.names(shared))
    elif isinstance(own, YamlMap) and isinstance(shared, YamlMap):
        for key in own.keys() & shared.keys():
            yield from _beneath(shared[key], own[key], (*path, key))


def _leaves(tree: Any, path: str = "") -> Iterator[str]:
    if isinstance(tree, YamlMap) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path
