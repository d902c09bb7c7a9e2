"""What every setting is: strict, frozen, closed."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from kdtune import settings
from kdtune.settings import Count, Flag, PathText, Rate, Settings, nearest

LEAVES = ("Whole", "Count", "Real", "Scale", "Positive", "Rate", "Fraction", "Flag", "Text")
FLOATS = ("Real", "Scale", "Positive", "Rate", "Fraction")


def takes(leaf: str, value: Any) -> bool:
    try:
        TypeAdapter(getattr(settings, leaf)).validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("value", "leaves"),
    [
        (-1, {"Real"}),
        (0, {"Whole", "Real", "Scale", "Rate"}),
        (0.5, {"Real", "Scale", "Positive", "Rate", "Fraction"}),
        (1, {"Whole", "Count", "Real", "Scale", "Positive", "Rate"}),
        (1.0, {"Real", "Scale", "Positive", "Rate"}),
        (2.5, {"Real", "Scale", "Positive"}),
        (True, {"Flag"}),
        ("", set()),
        ("1", {"Text"}),
        ("0.5", {"Text"}),
        ("true", {"Text"}),
        (None, set()),
        ([], set()),
        (math.nan, set()),
        (math.inf, set()),
        (-math.inf, set()),
    ],
    ids=lambda each: " ".join(sorted(each)) or "none" if isinstance(each, set) else repr(each),
)
def test_a_leaf_takes_its_own_type_and_range_alone(value: Any, leaves: set[str]) -> None:
    """No string passes for a number, no truth value for a count, nothing that is not finite."""
    assert {leaf for leaf in LEAVES if takes(leaf, value)} == leaves


@pytest.mark.parametrize("size", [0, 0.031, 8 / 255, 1])
def test_a_distance_between_pixels(size: float) -> None:
    assert TypeAdapter(settings.Pixels).validate_python(size) == size


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (8, "; 8/255 is 0.0314"),
        (1.5, "; 1.5/255 is 0.00588"),
        (255, "; 255/255 is 1"),
        (256, ""),
        (-0.1, ""),
        (1e300, ""),
    ],
)
def test_a_distance_that_is_none_between_pixels(size: float, told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"pixels are in [0, 1]{told} [")):
        TypeAdapter(settings.Pixels).validate_python(size)


@given(st.integers(-(10**9), 10**9))
def test_a_whole_number_written_for_a_float_is_that_float(value: int) -> None:
    """`dropout: 0` and `dropout: 0.0` are the same run."""
    (read,) = (TypeAdapter(settings.Real).validate_python(value),)
    assert type(read) is float and read == value


class Inner(Settings):
    rate: Rate
    on: Flag = False


class Outer(Settings):
    inner: Inner
    sizes: tuple[Count, ...] = ()


def test_settings_cannot_be_changed() -> None:
    outer = Outer(inner=Inner(rate=0.5))
    with pytest.raises(ValidationError, match="frozen"):
        outer.inner.rate = 0.6  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        outer.sizes = (1,)  # type: ignore[misc]


def test_all_that_is_wrong_comes_at_once_with_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"rate": 2, "raet": 1}, "sizes": [1, 0], "more": 1})
    places = {error["loc"]: error["type"] for error in caught.value.errors()}
    assert places == {
        ("inner", "rate"): "less_than_equal",
        ("inner", "raet"): "unknown_name",
        ("sizes", 1): "greater_than_equal",
        ("more",): "unknown_name",
    }


def test_a_list_of_yaml_is_a_tuple_here() -> None:
    assert Outer.model_validate({"inner": {"rate": 1}, "sizes": [3, 2]}).sizes == (3, 2)


def test_nearest() -> None:
    known = ["dropout", "wrn-16-2", "wrn-40-2", "epochs", "batch_size"]
    assert [nearest(name, known) for name in ("droput", "WRN_16_2", "epoch", "batch-size", "Dropout", "zzz", "")] == [
        "dropout", "wrn-16-2", "epochs", "batch_size", "dropout", None, None,
    ]  # fmt: skip
    assert nearest("x" * 10**6, known) is None and nearest("a", []) is None


def test_paths_are_relative_to_the_sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = TypeAdapter(PathText)
    context = {"folder": tmp_path / "sweeps"}
    assert reading.validate_python("data/x.pt", context=context) == str(tmp_path / "sweeps" / "data" / "x.pt")
    assert reading.validate_python("../x.pt", context=context) == str(tmp_path / "x.pt")
    assert reading.validate_python("/abs/x.pt", context=context) == str(Path("/abs/x.pt").resolve())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reading.validate_python("~/x.pt", context=context) == str(tmp_path / "x.pt")
    assert reading.validate_python("x.pt") == "x.pt", "without a file, as a run that comes from elsewhere has it"
