"""A sweep file's grid: blocks of axes, the points they make, and `$names` put in place.

A block is a product, a grid the union of its blocks. A value may be a list of alternatives, one value, Tune's own
`{grid_search: [...]}`, `{range: 200}` for the numbers 0 to 199, or the `$name` of another axis of its block. An
alternative may be a mapping, in which such names may stand too, or null: `distillation: [null, {alpha: $alpha,
temperature: 4}]` has a control without teacher.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from kdtune.settings import nearest
from kdtune.sweepfile.tree import KeyPath, Problem, YamlList, YamlMap, problem, problem_at
from kdtune.sweepfile.values import comparable, word

AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Columns that tables have beside the axes, `teacher.id` among them.
RESERVED = (
    *("id", "role", "seed", "state", "chosen", "taught", "metric"),
    *("weights_sha256", "recipe_version", "bfloat16_version", "checkpoint_digest"),
)
RESERVED_WORDS = ", ".join(RESERVED)
COMMON = {  # to all runs of a sweep, and what would do instead of an axis there
    "name": "tables have a column for every axis; write the name without it",
    "evaluation": "an evaluator that takes a list measures all of it ({listed}); else write an entry for each value, "
    "or measure again with kdtune evaluate",
}


@dataclass(frozen=True)
class Block:
    """A product of axes: the alternatives of each, and where they are written. `number` counts from 1."""

    axes: dict[str, list[Any]]
    lines: dict[str, int | None]
    number: int
    line: int | None
    path: KeyPath = ("grid",)

    def points(self, among: Container[str] | None = None) -> int:
        """How many points differ in these axes, or in any. None is laid out."""
        return prod(len(values) for axis, values in self.axes.items() if among is None or axis in among)


@dataclass(frozen=True)
class GridPoint:
    """One combination of axis values, the lines they were written in, and the block they come from (1-based)."""

    values: dict[str, Any]
    lines: dict[str, int | None]
    block: int
    line: int | None
    written: dict[str, Any] = field(default_factory=dict)  # the values with `$names` in them as they stand


LONGEST = 1_000_000  # range: what is longer is a slip of the hand, and would be laid out before it is counted
NO_AXES = Block({}, {}, 1, None)  # no grid is one point without values


def blocks(tree: YamlMap, source: str) -> tuple[list[Block], list[Problem]]:
    """The blocks of a sweep file's grid, and what is wrong with it."""
    grid = tree.get("grid")
    if grid is None:
        return [NO_AXES], []
    written = [grid] if isinstance(grid, YamlMap) else grid
    if not isinstance(written, list) or not all(isinstance(block, YamlMap) for block in written) or not written:
        what = f"came {grid!r}; a grid is a mapping of axes, or a list of such"
        return [], [problem_at(tree, source, ("grid",), what)]
    found: list[Block] = []
    problems: list[Problem] = []
    for number, block in enumerate(written):
        path: KeyPath = ("grid",) if isinstance(grid, YamlMap) else ("grid", number)
        axes: dict[str, list[Any]] = {}
        for axis, value in block.items():
            axes[axis], message = _alternatives(axis, value, block)
            if not AXIS.fullmatch(axis) or axis in RESERVED:
                message = no_axis(axis)
            if message:
                problems.append(problem(source, block.lines.get(axis), (*path, axis), message))
        found.append(Block(axes, dict(block.lines), number + 1, block.line, path))
    return found, problems


def no_axis(name: str) -> str:
    """What is said of a name that no axis can have."""
    return f"came {name!r}; an axis is a column of the table: letters, digits and _, not {RESERVED_WORDS}"


def points(blocks: Iterable[Block]) -> Iterator[GridPoint]:
    """All points in written order."""
    for block in blocks:
        for combination in itertools.product(*block.axes.values()):
            written = GridPoint(dict(zip(block.axes, combination, strict=True)), block.lines, block.number, block.line)
            values = {axis: substitute(value, written) for axis, value in written.values.items()}
            yield replace(written, values=values, written=written.values)


def _alternatives(axis: str, value: Any, block: YamlMap) -> tuple[list[Any], str | None]:
    if isinstance(value, YamlMap) and list(value) == ["grid_search"] and isinstance(value["grid_search"], list):
        value = value["grid_search"]
    elif isinstance(value, YamlMap) and list(value) == ["range"]:
        if type(value["range"]) is not int or not 1 <= value["range"] <= LONGEST:
            return [], f"came {dict(value)}; range: 200 stands for the numbers 0 to 199, of which there is at least one"
        value = list(range(value["range"]))
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
    counts = Counter(map(comparable, alternatives))
    if twice := [value for value in alternatives if counts[comparable(value)] > 1]:
        return [], f"{word(twice[0])} is written twice; delete one of the two"
    return alternatives, None


def is_name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def names(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Every `$name` in a tree, without its dollar sign, and where it stands."""
    if is_name(tree):
        yield tree[1:], path
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from names(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from names(value, (*path, number))


def substitute(tree: Any, point: GridPoint) -> Any:
    """The tree with every `$name` replaced by the point's value, which keeps the line it has in the grid."""
    if is_name(tree):
        return point.values.get(tree[1:], tree)
    if isinstance(tree, YamlMap):
        lines = {key: _line(value, tree.lines.get(key), point) for key, value in tree.items()}
        return YamlMap({key: substitute(value, point) for key, value in tree.items()}, lines, tree.line)
    if isinstance(tree, YamlList):
        lines_of_items = [_line(value, line, point) for value, line in zip(tree, tree.lines, strict=True)]
        return YamlList([substitute(value, point) for value in tree], lines_of_items, tree.line)
    return tree


def _line(value: Any, line: int | None, point: GridPoint) -> int | None:
    return point.lines.get(value[1:], line) if is_name(value) else line


def check_names(
    tree: YamlMap, grid: Any, found: list[Block], source: str, what: str = "no block of the grid has"
) -> list[Problem]:
    """`$names` of a tree that no block has or that one block lacks, and axes that nothing uses. `what` says of a name
    that it is not there."""
    used: dict[str, tuple[str | int, ...]] = {}
    for name, path in names(tree):
        used.setdefault(name, path)
    axes = list(dict.fromkeys(axis for block in found for axis in block.axes))
    problems = []
    for name, path in used.items():
        lacking = {block.number: block for block in found if name not in block.axes}
        if name not in axes:
            close = nearest(name, axes)
            hint = f"did you mean ${close}?" if close else f"its axes: {', '.join(axes) or 'none'}"
            problems.append(problem_at(tree, source, path, f"came ${name}, which {what}; {hint}"))
        elif lacking:  # one mistake, where a name is new to a long grid
            block, *more = lacking
            blocks = f"blocks {block}, {', '.join(map(str, more))}" if more else f"block {block}"
            message = (
                f"{blocks} of the grid {'have' if more else 'has'} no {name}, which {'.'.join(map(str, path))} asks for"
            )
            problems.append(problem(source, lacking[block].line, lacking[block].path, message))
    referred = {name for name, _ in names(grid)}
    unused: set[str] = set()
    for each in found:
        for axis in each.axes:
            if axis not in used and axis not in referred and axis not in unused:
                unused.add(axis)  # one mistake, however many blocks repeat it
                close = nearest(axis, used)
                hint = f" (the file uses ${close})" if close else ""
                message = f"nothing uses the axis {axis}; write ${axis} where its value belongs, or remove it{hint}"
                problems.append(problem(source, each.lines.get(axis), (*each.path, axis), message))
    return list(dict.fromkeys(problems))


def check_common(tree: YamlMap, found: Sequence[GridPoint], source: str) -> list[Problem]:
    """Axes of several values in what all runs of a sweep have in common: its name, and what they are measured by."""
    problems = []
    for part in ("name", "evaluation"):
        for name, path in names(tree.get(part), (part,)):
            values = {comparable(point.values[name]): point.values[name] for point in found if name in point.values}
            if len(values) > 1:
                message = f"came ${name}, of {len(values)} values, but all runs of a sweep have one {part}"
                key = next(key for key in reversed(path) if isinstance(key, str))
                listed = f"{key}: [{', '.join(map(word, values.values()))}]"
                hint = COMMON[part].format(listed=listed if len(path) > 1 else "eps: [0.01, 0.3]")
                problems.append(problem_at(tree, source, path, f"{message}; {hint}"))
    return problems
