"""What a sweep file may say, key by key, from the models that validate it: types, ranges, defaults, units, source.

explained("student.distillation.alpha")   ->   what stands there, or the keys below it

Units and reasons are the comments behind the fields, so that they stand in one place. Loads neither torch nor ray.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator
from pydantic.fields import FieldInfo

from kdtune import settings
from kdtune.config import Sweep
from kdtune.kinds import Kind, Several, words
from kdtune.networks import Student
from kdtune.recipe import Recipe
from kdtune.search.search import Search
from kdtune.settings import Settings, unknown
from kdtune.sweepfile import grid
from kdtune.sweepfile.values import word

# What the reader itself takes, which no model has.
BESIDE = {
    "recipe": "how networks are optimised: laid under `teacher.recipe` and `student.recipe`",
    "grid": "the values of axes: a mapping of lists, or a list of such blocks; `$name` stands for a value of the axis",
    "search": "proposes the values of axes, one point after the other; those of the grid are its first proposals",
    "profiles": "overlays by name (paper, quick, laptop): what they name is laid over the file",
}
SECTIONS = {"recipe": Recipe, "search": Search}  # of these, what has keys
LIMITS: dict[Any, tuple[float, float]] = {  # of what validators let through
    settings.of_one: (0.0, 1.0),
    settings._softening: settings.TEMPERATURES,
    settings._weighing: (0.0, settings.HEAVIEST),
}


class NoSuchKey(Exception):
    """A path that no sweep file can have; the message says which part is wrong and what would do."""


@dataclass(frozen=True)
class Key:
    """One key: its type in words, whether something stands in for it, and what its author says of it."""

    name: str
    type: str
    default: str  # "required", "off" or the value
    note: str = ""


@dataclass(frozen=True)
class Explained:
    """What stands at a path: its documentation, its keys, or the names that may stand there."""

    path: str
    title: str
    about: str = ""
    source: str = ""
    keys: Sequence[Key] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)  # names that may stand here, with their first sentence


def explained(path: str) -> Explained:
    """What a sweep file may say at a dotted path; at the empty one, of the whole file. Raises NoSuchKey."""
    here: Any = Sweep
    done: list[str] = []
    parts = path.split(".") if path else []
    if parts and parts[0] not in (*Sweep.model_fields, *BESIDE) and parts[0] in Student.model_fields:
        here = Student  # `noise.input.gaussian` is meant of a network
    for part in parts:
        if here is Sweep and part in BESIDE and part not in SECTIONS:
            return Explained(path, part, BESIDE[part])
        if done == ["search", "space"] and grid.AXIS.fullmatch(part) and not _names_a_kind(here, part):
            done.append(part)
            continue
        here = SECTIONS[part] if here is Sweep and part in SECTIONS else _below(here, part, ".".join(done))
        done.append(part)
    if isinstance(here, _Leaf):
        return Explained(path, f"{here.key.type}; {here.key.default}", here.key.note)
    return _of_class(here, path)


def needed(path: str) -> str:
    """What would do at a dotted path, and the command that says more of it."""
    try:
        found = explained(path)
    except NoSuchKey:
        return "nothing stands in for it"
    required = [key.name for key in found.keys if key.default == "required"]
    if found.kinds:
        return f"one of {', '.join(found.kinds)} would do: kdtune explain {path}"
    if required:
        return f"a mapping with {', '.join(required)} would do: kdtune explain {path}"
    above = path.rpartition(".")[0]
    return f"{found.title.partition(';')[0]} would do: kdtune explain {above}".removesuffix(": kdtune explain ")


def places(name: str) -> list[str]:
    """Where a key or a kind of this name stands, or the end of a path (`schedule.cosine`), as paths; what stands at
    several networks, at the student."""
    found: list[str] = []
    seen: set[str] = set()
    ahead = ["", "search", "student", "recipe"]  # from the last on
    while ahead:
        path = ahead.pop()
        here = explained(path)
        if here.source in seen or not (here.keys or here.kinds):
            continue
        seen.add(here.source)
        below = {each: f"{path}.{sample(each)}".lstrip(".") for each in [*(key.name for key in here.keys), *here.kinds]}
        found += [where for each, where in below.items() if each == name or where.endswith(f".{name}")]
        ahead += below.values()
    return list(dict.fromkeys(found))


def sample(key: str) -> str:
    """A name that a key with fields in braces takes."""
    return key.replace("{depth}", "16").replace("{width}", "2")


@dataclass(frozen=True)
class _Leaf:
    """A value that nothing stands below."""

    key: Key


def _below(here: Any, part: str, path: str) -> Any:
    """What stands below a class or a family under this name: another one, or a leaf."""
    if isinstance(here, _Leaf):
        raise NoSuchKey(f"{path} is {here.key.type}; nothing stands below it")
    if here.__dict__.get("family") is here and part not in here.model_fields:
        try:
            return here.find(part)[0]
        except ValueError as error:
            raise NoSuchKey(f"{path}: {error}") from error
    by_name = {each.alias or name: name for name, each in here.model_fields.items()}
    if part not in by_name:
        known = here.known_keys() if here is not Sweep else [*Sweep.model_fields, *BESIDE]
        raise NoSuchKey(f"{path or 'a sweep file'}: {unknown('key', part, known)}")
    known_as = here.model_fields[by_name[part]]
    inside = _class_of(known_as.annotation, known_as.metadata)
    return inside if inside is not None else _Leaf(_key(here, by_name[part], known_as))


def _names_a_kind(family: type[Kind], name: str) -> bool:
    try:
        return bool(family.find(name))
    except ValueError:
        return False


def _class_of(annotation: Any, metadata: Sequence[Any]) -> Any:
    """The settings that a field holds, or the family whose kinds stand there; None for a value."""
    for each in metadata:
        if isinstance(each, Several):
            return each.family
    if get_origin(annotation) is Annotated:
        base, *more = get_args(annotation)
        return _class_of(base, more)
    if get_origin(annotation) in (Union, types.UnionType, tuple, dict):
        found = [_class_of(each, ()) for each in get_args(annotation)]
        return next((each for each in found if each is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def _of_class(here: type[Settings], path: str) -> Explained:
    source = f"{here.__module__}.{here.__qualname__}"
    about = inspect.getdoc(here) or ""
    if here.__dict__.get("family") is here:
        family: Any = here
        named = {name: _first(inspect.getdoc(kind) or "") for name, kind in family.kinds().items()}
        return Explained(path, f"one {words(family)}", about, source, [*keys_of(here)], named)
    title = here.key if issubclass(here, Kind) else path or "a sweep file"
    keys = [*keys_of(here)]
    if here is Sweep:
        keys += [Key(name, "mapping" if name != "grid" else "mapping or list", "off", BESIDE[name]) for name in BESIDE]
    return Explained(path, title, about, source, keys)


def keys_of(here: type[Settings]) -> Iterator[Key]:
    """The keys of a mapping; of a family those that stand beside the name, of a kind those below it."""
    hidden = [*here.family.model_fields] if issubclass(here, Kind) and here.family is not here else []
    hidden += here.in_the_key() if issubclass(here, Kind) else []
    for name, each in here.model_fields.items():
        if name not in hidden:
            yield _key(here, name, each)


def _key(here: type[Settings], name: str, of: FieldInfo) -> Key:
    if of.is_required():
        default = "required"
    elif of.default in (None, (), "") or isinstance(of.default, Settings):
        default = "off"
    else:
        default = f"default {word(list(of.default) if isinstance(of.default, tuple) else of.default)}"
    note = _comments(here).get(name, "").replace("None", "null")
    return Key(of.alias or name, typed(of.annotation, of.metadata), default, note)


def typed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type in words: `number in [0, 1]`, `forward | reverse`, `list of whole numbers, 1 or more`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    for each in metadata:
        if isinstance(each, Several):
            return f"mapping of {words(each.family)}s by name"
        if isinstance(each, BeforeValidator) and each.func is settings._seeds:
            return "a count, or a list of seeds"
        if isinstance(each, BeforeValidator) and each.func is settings._resolved:
            return "path, relative to the sweep file"
    if origin is Annotated:
        base, *more = arguments
        return typed(base, [*more, *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("null" if each is type(None) else typed(each) for each in arguments))
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple and get_origin(arguments[0]) is tuple:
        return "mapping, each a text"  # kept as entries, for their order
    if origin is tuple:
        return f"list of: {typed(arguments[0])}"
    if origin is dict:
        return f"mapping, each a {typed(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Kind) and annotation.family is annotation:
        return words(annotation)
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return f"{names.get(annotation, 'mapping')}{_range(metadata)}"


def _range(metadata: Sequence[Any]) -> str:
    """What the constraints of a number leave of it."""
    for each in metadata:
        if isinstance(each, AfterValidator) and each.func is settings.place_name:
            return " that can name a folder"
        if isinstance(each, AfterValidator) and each.func in LIMITS:
            return " in [{:g}, {:g}]".format(*LIMITS[each.func])
    bounds = constraints(metadata)
    low = f"[{bounds[Ge]:g}" if Ge in bounds else f"({bounds[Gt]:g}" if Gt in bounds else None
    high = f"{bounds[Le]:g}]" if Le in bounds else f"{bounds[Lt]:g})" if Lt in bounds else None
    if low and high:
        return f" in {low}, {high}"
    if low:
        return f", {bounds.get(Ge, bounds.get(Gt)):g} or more" if Ge in bounds else f" above {bounds[Gt]:g}"
    return ""


def constraints(metadata: Sequence[Any]) -> dict[type, float]:
    """The limits of a number, by kind: Ge, Gt, Le, Lt."""
    flat = [part for each in metadata for part in (getattr(each, "metadata", None) or [each])]
    return {type(one): getattr(one, type(one).__name__.lower()) for one in flat if isinstance(one, Ge | Gt | Le | Lt)}


@cache
def _comments(here: type[Settings]) -> dict[str, str]:
    """What stands behind the fields of a class, and of those that it is made of."""
    found: dict[str, str] = {}
    for each in reversed(here.__mro__):
        if issubclass(each, Settings) and each is not Settings:
            found |= _of_source(inspect.getsource(each))
    return found


def _of_source(source: str) -> dict[str, str]:
    text = inspect.cleandoc(f"\n{source}")
    lines = io.StringIO(text).readline
    tokens = [token for token in tokenize.generate_tokens(lines) if token.type == tokenize.COMMENT]
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens}
    (body,) = ast.parse(text).body
    fields = [each for each in getattr(body, "body", []) if isinstance(each, ast.AnnAssign)]
    return {
        each.target.id: comments.get(each.end_lineno or 0) or comments.get(each.lineno, "")
        for each in fields
        if isinstance(each.target, ast.Name)
    }


def _first(about: str) -> str:
    """The first sentence."""
    text = " ".join(about.split("\n\n")[0].split())
    return text if len(text) <= 110 else f"{text[:107]}..."
