"""Overrides of the command line."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.sweepfile.overrides import assign
from kdtune.sweepfile.reader import parse
from kdtune.sweepfile.tree import SweepFileError, YamlList, YamlMap, line_at, problem_at

SWEEP = """\
dataset: cifar10
name: fickle
seeds: 5
grid:
  - {dropout: 0.1, epochs: 200}
  - {dropout: 0.2, epochs: 250}
student:
  model: $net
  noise: {input: {gaussian: {sigma: 0.1}}}
  recipe: {epochs: 200, batch_size: 64}
  optional:
"""


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seeds=3", "seeds", 3),
        (" seeds = 3 ", "seeds", 3),
        ("student.recipe.epochs=3", "student.recipe", {"epochs": 3, "batch_size": 64}),
        ("student.recipe={epochs: 3}", "student.recipe", {"epochs": 3, "batch_size": 64}),
        ("student.recipe={epochs: null}", "student.recipe", {"batch_size": 64}),
        (
            "student.recipe=null",
            "student",
            {"model": "$net", "noise": {"input": {"gaussian": {"sigma": 0.1}}}, "optional": None},
        ),
        ("student.noise.input={pgd: {eps: 1}}", "student.noise.input", {"pgd": {"eps": 1}}),
        ("student.noise.input.gaussian.sigma=5e-1", "student.noise.input.gaussian.sigma", 0.5),
        ("student.noise.teacher.dropout.rate=0.2", "student.noise.teacher", {"dropout": {"rate": 0.2}}),
        ("student.optional.a=1", "student.optional", {"a": 1}),
        ("student.optional=null", "student.optional", KeyError),
        ("student.model=wrn-16-2", "student.model", "wrn-16-2"),
        ("dataset.train_size=100", "dataset", {"cifar10": {}, "train_size": 100}),
        ("dataset.cifar10.x=1", "dataset", {"cifar10": {"x": 1}}),
        ("dataset.labels.corruption.rate=0.2", "dataset", {"cifar10": {}, "labels": {"corruption": {"rate": 0.2}}}),
        ("dataset={digits: {}}", "dataset", {"digits": {}}),
        ("grid.0.dropout=[0.1]", "grid", [{"dropout": [0.1], "epochs": 200}, {"dropout": 0.2, "epochs": 250}]),
        ("grid.1=null", "grid", [{"dropout": 0.1, "epochs": 200}]),
        ("grid.1={epochs: 1}", "grid.1", {"dropout": 0.2, "epochs": 1}),
        ("grid=[]", "grid", []),
        ("name=no", "name", "no"),
        ("name='a=b'", "name", "a=b"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", SweepFileError),
    ],
)
def test_one_override(override: str, path: str, value: Any) -> None:
    tree = parse(SWEEP, "x")
    before = deepcopy(tree)
    if value is SweepFileError:
        with pytest.raises(SweepFileError):
            assign(tree, override)
    else:
        found: Any = assign(tree, override)
        for part in path.split("."):
            found = found[int(part)] if part.isdigit() else found.get(part, KeyError)
        assert found == value
    assert tree == before and tree.lines == before.lines and tree["grid"].lines == before["grid"].lines


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("", "command line: '' is no override; write key.path=value"),
        ("seeds", "command line: 'seeds' is no override"),
        ("seeds=  ", "command line: 'seeds=  ' is no override"),
        ("=3", "is no override"),
        ("a..b=3", "is no override"),
        (".a=3", "is no override"),
        ("a\x1bb=3", "is no override"),
        (".".join("a" * 51) + "=3", "is no override"),
        ("seeds=# nothing", "command line: seeds: there is nothing in it"),
        ("seeds=[1", "command line: seeds: not valid YAML"),
        ("seeds=!!python/name:x", "command line: seeds: the tag '!!python/name:x' is refused"),
        ("seeds={a: 1, a: 2}", "command line: seeds.a: written twice"),
        ("seeds=1\x1b", "command line: seeds: unprintable character U+001B"),
        ("name.x=1", "command line: name: is 'fickle', and nothing can stand below that"),
        ("student.model.dropout=1", "command line: student.model: is '$net', and nothing can stand below that"),
        ("grid.2.dropout=1", "command line: grid.2: no such item: the list has 2, and they count from 0"),
        ("grid.dropout=1", "command line: grid.dropout: no such item"),
        ("grid.-1=1", "command line: grid.-1: no such item"),
        ("grid." + "9" * 5000 + "=1", "no such item"),
        ("student.nose=null", "command line: student.nose: there is nothing to remove; did you mean noise?"),
        ("student.nose.input=null", "command line: student.nose: there is nothing to remove; did you mean noise?"),
    ],
)
def test_what_is_refused(override: str, complaint: str) -> None:
    with pytest.raises(SweepFileError) as caught:
        assign(parse(SWEEP, "x"), override)
    assert complaint in str(caught.value) and caught.value.problems[0].line is None


def test_the_name_of_a_kind_is_known_in_any_letters() -> None:
    """Case, - and _ do not count in it; in any other key they do."""
    tree = parse("recipe: {optimizer: {sgd: {lr: 1}}}\nevaluation: [accuracy, {pgd: {eps: 1}}]\nseeds: 1\n", "x")
    assert assign(tree, "recipe.optimizer.SGD.lr=2")["recipe"] == {"optimizer": {"sgd": {"lr": 2}}}
    assert assign(tree, "evaluation.1.PGD.eps=2", "evaluation.0.Accuracy.x=1")["evaluation"] == [
        {"accuracy": {"x": 1}}, {"pgd": {"eps": 2}},
    ]  # fmt: skip
    assert assign(tree, "evaluation.1={corruptions: {}}")["evaluation"][1] == {"corruptions": {}}, "replaced whole"
    assert set(assign(tree, "recipe.Optimizer=1", "Seeds=2")) == {"recipe", "evaluation", "seeds", "Seeds"}
    assert assign(tree, "recipe.optimizer.adam.lr=2")["recipe"]["optimizer"].keys() == {"sgd", "adam"}


def test_a_value_of_the_trees_own_may_be_laid_on_it() -> None:
    tree = parse("evaluation: [{shift: {folder: {path: x}}}]\n", "x")
    more = YamlList([*tree["evaluation"], "pgd"])
    assert assign(tree, ("evaluation", more))["evaluation"] == [{"shift": {"folder": {"path": "x"}}}, "pgd"]


def test_all_overrides_apply_in_order_and_all_problems_are_reported() -> None:
    tree = parse(SWEEP, "x")
    assert assign(tree, "dataset=digits", "dataset.train_size=9", "seeds=1", "seeds=2") == tree | {
        "dataset": {"digits": {}, "train_size": 9}, "seeds": 2,
    }  # fmt: skip
    with pytest.raises(SweepFileError) as caught:
        assign(tree, "seeds=3", "foo", "name.x=1", "b=[")
    assert len(caught.value.problems) == 3
    assert assign(tree) == tree


def test_what_the_command_line_wrote_has_no_line_and_the_rest_keeps_its_own() -> None:
    overrides = ["student.recipe={epochs: 3}", "dataset.train_size=1", "grid.0.dropout=[1]", "grid.1={a: 1}"]
    tree = assign(parse(SWEEP, "x"), *overrides)
    lines = {
        "student.recipe": 10, "student.recipe.epochs": None, "student.recipe.batch_size": 10, "dataset": 1,
        "dataset.cifar10": 1, "dataset.cifar10.none": 1, "dataset.train_size": None, "grid.0": 5,
        "grid.0.dropout": None, "grid.0.dropout.0": None, "grid.0.epochs": 5, "grid.1": 6, "grid.1.a": None,
    }  # fmt: skip
    for path, line in lines.items():
        assert line_at(tree, tuple(path.split("."))) == line, path
    problem = problem_at(tree, "x.yaml", ("student", "recipe", "epochs"), "low")
    assert str(problem) == "command line: student.recipe.epochs: low"
    replaced = assign(tree, "student.noise.input={pgd: {eps: 1}}")
    assert line_at(replaced, ("student", "noise", "input")) is None and line_at(replaced, ("student", "noise")) == 9


def test_a_deep_value_at_the_end_of_a_deep_path() -> None:
    path = ".".join("a" * 50)
    tree = assign(YamlMap(), f"{path}={'[' * 49}{']' * 49}")
    assert assign(tree, "b=1").keys() == {"a", "b"} and line_at(tree, ("a",)) is None


names = st.from_regex(r"[a-z][a-z_-]{0,5}", fullmatch=True)
values = st.recursive(
    st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | names,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(names, v, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, values, max_size=3), st.lists(names, min_size=1, max_size=4), values)
def test_what_is_written_stands_there_and_nothing_else_moves(tree: dict[str, Any], path: list[str], value: Any) -> None:
    base = parse(json.dumps({"zzzzzzz": 1, **tree}), "x")
    try:
        found: Any = assign(base, f"{'.'.join(path)}={json.dumps(value)}")
    except SweepFileError as error:
        assert "can stand below" in str(error) or "no such item" in str(error)
        return
    assert {k: v for k, v in found.items() if k != path[0]} == {k: v for k, v in base.items() if k != path[0]}
    for part in path:
        found = found[part]
    if isinstance(value, dict):
        assert value.keys() <= found.keys()
    else:
        assert found == value


@given(st.text() | st.builds("{}={}".format, st.text(max_size=10), st.text(max_size=20)))
def test_anything_is_an_override_or_an_error(text: str) -> None:
    try:
        assert isinstance(assign(parse(SWEEP, "x"), text), YamlMap)
    except SweepFileError as error:
        assert all(problem.source == "command line" for problem in error.problems)
        str(error).encode()
