"""Records: what is written is read back, the same contents give the same bytes, a changed byte is noticed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdtune.store import encoding

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | FINITE | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text(max_size=8).filter(lambda key: key != "sha256"), VALUES, max_size=4)


def same(a: object, b: object) -> bool:
    """Equal, and of the same types and signs of zero: 1, 1.0 and True differ."""
    return repr(a) == repr(b)


@given(VALUES)
def test_json_round_trip_is_exact(value):
    assert same(encoding.from_json(encoding.to_json(value)), json.loads(json.dumps(value, sort_keys=True)))
    assert encoding.from_json(encoding.to_json(value)) == value


@given(RECORDS)
def test_order_of_keys_changes_no_byte(record):
    assert encoding.to_json(dict(reversed(record.items()))) == encoding.to_json(record)
    assert encoding.seal(dict(reversed(record.items()))) == encoding.seal(record)


@given(st.lists(RECORDS, max_size=4))
def test_lines_round_trip(rows):
    assert encoding.from_lines(encoding.to_lines(rows)) == rows


@pytest.mark.parametrize("data", [b"[1]\n", b'{"epoch": 1}\n{"epo', b"{}\n\n", b"null\n"])
def test_a_line_that_is_no_record_is_refused(data):
    with pytest.raises(ValueError):
        encoding.from_lines(data)


@given(RECORDS)
def test_sealed_round_trip(record):
    assert encoding.unseal(encoding.seal(record)) == record


@given(RECORDS, st.data())
def test_no_flipped_bit_of_a_sealed_record_goes_unnoticed(record, data):
    sealed = bytearray(encoding.seal(record))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = encoding.unseal(bytes(sealed))
    except ValueError:
        return
    assert read == record  # only white space or another spelling of the same was hit


@given(RECORDS, st.data())
def test_no_truncation_of_a_sealed_record_goes_unnoticed(record, data):
    sealed = encoding.seal(record).rstrip()
    with pytest.raises(ValueError):
        encoding.unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))])


def test_what_is_not_finite_is_null():
    assert encoding.to_json({"a": math.nan, "b": [math.inf, -math.inf], "c": np.float32("nan")}) == (
        b'{"a": null, "b": [null, null], "c": null}\n'
    )


def test_numbers_of_numpy_are_numbers():
    value = {"a": np.float32(0.1), "b": np.int64(3), "c": np.bool_(True), "d": np.arange(2), "e": (1, 2)}
    assert encoding.from_json(encoding.to_json(value)) == {
        "a": float(np.float32(0.1)),
        "b": 3,
        "c": True,
        "d": [0, 1],
        "e": [1, 2],
    }


@pytest.mark.parametrize("value", [{1: "a"}, {"a": object()}, {"a": {1, 2}}, b"bytes"])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(TypeError):
        encoding.to_json(value)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b'{"a": Infinity}', b"\xff", b"[" * 100_000, b"{}{}"])
def test_damaged_json_is_a_value_error(data):
    with pytest.raises(ValueError):
        encoding.from_json(data)
    with pytest.raises(ValueError):
        encoding.unseal(data)


@pytest.mark.parametrize("data", [b"[]", b"3", b"{}", b'{"a": 1}', b'{"sha256": 5}'])
def test_what_has_no_seal_is_a_value_error(data):
    with pytest.raises(ValueError):
        encoding.unseal(data)


YAML_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12) | st.from_regex(
    r"[-+]?[0-9.]{1,4}(e[-+]?[0-9]{1,3})?|0x[0-9a-f]+|yes|no|null|~|true", fullmatch=True
)


@given(st.dictionaries(YAML_TEXT, st.none() | st.booleans() | st.integers() | FINITE | YAML_TEXT, max_size=4))
def test_yaml_round_trip(description):
    assert same(encoding.from_yaml(encoding.to_yaml(description)), description)


@pytest.mark.parametrize("text", ["12345678e901", "089", "1e-3", "0o17", "1_000", ".5", "+1"])
def test_text_that_looks_like_a_number_to_any_yaml_is_quoted(text):
    assert encoding.to_yaml({"id": text}) == f'id: "{text}"\n'.encode()


def test_yaml_keeps_order_and_has_no_anchors():
    shared = {"sigma": 0.1}
    data = encoding.to_yaml({"b": shared, "a": shared})
    assert data == b"b:\n  sigma: 0.1\na:\n  sigma: 0.1\n"


@pytest.mark.parametrize("data", [b"a: [", b"- 1", b"!!python/object/apply:os.getcwd []", b"\xff", b"a: b: c"])
def test_damaged_or_dangerous_yaml_is_a_value_error(data):
    with pytest.raises(ValueError):
        encoding.from_yaml(data)


BOMB = "a: &a [1]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"  # and so on: each line doubles what it holds


@pytest.mark.parametrize("data", [b"[" * 1_000_000, b"a: " + b"[" * 60 + b"]" * 60, BOMB.encode()], ids=len)
def test_yaml_that_would_end_the_process_or_grow_is_a_value_error(data):
    """libyaml has no limit of its own: a megabyte of brackets is a segmentation fault."""
    with pytest.raises(ValueError, match=r"deep|aliases"):
        encoding.from_yaml(data)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64", "bool"])
def test_arrays_round_trip(dtype):
    rng = np.random.default_rng(0)
    arrays = {"shift/cinic": rng.integers(0, 2, (5, 10)).astype(dtype), "empty": np.zeros((0, 3), dtype)}
    data = encoding.to_npz(arrays)
    assert data == encoding.to_npz(dict(reversed(arrays.items())))
    read = encoding.from_npz(data)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_pickled_arrays_are_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError):
        encoding.to_npz({"a": np.array([object()])})
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError):
        encoding.from_npz((tmp_path / "x.npz").read_bytes())


def test_yaml_is_what_people_expect():
    description = {
        "student": {"model": "wrn-16-2", "noise": {"teacher": {"dropout": {"rate": 0.2}}}},
        "milestones": (0.3, 0.6),
    }
    text = encoding.to_yaml(description).decode()
    assert "model: wrn-16-2\n" in text
    assert yaml.safe_load(text)["milestones"] == [0.3, 0.6]
