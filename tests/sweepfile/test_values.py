"""One value of a sweep file: compared, called, taken in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.settings import TypedText
from kdtune.sweepfile.tree import YamlList, YamlMap
from kdtune.sweepfile.values import comparable, grown, plain, word


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (0.2, "0.2"),
        (None, "null"),
        (True, "true"),
        ({}, "{}"),
        ({"alpha": 0.9, "temperature": 4}, "alpha=0.9,temperature=4"),
        ({"crop": {"padding": 4, "mode": "zero"}, "flip": {}}, "crop={padding=4,mode=zero},flip={}"),
    ],
)
def test_a_value_in_a_name_says_what_belongs_together(value, read):
    assert word(value) == read


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_two_numbers_have_two_words(one, other):
    """Else a table would put the runs of both together."""
    assert (word(one) == word(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (1, 1.0, True),
        (0.1, 1e-1, True),
        (True, 1, False),
        (False, 0, False),
        (None, False, False),
        (1, "1", False),
        ([1, 2], (1.0, 2), True),
        ([1], "[1]", False),
        ({"a": 1, "b": 2}, {"a": 1.0, "b": 2}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ({"a": {}}, {"a": None}, False),
        ("x", TypedText("x", "/"), True),
    ],
)
def test_values_compare_as_a_reader_would(one, other, alike):
    assert (comparable(one) == comparable(other)) is alike
    assert not alike or hash(comparable(one)) == hash(comparable(other))


def test_mappings_compare_in_any_order_where_that_is_asked_for():
    one, other = {"a": [{"x": 1, "y": 2}], "b": 2}, {"b": 2.0, "a": [{"y": 2, "x": 1}]}
    assert comparable(one) != comparable(other)
    assert comparable(one, in_order=False) == comparable(other, in_order=False)


def test_what_comes_from_python_is_a_tree_of_its_own_types():
    """Row D5: a search proposes np.int64(2)."""
    tree = grown(
        {"n": np.int64(2), "x": np.float64(0.5), "on": np.bool_(True), "sizes": np.array([8, 4]), "kd": {"a": (1,)}}
    )
    assert tree == {"n": 2, "x": 0.5, "on": True, "sizes": [8, 4], "kd": {"a": [1]}}
    assert isinstance(tree, YamlMap) and isinstance(tree["kd"], YamlMap) and isinstance(tree["kd"]["a"], YamlList)
    assert [type(tree[key]) for key in ("n", "x", "on")] == [int, float, bool]
    assert type(tree["sizes"][0]) is int and set(tree.lines) == set(tree)


def test_typed_text_is_kept_as_the_path_that_it_was_found_to_be():
    path, name = TypedText("images", "/here"), TypedText("images", "/here")
    kept = plain(YamlMap({"path": path, "name": name, "list": YamlList([path])}), {id(path): "/here/images"})
    assert kept == {"path": "/here/images", "name": "images", "list": ["/here/images"]}
    assert {type(text) for text in (kept["path"], kept["name"], kept["list"][0])} == {str}
