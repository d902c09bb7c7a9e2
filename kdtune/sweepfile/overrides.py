"""Overrides of the command line, `student.recipe.epochs=3`, laid on a sweep's tree."""

from __future__ import annotations

import os
from typing import Any

from kdtune.settings import TypedText, folded, nearest
from kdtune.sweepfile.reader import DEPTH, parse_value
from kdtune.sweepfile.tree import (
    COMMAND_LINE,
    NETWORKS,
    KeyPath,
    Problem,
    SweepFileError,
    YamlList,
    YamlMap,
    child,
    command_line_error,
    copied,
    merge,
    names_a_kind,
    overlay,
    short,
)

Override = str | tuple[str, Any]  # text, or a path and what is to stand there, as the tree has it


def assign(tree: YamlMap, *overrides: Override) -> YamlMap:
    """`tree` with overrides `key.path=value` laid on it in their order; `tree` itself is not changed.

    A value is YAML by the rules of a file; a mapping merges as in `merge`; null removes. Numbers in a path index lists.
    Below the bare name of a kind (`dataset: cifar10`) the name becomes a mapping first. What is written here has no
    line, and a path in it is relative to where the command is given. Raises SweepFileError with a problem for each
    override that cannot be.
    """
    problems: list[Problem] = []
    for override in overrides:
        try:
            parts, value = (
                _split(override) if isinstance(override, str) else (tuple(override[0].split(".")), override[1])
            )
            tree = _put(_with_own(merge(tree, YamlMap()), parts), (), parts, value, tree.line)
        except SweepFileError as error:
            problems += error.problems
    if problems:
        raise SweepFileError(problems)
    return tree


def _with_own(tree: YamlMap, parts: tuple[str, ...]) -> YamlMap:
    """`tree`, where a path leads below a kind that a network has from the sweep's recipe, with that kind as its own.

    Else what the override does not name would be gone: `student.recipe.optimizer.sgd.lr=0.05` without the momentum.
    """
    shared, network = tree.get("recipe"), tree.get(parts[0])
    if len(parts) < 5 or parts[0] not in NETWORKS or parts[1] != "recipe" or not names_a_kind(parts[:3]):
        return tree
    if not isinstance(shared, YamlMap) or not isinstance(network, YamlMap):
        return tree
    if not isinstance(shared.get(parts[2]), YamlMap):
        return tree
    own = network.setdefault("recipe", YamlMap(line=shared.line))
    if isinstance(own, YamlMap) and parts[2] not in own and folded(parts[3]) in map(folded, shared[parts[2]]):
        own[parts[2]], own.lines[parts[2]] = copied(shared[parts[2]]), shared.lines.get(parts[2])
    return tree


def _split(text: str) -> tuple[tuple[str, ...], Any]:
    name, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in name.split("."))
    if not (equals and value.strip() and len(parts) <= DEPTH and all(part and part.isprintable() for part in parts)):
        form = "write key.path=value, such as student.recipe.epochs=3; null removes a key"
        raise command_line_error((), f"{short(text)} is no override; {form}")
    return parts, typed(parse_value(value, COMMAND_LINE, parts))


def typed(value: Any) -> Any:
    """A value that was read from a command: its text counts as typed in the current folder, see `TypedText`."""
    if isinstance(value, YamlMap):
        return YamlMap({key: typed(part) for key, part in value.items()}, value.lines, value.line)
    if isinstance(value, YamlList):
        return YamlList([typed(part) for part in value], value.lines, value.line)
    return TypedText(value, os.getcwd()) if isinstance(value, str) else value


def _put(node: Any, done: KeyPath, parts: tuple[str, ...], value: Any, line: int | None) -> Any:
    """`node`, which stands at `done` on `line` and may be None, with `value` put at `parts` below it, in place."""
    if not parts:
        return _laid(node, done, value)
    node = _opened(node, done, line)
    key = _as_written(parts[0], node, done)
    here = (*done, key)
    try:
        below, line = child(node, key)
    except KeyError:
        _refuse_missing(node, here, value)
        below, line = None, None
    written = _put(below, here, parts[1:], value, line)
    place: Any = key if isinstance(node, YamlMap) else int(key)
    if written is None:
        del node[place], node.lines[place]
    else:
        replaced = len(parts) == 1 and not (isinstance(value, YamlMap) and written is below)
        node[place] = written
        node.lines[place] = None if replaced else line
    return node


def _as_written(part: str, node: YamlMap | YamlList, path: KeyPath) -> str:
    """The name of a kind as `node` has it already, for case, - and _ in it do not count; any other key as it came."""
    if isinstance(node, YamlMap) and part not in node and names_a_kind(path):
        return next((key for key in node if folded(key) == folded(part)), part)
    return part


def _laid(node: Any, path: KeyPath, value: Any) -> Any:
    if not isinstance(value, YamlMap):
        return value
    merges = isinstance(node, YamlMap) and value and not names_a_kind(path)
    return overlay(node if merges else YamlMap(), value, path)


def _opened(node: Any, path: KeyPath, line: int | None) -> YamlMap | YamlList:
    """`node` as something that a key can stand below."""
    if isinstance(node, YamlMap | YamlList):
        return node
    if node is None:
        return YamlMap()
    if isinstance(node, str) and names_a_kind(path) and not node.startswith("$"):
        return YamlMap({str(node): YamlMap(line=line)}, {str(node): line}, line)
    raise command_line_error(path, f"is {short(node)}, and nothing can stand below that")


def _refuse_missing(node: YamlMap | YamlList, path: KeyPath, value: Any) -> None:
    """Nothing stands at `path` in `node`: fine for a key that is to be written, refused for the rest."""
    if isinstance(node, YamlList):
        raise command_line_error(path, f"no such item: the list has {len(node)}, and they count from 0")
    if value is None:
        close = nearest(str(path[-1]), node)
        raise command_line_error(path, "there is nothing to remove" + (f"; did you mean {close}?" if close else ""))
