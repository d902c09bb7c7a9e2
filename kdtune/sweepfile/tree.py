"""A sweep file as a tree that remembers its lines; laying one tree over another; problems, by place.

The tree is `YamlMap`, `YamlList` and scalars. A line is None where the command line wrote the value, and nowhere else,
so a place in the tree and the name of its file are enough to say where a value came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

KeyPath = tuple[str | int, ...]

COMMAND_LINE = "command line"
NAMING = frozenset({"optimizer", "schedule", "dataset", "model", "loss"})  # keys whose mapping names a kind
NETWORKS = ("teacher", "source", "student")
POINTS = frozenset({"input", "teacher", "target", "labels"})  # injection points, directly under `noise`


class YamlMap(dict[str, Any]):
    """A YAML mapping. `lines[key]`: where that value stands (of a list or mapping: the line of its key), from 1."""

    def __init__(
        self,
        items: Mapping[str, Any] | None = None,
        lines: Mapping[str, int | None] | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(items or {})
        self.lines = dict(lines or {})
        self.line = line

    def __deepcopy__(self, memo: Any) -> YamlMap:
        """Several times as fast as Python's own way; a tree is copied at every point of a grid."""
        return YamlMap({key: copied(value) for key, value in self.items()}, self.lines, self.line)


class YamlList(list[Any]):
    """A YAML list. `lines[i]`: where item i stands, from 1."""

    def __init__(self, items: Iterable[Any] = (), lines: Iterable[int | None] = (), line: int | None = None) -> None:
        super().__init__(items)
        self.lines = list(lines) or [None] * len(self)
        self.line = line

    def __deepcopy__(self, memo: Any) -> YamlList:
        return YamlList(map(copied, self), self.lines, self.line)


def copied(value: Any) -> Any:
    """A part of a tree, so that changing it changes nothing else. Scalars are never changed."""
    return deepcopy(value) if isinstance(value, YamlMap | YamlList) else value


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a sweep file or an override: where, what came, what would do."""

    source: str
    line: int | None
    path: KeyPath
    message: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return ": ".join(part for part in (where, ".".join(map(str, self.path)), self.message) if part)


class SweepFileError(Exception):
    """What is wrong with a sweep file: every problem that was found, one a line when printed."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[SweepFileError], tuple[list[Problem]]]:
        return type(self), (self.problems,)  # it travels between processes


def child(node: Any, part: str | int) -> tuple[Any, int | None]:
    """What stands under `part` of `node`, and its line; digits index a list. KeyError where there is nothing."""
    if isinstance(node, YamlMap) and part in node:
        return node[str(part)], node.lines.get(str(part))
    # Nine digits at most: int() answers thousands of them with a ValueError.
    if isinstance(node, YamlList) and len(str(part)) < 10 and str(part).isdecimal() and int(part) < len(node):
        return node[int(part)], node.lines[int(part)]
    raise KeyError(part)


def line_at(tree: YamlMap, path: KeyPath) -> int | None:
    """The line of the deepest part of `path` that exists; None where the command line wrote it."""
    node, line = tree, tree.line
    for part in path:
        try:
            node, line = child(node, part)
        except KeyError:
            break
    return line


def problem_at(tree: YamlMap, source: str, path: KeyPath, message: str) -> Problem:
    """A problem with what stands at `path` of a tree that was read from `source` and, in part, written by overrides."""
    return problem(source, line_at(tree, path), path, message)


def problem(source: str, line: int | None, path: KeyPath, message: str) -> Problem:
    """A problem of `source`, or of the command line, whose values have no lines."""
    return Problem(COMMAND_LINE if line is None else source, line, path, message)


def command_line_error(path: KeyPath, message: str) -> SweepFileError:
    return SweepFileError([Problem(COMMAND_LINE, None, path, message)])


def short(value: Any) -> str:
    """A value as a message names it, in 60 characters at most."""
    if isinstance(value, YamlMap | YamlList):
        return f"a {'mapping' if isinstance(value, YamlMap) else 'list'} of {len(value)}"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def names_a_kind(path: KeyPath) -> bool:
    """Whether a mapping at `path` names one kind out of several, so that two of them cannot be merged key by key.

    Only `noise.teacher` is an injection point; `teacher` anywhere else is an ordinary mapping. So are `evaluation` and
    `search.space`, but each of their entries names an evaluator or a distribution.
    """
    if not path:
        return False
    above = path[-2] if len(path) > 1 else None
    point = (above == "noise" and path[-1] in POINTS) or path[-2:] == ("dataset", "labels")
    search = path[:-1] == ("search", "space") or path == ("search", "sampler")
    return point or search or path[-1] in NAMING or path[:-1] == ("evaluation",)


def merge(base: YamlMap, over: YamlMap) -> YamlMap:
    """`base` with `over` laid on it; neither is changed.

    Mappings merge key by key, except where they name a kind: there the upper one replaces the lower. A list or a scalar
    replaces. None removes the key, and does nothing where there is no such key. Lines follow what was written last.
    """
    return overlay(deepcopy(base), deepcopy(over), ())


def overlay(base: YamlMap, over: YamlMap, path: KeyPath) -> YamlMap:
    """`merge` at `path` of a larger tree, in place: `base` is changed and returned, and takes in parts of `over`."""
    for key, value in over.items():
        here = (*path, key)
        below = base.get(key)
        if value is None:
            base.pop(key, None)
            base.lines.pop(key, None)
        elif isinstance(value, YamlMap) and value and isinstance(below, YamlMap) and not names_a_kind(here):
            overlay(below, value, here)
        else:
            if isinstance(value, YamlMap):  # laid on nothing, which leaves out what it removes
                value = overlay(YamlMap(line=value.line), value, here)
            base[key], base.lines[key] = value, over.lines.get(key)
    return base
