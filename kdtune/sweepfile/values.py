"""One value of a sweep file: how it is compared, what people call it, how it comes in from Python."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from kdtune.settings import TypedText
from kdtune.sweepfile.tree import YamlList, YamlMap


def comparable(value: Any, *, in_order: bool = True) -> Hashable:
    """What equal values have in common, to be looked up by: 1 is 1.0, true is not 1, a list is not its text.

    Keys of a mapping count in their order, for knobs of one point compose in it; not with `in_order=False`.
    """
    if isinstance(value, Mapping):
        parts = [(str(key), comparable(part, in_order=in_order)) for key, part in value.items()]
        return "mapping", tuple(parts if in_order else sorted(parts, key=lambda part: part[0]))
    if isinstance(value, list | tuple):
        return "list", tuple(comparable(part, in_order=in_order) for part in value)
    if isinstance(value, str):
        return str(value)
    return ("truth", value) if isinstance(value, bool) else value


def word(value: Any) -> str:
    """A value as people read it: `0.2`, `null`, and a mapping as `crop={padding=4,mode=reflect},flip={}`."""
    if isinstance(value, Mapping):
        parts = {
            key: f"{{{word(part)}}}" if isinstance(part, Mapping) and part else word(part)
            for key, part in value.items()
        }
        return ",".join(f"{key}={part}" for key, part in parts.items()) or "{}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        short = f"{value + 0.0:g}"  # -0.0 is 0.0
        return short if float(short) == value else repr(value)  # two values never share a word
    return str(value)


def grown(value: Any) -> Any:
    """A value of Python's as the tree has it, all the way down; numpy's numbers and arrays become Python's."""
    if isinstance(value, YamlMap | YamlList | str):
        return value
    if isinstance(value, Mapping):
        return YamlMap({str(key): grown(part) for key, part in value.items()}, dict.fromkeys(map(str, value)))
    if isinstance(value, list | tuple | range):
        return YamlList(map(grown, value))
    if getattr(value, "dtype", None) in ("float16", "float32"):  # 0.3, not the nearest double of the nearest float
        return grown(float(str(value)) if not getattr(value, "shape", ()) else [*value])
    if hasattr(value, "tolist"):
        return grown(value.tolist())
    return value + 0.0 if isinstance(value, float) else value  # -0.0 is 0.0: an id must not tell them apart


def plain(value: Any, paths: Mapping[int, str]) -> Any:
    """A tree without what was typed in a command: text is text, and a path is what it was found to stand for.

    `paths`: see `settings.TypedText`.
    """
    if isinstance(value, YamlMap):
        return YamlMap({str(key): plain(part, paths) for key, part in value.items()}, value.lines, value.line)
    if isinstance(value, YamlList):
        return YamlList((plain(part, paths) for part in value), value.lines, value.line)
    return paths.get(id(value), str(value)) if isinstance(value, TypedText) else value
