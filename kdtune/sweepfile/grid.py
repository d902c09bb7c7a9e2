"""A sweep file's grid: blocks of axes, the points they make, and `$names` put in place.

A block is a product, a grid the union of its blocks. A value may be a list of alternatives, one value, Tune's own
`{grid_search: [...]}`, or the `$name` of another axis of its block. An alternative may be a mapping, in which such
names may stand too, or null: `distillation: [null, {alpha: $alpha, temperature: 4}]` has a control without teacher.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kdtune.settings import nearest
from kdtune.sweepfile.tree import Problem, YamlList, YamlMap, problem_at

AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = ("id", "role", "seed", "state")  # columns that every table has
RESERVED_WORDS = ", ".join(RESERVED)


@dataclass(frozen=True)
class GridPoint:
    """One combination of axis values, the lines they were written in, and the block they come from (1-based)."""

    values: dict[str, Any]
    lines: dict[str, int | None]
    block: int
    line: int | None


def points(grid: Any, source: str) -> tuple[list[GridPoint], list[Problem]]:
    """All points of a grid in written order, and what is wrong with it. No grid is one point without values."""
    blocks = [grid] if isinstance(grid, YamlMap) else grid
    if blocks is None:
        return [GridPoint({}, {}, 1, None)], []
    if not isinstance(blocks, list) or not all(isinstance(block, YamlMap) for block in blocks) or not blocks:
        return [], [Problem(source, None, ("grid",), f"came {grid!r}; a grid is a mapping of axes, or a list of such")]
    found: list[GridPoint] = []
    problems: list[Problem] = []
    for number, block in enumerate(blocks):
        path = ("grid",) if isinstance(grid, YamlMap) else ("grid", number)
        axes: dict[str, list[Any]] = {}
        for axis, value in block.items():
            alternatives, message = _alternatives(axis, value, block)
            if not AXIS.fullmatch(axis) or axis in RESERVED:
                message = (
                    f"came {axis!r}; an axis is a column of the table: letters, digits and _, not {RESERVED_WORDS}"
                )
            axes[axis] = alternatives
            if message:
                problems.append(Problem(source, block.lines.get(axis), (*path, axis), message))
        if problems:
            continue
        for combination in itertools.product(*axes.values()):
            written = GridPoint(dict(zip(axes, combination, strict=True)), dict(block.lines), number + 1, block.line)
            values = {axis: substitute(value, written) for axis, value in written.values.items()}
            found.append(replace(written, values=values))
    return found, problems


def _alternatives(axis: str, value: Any, block: YamlMap) -> tuple[list[Any], str | None]:
    if isinstance(value, YamlMap) and list(value) == ["grid_search"] and isinstance(value["grid_search"], list):
        value = value["grid_search"]
    elif isinstance(value, YamlMap) and ({"values", "choice", "_type", "grid_search", "distribution"} & set(value)):
        return [], f"came {dict(value)}; an axis takes a list: {axis}: [0.1, 0.2], or {{grid_search: [0.1, 0.2]}}"
    alternatives = list(value) if isinstance(value, list) else [value]
    for name, _ in names(alternatives):
        if name not in block:
            return [], f"came ${name}; this block has no axis of that name, only {', '.join(block)}"
        if any(names(block[name])):
            return [], f"came ${name}, which itself refers to another axis; name that axis directly"
    if not alternatives:
        return [], "came an empty list; an axis needs at least one value"
    return alternatives, None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def names(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Every `$name` in a tree, without its dollar sign, and where it stands."""
    if _is_name(tree):
        yield tree[1:], path
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from names(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from names(value, (*path, number))


def substitute(tree: Any, point: GridPoint) -> Any:
    """The tree with every `$name` replaced by the point's value, which keeps the line it has in the grid."""
    if _is_name(tree):
        return point.values.get(tree[1:], tree)
    if isinstance(tree, YamlMap):
        lines = {key: _line(value, tree.lines.get(key), point) for key, value in tree.items()}
        return YamlMap({key: substitute(value, point) for key, value in tree.items()}, lines, tree.line)
    if isinstance(tree, YamlList):
        lines_of_items = [_line(value, line, point) for value, line in zip(tree, tree.lines, strict=True)]
        return YamlList([substitute(value, point) for value in tree], lines_of_items, tree.line)
    return tree


def _line(value: Any, line: int | None, point: GridPoint) -> int | None:
    return point.lines.get(value[1:], line) if _is_name(value) else line


def check_names(tree: YamlMap, grid: Any, found: list[GridPoint], source: str) -> list[Problem]:
    """`$names` of a tree that no block has or that one block lacks, and axes that nothing uses."""
    used: dict[str, tuple[str | int, ...]] = {}
    for name, path in names(tree):
        used.setdefault(name, path)
    axes = list(dict.fromkeys(axis for point in found for axis in point.values))
    problems = []
    for name, path in used.items():
        lacking = {point.block: point for point in found if name not in point.values}
        if name not in axes:
            close = nearest(name, axes)
            hint = f"did you mean ${close}?" if close else f"the grid has {', '.join(axes) or 'no axes'}"
            problems.append(problem_at(tree, source, path, f"came ${name}, which no block of the grid has; {hint}"))
        elif lacking:  # one mistake, where a name is new to a long grid
            block, *more = lacking
            blocks = f"blocks {block}, {', '.join(map(str, more))}" if more else f"block {block}"
            message = (
                f"{blocks} of the grid {'have' if more else 'has'} no {name}, which {'.'.join(map(str, path))} asks for"
            )
            problems.append(Problem(source, lacking[block].line, ("grid", block - 1), message))
    referred = {name for name, _ in names(grid)}
    unused: set[str] = set()
    for point in found:
        for axis in point.values:
            if axis not in used and axis not in referred and axis not in unused:
                unused.add(axis)  # one mistake, however many blocks repeat it
                close = nearest(axis, used)
                hint = f" (the file uses ${close})" if close else ""
                message = f"nothing uses the axis {axis}; write ${axis} where its value belongs, or remove it{hint}"
                problems.append(Problem(source, point.lines.get(axis), ("grid", point.block - 1, axis), message))
    return list(dict.fromkeys(problems))
