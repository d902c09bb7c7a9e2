"""What is measured of a finished network. A module per kind; `evaluator` says what every evaluator is.

    evaluation: [accuracy, shift, {pgd: {eps: [0.031], step: 0.003, images: 200}}]

An entry is an evaluator's name, alone or with its keys. Importing this loads no torch.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections import Counter
from dataclasses import fields
from importlib import import_module
from typing import Annotated, Any

from pydantic import GetPydanticSchema, TypeAdapter, ValidationError, create_model, model_validator
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from kdtune.evaluation.evaluator import Evaluator
from kdtune.settings import OneOf


def evaluators() -> dict[str, type[Evaluator]]:
    """The evaluators that the modules of this folder define, by YAML key: modules by name, classes as in the code."""
    modules = [import_module(info.name) for info in pkgutil.iter_modules(__path__, f"{__name__}.")]
    own = [
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and kind.__module__ == module.__name__ and issubclass(kind, Evaluator)
    ]
    return {kind.name: kind for kind in own if not inspect.isabstract(kind)}


KINDS = evaluators()


class _Entry(OneOf):
    """One entry of `evaluation:`."""

    @model_validator(mode="before")
    @classmethod
    def _ready(cls, value: Any) -> Any:
        return {value.name: value} if isinstance(value, Evaluator) else value

    @model_validator(mode="wrap")
    @classmethod
    def _naming_the_nearest(cls, value: Any, validate: Any) -> Any:
        try:
            return validate(value)
        except ValidationError as failure:
            errors = [_with_nearest(error, value) for error in failure.errors()]
            raise ValidationError.from_exception_data(failure.title, errors) from None


_FIELDS: dict[str, Any] = {name: (kind | None, None) for name, kind in KINDS.items()}
Entry: Any = create_model("Entry", __base__=_Entry, **_FIELDS)


def _with_nearest(error: ErrorDetails, entry: Any) -> InitErrorDetails:
    """The error, where it is an unknown evaluator or key with what was meant or what there is."""
    *where, came = error["loc"] or ("",)
    details = InitErrorDetails(type=error["type"], loc=error["loc"], input=error["input"], ctx=error.get("ctx", {}))
    if error["type"] not in ("extra_forbidden", "unexpected_keyword_argument") or len(where) > 1:
        return details
    known = [field.name for field in fields(KINDS[str(where[0])])] if where else list(KINDS)
    kind = "key" if where else "evaluator"
    nearest = difflib.get_close_matches(str(came).lower().replace("-", "_"), known, 1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there is {', '.join(known) or 'none'}"
    loc = error["loc"] if isinstance(entry, dict) else ()  # a bare name has no place below its own
    return {"type": PydanticCustomError("unknown", f"unknown {kind} {came!r}; {hint}"), "loc": loc, "input": entry}


def _chosen(entries: tuple[OneOf, ...]) -> tuple[Evaluator, ...]:
    found = tuple(entry.chosen for entry in entries)
    for writes, count in Counter(evaluator.writes for evaluator in found).items():
        if count > 1:
            raise ValueError(f"{count} entries write the metrics {writes!r}; one would hide the other")
    return found


def _written(evaluation: tuple[Evaluator, ...]) -> list[dict[str, Any]]:
    return [{each.name: TypeAdapter(type(each)).dump_python(each, mode="json")} for each in evaluation]


def _schema(generate: Any) -> CoreSchema:
    return core_schema.no_info_after_validator_function(
        _chosen,
        generate.generate_schema(tuple[Entry, ...]),
        serialization=core_schema.plain_serializer_function_ser_schema(_written),
    )


# The value of `evaluation:` as a field of settings: a list of entries becomes the tuple of their evaluators.
Evaluation = Annotated[tuple[Evaluator, ...], GetPydanticSchema(lambda _, handler: _schema(handler))]
