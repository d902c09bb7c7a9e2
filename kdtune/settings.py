"""What every setting is: strict (no string passes for a number), frozen, and closed to unknown keys.

A default may only mean "off": a run's description leaves defaults out (see `config`), so a default that meant anything
else could change under a finished run. Importing this module loads neither torch nor ray.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    Strict,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

# Leaves are strict, containers are not: YAML has lists where the code has tuples.
Whole = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Scale = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]  # a standard deviation, a size
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Strict(), Field(ge=0, le=1)]  # a probability, a share
Fraction = Annotated[float, Strict(), Field(gt=0, lt=1)]  # a share that is neither none nor all
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), Field(min_length=1)]

PYDANTIC = frozenset(get_args(core_schema.ErrorType))  # its own types of errors
UNKNOWN = "unknown_name"  # the type of an error whose message already says what was meant


def _beside_the_file(path: str, info: ValidationInfo) -> str:
    """Paths in a sweep file are relative to it: whoever validates one passes context {"folder": ...}."""
    folder = (info.context or {}).get("folder")
    return path if folder is None else str((Path(folder) / Path(path).expanduser()).resolve())


PathText = Annotated[Text, AfterValidator(_beside_the_file)]


class Settings(BaseModel):
    """Base of every group of settings in a sweep file: unknown keys are errors, nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that may be written here, for the hint where another one was."""
        return list(cls.model_fields)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, without what was worked out from those of the original, such as a run's id."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields:
            del copied.__dict__[name]  # a cached property; pydantic copies it like a field
        return copied

    @model_validator(mode="wrap")
    @classmethod
    def _naming_the_nearest(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as failure:
            errors = failure.errors()
            if not any(_unknown_here(error) for error in errors):
                raise
            told = [
                relocated(error, error["loc"], unknown("key", str(error["loc"][0]), cls.known_keys()))
                if _unknown_here(error)
                else relocated(error, error["loc"])
                for error in errors
            ]
            raise ValidationError.from_exception_data(cls.__name__, told) from None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, if any; letter case, - and _ do not count."""
    by_spelling = {folded(one): one for one in known}
    close = difflib.get_close_matches(folded(name), by_spelling, n=1)
    return by_spelling[close[0]] if close else None


def folded(name: str) -> str:
    """A name without what does not tell it from others: WRN_16_2 is wrn-16-2."""
    return name.casefold().replace("_", "-")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known: `unknown key 'epoch'; did you mean epochs?`."""
    known = list(known)
    meant = nearest(name, known)
    hint = f"did you mean {meant}?" if meant else f"known here: {', '.join(known)}" if known else "remove it"
    return f"unknown {what} {name!r}; {hint}"


def relocated(error: ErrorDetails, loc: tuple[int | str, ...], message: str | None = None) -> InitErrorDetails:
    """One of pydantic's errors at another place, and, with `message`, in other words."""
    kind: str | PydanticCustomError = error["type"]
    context = error.get("ctx", {})
    if message is not None:
        kind, context = PydanticCustomError(UNKNOWN, "{told}", {"told": message}), {}
    elif kind not in PYDANTIC:  # raised by kdtune itself
        kind, context = PydanticCustomError(error["type"], "{told}", {"told": error["msg"]}), {}  # type: ignore[arg-type]
    return {"type": kind, "loc": loc, "input": error["input"], "ctx": context}


def _unknown_here(error: ErrorDetails) -> bool:
    return error["type"] == "extra_forbidden" and len(error["loc"]) == 1
