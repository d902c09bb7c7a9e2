"""The small language in which names of tensors become others."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from kdtune.models.naming import Renaming, idle, renamed


@pytest.mark.parametrize(
    ("name", "entries", "expected"),
    [
        ("conv1.weight", {"conv1": "stem"}, "stem.weight"),
        ("conv1", {"conv1": "stem"}, "stem"),
        ("conv10.weight", {"conv1": "stem"}, "conv10.weight"),
        ("a.conv1.weight", {"conv1": "stem"}, "a.conv1.weight"),
        ("layer1.0.conv1.weight", {"layer1.0": "groups.0"}, "groups.0.conv1.weight"),
        ("layer1x0.conv1", {"layer1.0": "groups.0"}, "layer1x0.conv1"),
        ("layer2.0.downsample.0.bias", {"*.downsample": "*.shortcut"}, "layer2.0.shortcut.0.bias"),
        ("downsample.0", {"*.downsample": "*.shortcut"}, "downsample.0"),
        ("encoder.a.b", {"encoder.*": "*"}, "a.b"),
        ("encoder", {"encoder.*": "*"}, "encoder"),
        ("a.b", {"*": "net.*"}, "net.a.b"),
        ("b3.l.2.w", {"b*.l.*": "g*.*"}, "g3.2.w"),
        ("b3.l.2.w", {"b*.l.*": "g*"}, "g3"),
        ("aux.fc.weight", {"aux": ""}, None),
        ("auxiliary.fc.weight", {"aux": ""}, "auxiliary.fc.weight"),
        ("x.w", {"x": "y", "y": "z"}, "z.w"),
        ("weight", {"*.weight": "*.w"}, "weight"),
    ],
)
def test_names(name, entries, expected):
    assert renamed(name, tuple(entries.items())) == expected


def test_entries_that_are_about_nothing():
    names = ["conv1.weight", "fc.bias"]
    assert idle(names, (("conv1", "stem"), ("stem", "first"), ("fc.bias", ""), ("fc", "head"))) == ["fc"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"conv1": 3}, "both are names"),
        ({"aux": None}, '"" as the new one leaves tensors out'),
        ({"encoder.": ""}, '"encoder.*": "*" takes a beginning away'),
        ({"": "a"}, "text between their dots"),
        ({"a": "b."}, "text between their dots"),
        ({"a": "b..c"}, "text between their dots"),
        ({"a": "*"}, "more * than the old one"),
        ({"*" * 40: "a"}, "at most 3 *"),
        ({"*.*.*.*.a": "a"}, "at most 3 *"),
        (["a", "b"], "takes a mapping"),
        ("a", "takes a mapping"),
        (7, "takes a mapping"),
    ],
)
def test_what_is_no_renaming(written, expected):
    with pytest.raises(ValidationError, match=r"(?s)" + expected.replace("*", r"\*")):
        TypeAdapter(Renaming).validate_python(written)


def test_order_is_kept_and_null_is_none():
    assert TypeAdapter(Renaming).validate_python({"b": "c", "a": "b"}) == (("b", "c"), ("a", "b"))
    assert TypeAdapter(Renaming).validate_python(None) == ()
