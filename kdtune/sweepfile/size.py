"""How many runs a sweep asks for, counted by multiplication before any of them is laid out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from kdtune.sweepfile.grid import Block, is_name, names
from kdtune.sweepfile.tree import KeyPath, YamlMap

MAX_RUNS = 100_000  # what is more is a slip of the hand, unless the user says so


class TooManyRuns(Exception):
    """A sweep of more runs than it may have."""


def refuse_too_many(tree: YamlMap, blocks: Collection[Block], of_teachers: Collection[str], at_most: int) -> None:
    """Raises TooManyRuns where teachers, sources and students may be more than `at_most`. `of_teachers`: axes that
    decide teachers.

    What points have in common counts once a block where the teachers' axes say so, and else again.
    """
    students = sum(block.points() * _seeds(tree, ("seeds",), block) for block in blocks)
    students *= 1 + (tree.get("source") is not None)
    teachers = 0
    if tree.get("teacher") is not None:
        for block in blocks:
            pool = _seeds(tree, ("teacher", "seeds"), block) or _seeds(tree, ("seeds",), block)
            teachers += pool * block.points(_with_references(of_teachers, block))
    if students + teachers > at_most:
        raise TooManyRuns(
            f"grid and seeds ask for {students:,} students and up to {teachers:,} teachers; at most {at_most:,} runs "
            "are laid out (--max-runs). A smaller grid, fewer seeds, or a larger --max-runs would do"
        )


def _seeds(tree: YamlMap, path: KeyPath, block: Block) -> int:
    """The most seeds that may stand at `path`; 0 where nothing does. What is wrong there is told later."""
    counts = [0]
    for value in _values(tree, path, block):
        if isinstance(value, list):
            counts.append(len(value))
        elif isinstance(value, int):
            counts.append(value)
    return max(counts)


def _values(node: Any, path: KeyPath, block: Block) -> Iterator[Any]:
    """All that may stand at `path` below `node`, whatever the axes are."""
    if is_name(node):
        for alternative in block.axes.get(node[1:], ()):  # which may be a name again, and no further
            yield from _values(alternative, path, block)
    elif not path:
        yield node
    elif isinstance(node, dict) and path[0] in node:
        yield from _values(node[str(path[0])], path[1:], block)


def _with_references(axes: Collection[str], block: Block) -> set[str]:
    """These axes and those that their values name."""
    return {*axes, *(name for axis in axes for name, _ in names(block.axes.get(axis)))}
