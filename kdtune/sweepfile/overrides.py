"""Overrides of the command line, `student.recipe.epochs=3`, laid on a sweep's tree."""

from __future__ import annotations

from typing import Any

from kdtune.settings import nearest
from kdtune.sweepfile.reader import DEPTH, parse_value
from kdtune.sweepfile.tree import (
    COMMAND_LINE,
    KeyPath,
    Problem,
    SweepFileError,
    YamlList,
    YamlMap,
    child,
    merge,
    names_a_kind,
    overlay,
    short,
)


def assign(tree: YamlMap, *overrides: str) -> YamlMap:
    """`tree` with overrides `key.path=value` laid on it in their order; `tree` itself is not changed.

    A value is YAML by the rules of a file; a mapping merges as in `merge`; null removes. Numbers in a path index lists.
    Below the bare name of a kind (`dataset: cifar10`) the name becomes a mapping first. What is written here has no
    line. Raises SweepFileError with a problem for each override that cannot be.
    """
    problems: list[Problem] = []
    for text in overrides:
        try:
            parts, value = _split(text)
            tree = _put(merge(tree, YamlMap()), (), parts, value, tree.line)
        except SweepFileError as error:
            problems += error.problems
    if problems:
        raise SweepFileError(problems)
    return tree


def _split(text: str) -> tuple[tuple[str, ...], Any]:
    name, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in name.split("."))
    if not (equals and value.strip() and len(parts) <= DEPTH and all(part and part.isprintable() for part in parts)):
        form = "write key.path=value, such as student.recipe.epochs=3; null removes a key"
        raise _wrong((), f"{short(text)} is no override; {form}")
    return parts, parse_value(value, COMMAND_LINE, parts)


def _put(node: Any, done: KeyPath, parts: tuple[str, ...], value: Any, line: int | None) -> Any:
    """`node`, which stands at `done` on `line` and may be None, with `value` put at `parts` below it, in place."""
    if not parts:
        return _laid(node, done, value)
    node = _opened(node, done, value, line)
    here = (*done, parts[0])
    try:
        below, line = child(node, parts[0])
    except KeyError:
        _refuse_missing(node, here, value)
        below, line = None, None
    written = _put(below, here, parts[1:], value, line)
    place: Any = parts[0] if isinstance(node, YamlMap) else int(parts[0])
    if written is None:
        del node[place], node.lines[place]
    else:
        replaced = len(parts) == 1 and not (isinstance(value, YamlMap) and written is below)
        node[place] = written
        node.lines[place] = None if replaced else line
    return node


def _laid(node: Any, path: KeyPath, value: Any) -> Any:
    if not isinstance(value, YamlMap):
        return value
    merges = isinstance(node, YamlMap) and not names_a_kind(path)
    return overlay(node if merges else YamlMap(), value, names_a_kind, path)


def _opened(node: Any, path: KeyPath, value: Any, line: int | None) -> YamlMap | YamlList:
    """`node` as something that a key can stand below."""
    if isinstance(node, YamlMap | YamlList):
        return node
    if node is None:
        return YamlMap()
    if isinstance(node, str) and names_a_kind(path) and not node.startswith("$"):
        return YamlMap({node: YamlMap(line=line)}, {node: line}, line)
    raise _wrong(path, f"is {short(node)}, and nothing can stand below that")


def _refuse_missing(node: YamlMap | YamlList, path: KeyPath, value: Any) -> None:
    """Nothing stands at `path` in `node`: fine for a key that is to be written, refused for the rest."""
    if isinstance(node, YamlList):
        raise _wrong(path, f"no such item: the list has {len(node)}, and they count from 0")
    if value is None:
        close = nearest(str(path[-1]), node)
        raise _wrong(path, "there is nothing to remove" + (f"; did you mean {close}?" if close else ""))


def _wrong(path: KeyPath, message: str) -> SweepFileError:
    return SweepFileError([Problem(COMMAND_LINE, None, path, message)])
