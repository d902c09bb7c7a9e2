"""Blocks, products, names in place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.sweepfile import grid
from kdtune.sweepfile.reader import parse

AXES = st.dictionaries(
    st.sampled_from("abcde"), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), min_size=1
)


def points(text: str):
    blocks, problems = grid.blocks(parse(text, "file"), "file")
    return [] if problems else list(grid.points(blocks)), problems


def test_a_block_is_a_product_and_a_grid_the_union_of_its_blocks():
    found, problems = points("grid: [{a: [1, 2], b: [3, 4]}, {a: 5, b: 6}]")
    assert not problems
    assert [tuple(point.values.values()) for point in found] == [(1, 3), (1, 4), (2, 3), (2, 4), (5, 6)]
    assert [point.block for point in found] == [1, 1, 1, 1, 2]


@given(st.lists(AXES, min_size=1, max_size=3))
def test_the_number_of_points_is_the_sum_of_products(blocks):
    text = f"grid: {blocks}"
    found, problems = points(text)
    assert not problems
    assert len(found) == sum(math.prod(len(values) for values in block.values()) for block in blocks)


def test_tunes_own_dialect_and_values_that_follow_another_axis():
    found, problems = points("grid: {t: {grid_search: [0.05, 0.5]}, s: $t}")
    assert not problems
    assert [point.values for point in found] == [{"t": 0.05, "s": 0.05}, {"t": 0.5, "s": 0.5}]


def test_a_range_stands_for_its_numbers():
    found, problems = points("grid: {draw: {range: 3}, s: [a, b]}")
    assert not problems
    assert [(point.values["draw"], point.values["s"]) for point in found] == [(n, s) for n in range(3) for s in "ab"]


@pytest.mark.parametrize("said", ["0", "-1", "2.5", "true", "[1, 2]", "1000001", "null"])
def test_a_range_of_nothing_or_of_no_number_is_told(said):
    _, (problem,) = points(f"grid: {{draw: {{range: {said}}}}}")
    assert "range: 200 stands for the numbers 0 to 199" in problem.message


def test_a_value_may_be_a_mapping_or_null():
    found, problems = points("grid: {kd: [{alpha: 0.9, temperature: 4}, null]}")
    assert not problems
    assert [point.values["kd"] for point in found] == [{"alpha": 0.9, "temperature": 4}, None]


def test_a_name_may_stand_inside_an_alternative():
    found, problems = points("grid: {kd: [null, {alpha: $a, more: [$a, 1]}], a: [0.5, 0.9]}")
    assert not problems
    assert [point.values["kd"] for point in found] == [
        None,
        None,
        {"alpha": 0.5, "more": [0.5, 1]},
        {"alpha": 0.9, "more": [0.9, 1]},
    ]


def test_a_name_inside_an_alternative_must_be_an_axis_with_values_of_its_own():
    for text, message in (
        ("grid: {kd: [null, {alpha: $b}], a: 0.5}", "came $b; this block has no axis of that name, only kd, a"),
        ("grid: {kd: {alpha: $a}, a: $b, b: 1}", "came $a, which itself refers to another axis"),
        ("grid: {kd: {alpha: $kd}}", "came $kd, which itself refers to another axis"),
    ):
        _, problems = points(text)
        assert message in problems[0].message


def test_no_grid_is_one_point():
    blocks, problems = grid.blocks(parse("name: none", "file"), "file")
    (point,) = grid.points(blocks)
    assert (point.values, problems) == ({}, [])


def test_names_are_put_in_place_with_the_lines_of_the_grid():
    tree = parse("grid:\n  a: [1, 2]\nx: {y: $a, z: [$a, 3]}\n", "file")
    found = list(grid.points(grid.blocks(tree, "file")[0]))
    result = grid.substitute(tree, found[1])
    assert result["x"] == {"y": 2, "z": [2, 3]}
    assert (result["x"].lines["y"], result["x"]["z"].lines) == (2, [2, 3])
    assert tree["x"]["y"] == "$a", "the argument is untouched"


def test_an_anchored_axis_moves_together_only_where_it_says_so():
    """An alias is the same values in both axes, but two axes stay two: only $name ties them."""
    found, _ = points("grid: {a: &v [1, 2], b: *v}")
    assert len(found) == 4
