"""Merging trees, lines after merging, and finding the place and the name that were meant."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.sweepfile.reader import parse
from kdtune.sweepfile.tree import Problem, SweepFileError, YamlMap, line_at, merge, names_a_kind, problem_at

BASE = """\
dataset: {cifar10: {}, train_size: 100}
grid:
  - {dropout: 0.1}
  - {dropout: 0.2}
recipe:
  optimizer: {sgd: {lr: 0.1, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.2}}
  epochs: 200
teacher:
  model: {wrn-40-2: {dropout: 0.3}}
  seeds: 5
student:
  model: wrn-16-2
  noise:
    teacher: {dropout: {rate: 0.1}}
    input: {gaussian: {sigma: 0.1}}
"""


def overlaid(text: str) -> YamlMap:
    return merge(parse(BASE, "base"), parse(text, "over"))


def test_mappings_merge_key_by_key_and_lists_and_scalars_replace() -> None:
    tree = overlaid("recipe: {epochs: 3, batch_size: 8}\ngrid: [{sigma: 0.1}]\nteacher: {seeds: 1}\nseeds: 2\n")
    assert tree["recipe"].keys() == {"optimizer", "schedule", "epochs", "batch_size"} and tree["recipe"]["epochs"] == 3
    assert tree["grid"] == [{"sigma": 0.1}] and tree["seeds"] == 2
    assert tree["teacher"] == {"model": {"wrn-40-2": {"dropout": 0.3}}, "seeds": 1}
    assert overlaid("recipe: 3")["recipe"] == 3
    assert overlaid("student: {model: {cnn: {}}}")["student"]["model"] == {"cnn": {}}


@pytest.mark.parametrize(
    ("over", "path", "value"),
    [
        ("dataset: {digits: {}}", "dataset", {"digits": {}}),
        ("recipe: {optimizer: {adam: {lr: 1}}}", "recipe.optimizer", {"adam": {"lr": 1}}),
        ("recipe: {optimizer: {sgd: {lr: 1}}}", "recipe.optimizer", {"sgd": {"lr": 1}}),
        ("recipe: {schedule: {cosine: {}}}", "recipe.schedule", {"cosine": {}}),
        ("teacher: {model: {cnn: {width: 8}}}", "teacher.model", {"cnn": {"width": 8}}),
        ("student: {noise: {input: {pgd: {eps: 1}}}}", "student.noise.input", {"pgd": {"eps": 1}}),
        ("student: {noise: {teacher: {swap: {rate: 1}}}}", "student.noise.teacher", {"swap": {"rate": 1}}),
    ],
)
def test_what_names_a_kind_is_replaced_whole(over: str, path: str, value: Any) -> None:
    tree = overlaid(over)
    for part in path.split("."):
        tree = tree[part]
    assert tree == value


def test_only_under_noise_is_teacher_an_injection_point() -> None:
    assert overlaid("teacher: {seeds: 2}")["teacher"].keys() == {"model", "seeds"}
    assert overlaid("student: {noise: {teacher: {x: 1}}}")["student"]["noise"]["input"] == {"gaussian": {"sigma": 0.1}}
    kinds = ["dataset", "a.model", "optimizer", "noise.input", "a.noise.target", "noise.labels", "dataset.labels"]
    assert all(names_a_kind(tuple(path.split("."))) for path in kinds)
    assert not any(
        names_a_kind(tuple(path.split("."))) for path in ["teacher", "student.teacher", "input", "labels", "noise"]
    )
    assert not names_a_kind(())


def test_null_removes() -> None:
    tree = overlaid("student: {noise: null}\nrecipe: {schedule: }\nnothing: null\nseeds: {a: null, b: {c: ~}}\n")
    assert "noise" not in tree["student"] and "noise" not in tree["student"].lines
    assert "schedule" not in tree["recipe"] and "nothing" not in tree
    assert tree["seeds"] == {"b": {}}


def test_lines_follow_what_was_written_last() -> None:
    over = parse("#\n#\n#\n#\n#\n#\n#\n#\n#\n#\n#\n#\n#\n#\n#\n#\nrecipe:\n  epochs: 3\ndataset: {digits: {}}\n", "x")
    tree = merge(parse(BASE, "x"), over)
    assert line_at(tree, ("recipe", "epochs")) == 18
    assert line_at(tree, ("recipe", "optimizer", "sgd", "lr")) == 6 and line_at(tree, ("recipe",)) == 5
    assert line_at(tree, ("dataset",)) == 19 and line_at(tree, ("dataset", "digits")) == 19


def test_line_at_is_that_of_the_deepest_part_that_exists() -> None:
    tree = parse(BASE, "x")
    assert [line_at(tree, path) for path in [(), ("none",), ("student", "model", "wrn-16-2", "depth")]] == [1, 1, 13]
    assert [line_at(tree, ("grid", i, "dropout")) for i in (0, 1, "1", 7, "9" * 5000, -1, "x")] == [3, 4, 4, 2, 2, 2, 2]


def test_a_problem_names_its_place() -> None:
    tree = parse(BASE, "x")
    assert str(problem_at(tree, "s/x.yaml", ("recipe", "epochs"), "wrong")) == "s/x.yaml:8: recipe.epochs: wrong"
    written = merge(tree, YamlMap({"seeds": 0}))
    assert str(problem_at(written, "s/x.yaml", ("seeds",), "wrong")) == "command line: seeds: wrong"
    assert str(problem_at(written, "s/x.yaml", ("grid", 0), "wrong")) == "s/x.yaml:3: grid.0: wrong"
    both = SweepFileError([Problem("x", None, (), "one"), Problem("x", 2, ("a",), "two")])
    assert str(both) == "x: one\nx:2: a: two" and len(both.problems) == 2


keys = st.sampled_from(["a", "b", "c", "model", "noise", "teacher"])
leaves = st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2)
plain_trees = st.recursive(
    st.dictionaries(keys, leaves, max_size=3), lambda t: st.dictionaries(keys, leaves | t, max_size=3), max_leaves=12
)
with_nulls = st.recursive(
    st.dictionaries(keys, leaves | st.none(), max_size=3),
    lambda t: st.dictionaries(keys, leaves | st.none() | t, max_size=3),
    max_leaves=12,
)


def grown(tree: Any) -> Any:
    """A plain tree as a `YamlMap`, with a line of its own for every value."""
    return (
        YamlMap({k: grown(v) for k, v in tree.items()}, dict.fromkeys(tree, 1), 1) if isinstance(tree, dict) else tree
    )


def leaves_of(tree: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every scalar, list, empty mapping and mapping that names a kind, by path."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        here = (*path, key)
        whole = not isinstance(value, dict) or not value or names_a_kind(here)
        found |= {here: value} if whole else leaves_of(value, here)
    return found


def touch(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    return a[: len(b)] == b or b[: len(a)] == a


@given(plain_trees, plain_trees)
def test_merging_keeps_the_upper_leaves_and_the_lower_ones_that_they_leave_alone(low: Any, high: Any) -> None:
    upper = leaves_of(high)
    merged = leaves_of(merge(grown(low), grown(high)))
    for path, value in upper.items():
        if value != {} or names_a_kind(path):  # an empty mapping changes nothing in the mapping that it is laid on
            assert merged[path] == value
    for path, value in leaves_of(low).items():
        if not any(touch(path, other) for other in upper):
            assert merged[path] == value


@given(plain_trees, with_nulls)
def test_merging_twice_is_merging_once_and_changes_no_argument(low: Any, high: Any) -> None:
    base, over = grown(low), grown(high)
    once = merge(base, over)
    assert merge(once, over) == once
    assert (base, over) == (low, high) and base.lines == deepcopy(base).lines
    assert merge(base, YamlMap()) == base and merge(base, base) == base
    check_lines(once)


def check_lines(node: Any) -> None:
    if isinstance(node, YamlMap):
        assert node.keys() == node.lines.keys()
        for value in node.values():
            check_lines(value)


def test_a_merged_tree_shares_nothing_with_its_parts() -> None:
    base, over = parse("a: {b: [1]}", "x"), parse("c: {d: [2]}", "x")
    tree = merge(base, over)
    tree["a"]["b"].append(9)
    tree["c"]["d"].append(9)
    assert base == {"a": {"b": [1]}} and over == {"c": {"d": [2]}}
