"""The JSON Schema of sweep files, by which an editor completes and checks them; from the models, like `reference`.

It knows keys, types, names and ranges. What hangs on two keys at once, the reader alone says. Every value may be a
`$name` of the grid, and every mapping may lack what profiles, recipes or overlays bring.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator

from kdtune import settings
from kdtune.config import Sweep
from kdtune.kinds import PLACEHOLDER, Kind, Several
from kdtune.recipe import Recipe
from kdtune.search.search import Search
from kdtune.settings import Settings
from kdtune.sweepfile.reference import BESIDE, LIMITS, constraints, keys_of

AXIS = {"type": "string", "pattern": r"^\$"}  # `$name`
OVERLAY = {"$ref": "#"}  # no key is required here, so what is laid over a file is like a file
SEEDS = {"type": "array", "items": {"type": "integer"}}
PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string"}


class Schema:
    """Collects definitions, a class or a family each, while it is walked."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        """The whole schema."""
        body = self._object(Sweep)
        axis = {"description": BESIDE["grid"]}
        body["properties"] |= {
            "recipe": self._of(Recipe, ()),
            "search": self._of(Search, ()),
            "grid": axis | {"type": ["object", "array"]},
            "profiles": {"description": BESIDE["profiles"], "type": "object", "additionalProperties": OVERLAY},
        }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "kdtune sweep file",
            **body,
            "$defs": self.definitions,
        }

    def _object(self, here: type[Settings]) -> dict[str, Any]:
        notes = {key.name: key for key in keys_of(here)}
        properties = {}
        for name, each in here.model_fields.items():
            written = each.alias or name
            if written in notes:
                told = f"{notes[written].note} ({notes[written].default})".strip()
                properties[written] = {"description": told} | self._of(each.annotation, each.metadata)
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def _of(self, annotation: Any, metadata: Sequence[Any]) -> dict[str, Any]:
        """What may be written for a type."""
        for each in metadata:
            if isinstance(each, Several):
                named = self._names(each.family)
                return {"type": ["object", "null", "string"], **named}
            if isinstance(each, BeforeValidator) and each.func is settings._seeds:
                return {"anyOf": [{"type": "integer", "minimum": 1}, SEEDS, AXIS]}
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._of(arguments[0], [*arguments[1:], *metadata])
        if origin in (Union, types.UnionType):
            parts = [{"type": "null"} if each is type(None) else self._of(each, metadata) for each in arguments]
            return {"anyOf": [*parts, {"type": "null"}]}
        if origin is dict:
            return {"type": "object", "additionalProperties": self._of(arguments[1], ())}
        if origin is Literal:
            return {"anyOf": [{"enum": list(arguments)}, AXIS]}
        if origin is tuple:
            item = self._of(arguments[0], ())
            return {"anyOf": [{"type": "array", "items": item}, item]}
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            return {"anyOf": [{"$ref": f"#/$defs/{self._defined(annotation)}"}, AXIS, {"type": "null"}]}
        if annotation in PLAIN:
            return {"anyOf": [{"type": PLAIN[annotation], **_bounds(metadata)}, AXIS]}
        return {}

    def _defined(self, here: type[Settings]) -> str:
        name = f"{here.__module__.removeprefix('kdtune.')}.{here.__qualname__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # a class may hold its own kind
            is_family = issubclass(here, Kind) and here.__dict__.get("family") is here
            self.definitions[name] = self._family(here) if is_family else self._object(here)  # type: ignore[arg-type]
        return name

    def _family(self, family: type[Kind]) -> dict[str, Any]:
        """A bare name, or a mapping with one name, and what stands beside it."""
        beside = self._object(family)["properties"] if family.model_fields else {}
        named = self._names(family)
        mapping = {"type": "object", **named, "properties": named.get("properties", {}) | beside}
        plain = [key for key in family.kinds() if not PLACEHOLDER.search(key)]
        patterns = [{"type": "string", "pattern": one} for one in named.get("patternProperties", {})]
        return {"anyOf": [{"enum": plain}, *patterns, mapping]}

    def _names(self, family: type[Kind]) -> dict[str, Any]:
        """A mapping's keys where each is a kind of the family."""
        plain: dict[str, Any] = {}
        patterns: dict[str, Any] = {}
        for key, kind in family.kinds().items():
            inside = {"anyOf": [{"$ref": f"#/$defs/{self._defined(kind)}"}, AXIS, {"type": "null"}]}
            if getattr(family, "listed", False):
                inside["anyOf"].append(self._list(kind))
            if PLACEHOLDER.search(key):
                patterns[f"^{PLACEHOLDER.sub('[0-9]+', key)}$"] = inside
            else:
                plain[key] = inside
        found: dict[str, Any] = {"properties": plain, "additionalProperties": False}
        return found | ({"patternProperties": patterns} if patterns else {})

    def _list(self, kind: type[Kind]) -> dict[str, Any]:
        """The fields of a kind as a list, in order; where it has one, which is a list, that itself."""
        fields = [*kind.model_fields.values()]
        if [get_origin(each.annotation) for each in fields] == [tuple]:
            return {"type": "array", "minItems": 2}  # alternatives
        items = [self._of(each.annotation, each.metadata) for each in fields]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _bounds(metadata: Sequence[Any]) -> Mapping[str, float]:
    """The limits of a number."""
    for each in metadata:
        if isinstance(each, AfterValidator) and each.func in LIMITS:
            low, high = LIMITS[each.func]
            return {"minimum": low, "maximum": high}
    named = {Ge: "minimum", Gt: "exclusiveMinimum", Le: "maximum", Lt: "exclusiveMaximum"}
    return {named[kind]: value for kind, value in constraints(metadata).items()}
