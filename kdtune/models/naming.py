"""Names of tensors in other people's code, and how they become ours.

A *renaming* is entries `old: new`, applied one after another to every name of a file. `old` is a name, or its beginning
up to a dot; `*` in it is any run of characters, which the `*`s of `new` take up in their order:

    {conv1: stem}                          conv1.weight              -> stem.weight
    {"*.downsample": "*.shortcut"}         layer2.0.downsample.0.bias -> layer2.0.shortcut.0.bias
    {"encoder.*": "*"}                     takes a beginning away
    {sub_block1: ""}                       leaves those tensors out

The tables below are renamings for networks that many teachers come from. They say nothing of what no weight shows:
strides, poolings, where dropout stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator

Entries = tuple[tuple[str, str], ...]
STARS = 3  # of an entry at most: more could take for ever to be compared with one name


def _entries(value: Any) -> Any:
    """A sweep file's mapping as entries, which keep their order. Raises ValueError naming the entry that cannot be."""
    if value is None:  # an axis may be null
        return ()
    if isinstance(value, tuple):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("takes a mapping from names in the file to names here: {old: new}")
    for old, new in value.items():
        wrong = _wrong(old, new)
        if wrong:
            raise ValueError(f"{old!r}: {new!r} renames nothing: {wrong}")
    return tuple(value.items())


def _wrong(old: Any, new: Any) -> str | None:
    if not isinstance(old, str) or not isinstance(new, str):
        return 'both are names; "" as the new one leaves tensors out'
    if old.startswith(".") or old.endswith(".") or not old:
        return 'names have text between their dots; "encoder.*": "*" takes a beginning away'
    if new.startswith(".") or new.endswith(".") or ".." in old + new:
        return "names have text between their dots"
    if "**" in old or old.count("*") > STARS:
        return f"at most {STARS} *, none beside another"
    if new.count("*") > old.count("*"):
        return "the new name has more * than the old one"
    return None


Renaming = Annotated[Entries, BeforeValidator(_entries)]


def renamed(name: str, entries: Entries) -> str | None:
    """The name after all entries; None if one of them leaves it out."""
    for old, new in entries:
        if found := _pattern(old).match(name):
            if not new:
                return None
            first, *more = new.split("*")
            taken = "".join(star + text for star, text in zip(found.groups(), more, strict=False))
            name = first + taken + name[found.end() :]
    return name


def idle(names: list[str], entries: Entries) -> list[str]:
    """The `old` of every entry that no name meets when its turn comes."""
    left: list[str] = []
    for number, (old, _) in enumerate(entries):
        so_far = (renamed(name, entries[:number]) for name in names)
        if not any(name is not None and _pattern(old).match(name) for name in so_far):
            left.append(old)
    return left


@cache
def _pattern(old: str) -> re.Pattern[str]:
    return re.compile("(.+)".join(map(re.escape, old.split("*"))) + r"(?=\.|\Z)")


@dataclass(frozen=True)
class NameTable:
    """How somebody else's code names the tensors of a network that stands here too."""

    title: str
    entries: Entries
    notes: Entries = ()  # what is said where a file comes near and a name that begins so does not fit


_LAYERS = tuple((f"layer{number + 1}", f"groups.{number}") for number in range(4))
_STEM = (("conv1", "stem"), ("bn1", "bn"))

# Every network here was read in its authors' repository; tests/training/test_foreign.py has each one's names.
TABLES = (
    NameTable(
        "WideResNet of xternalz/WideResNet-pytorch and RepDistiller",
        (
            *_STEM,
            *((f"block{number + 1}.layer", f"groups.{number}") for number in range(3)),
            ("*.convShortcut", "*.shortcut"),
            ("fc", "classifier"),
        ),
        (("sub_block1", 'TRADES has it and never uses it: rename: {sub_block1: ""} leaves it out'),),
    ),
    NameTable(
        "ResNet-18 of kuangliu/pytorch-cifar",
        (*_STEM, *_LAYERS, ("linear", "classifier")),
    ),
    NameTable(
        "ResNet-18 of torchvision and timm, with a stem for small images",
        (*_STEM, *_LAYERS, ("*.downsample", "*.shortcut"), ("fc", "classifier")),
        (("conv1", "the stem here is one 3 x 3 convolution without bias, and no max pooling follows it"),),
    ),
    NameTable(
        "ResNet-18 of weiaicunzai/pytorch-cifar100",
        (
            ("conv1.0", "stem"),
            ("conv1.1", "bn"),
            *((f"conv{number + 2}_x", f"groups.{number}") for number in range(4)),
            *((f"*.residual_function.{place}", f"*.{part}")
              for place, part in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"))),
            ("fc", "classifier"),
        ),
    ),
    NameTable(
        "PreAct-ResNet-18 with a last BatchNorm, as in most work on adversarial training",
        (("conv1", "stem"), *_LAYERS, ("*.shortcut.0", "*.shortcut"), ("linear", "classifier")),
        (
            ("bn", "PreActResNet18 of kuangliu/pytorch-cifar has no BatchNorm and ReLU before its classifier, this one "
                   "has: no renaming makes the one of the other"),
        ),
    ),
)  # fmt: skip
