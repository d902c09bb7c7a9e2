"""What every setting is: strict (no string passes for a number), frozen, and closed to unknown keys.

A default may only mean "off": a run's description leaves defaults out (see `run`), so a default that meant anything
else could change under a finished run. Importing this module loads neither torch nor ray.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
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
Share = Annotated[float, Strict(), Field(gt=0, le=1)]  # one that may be all, and is not none
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), Field(min_length=1)]
# Of networks: what is larger is a slip of the hand, and would only be counted and laid out, never trained.
Depth = Annotated[int, Strict(), Field(ge=1, le=10_000)]  # layers; the deepest trained so far: arXiv 1806.05393
Units = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]  # channels or units of a layer
Epochs = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]

PLACE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
TAKEN = frozenset({"runs", "searches", "done", "claims", "sweep", "trash", "tensorboard", "figures"})  # by results
DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")  # of Windows, with any ending


def place_name(name: str) -> str:
    """A name that becomes a folder, a file or part of a metric's name. Raises ValueError for what none of them can be.

    Letter case does not count: on some file systems it is not there.
    """
    if name.casefold() in TAKEN or DEVICES.fullmatch(name.casefold()):
        raise ValueError("the name is taken: such a folder has another meaning; take another")
    if not PLACE.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a folder: up to 64 letters, digits, '.', '_' and '-' would do, the first of them a "
            "letter or a digit, the last no '.'"
        )
    return name


PlaceName = Annotated[str, Strict(), AfterValidator(place_name)]

PYDANTIC = frozenset(get_args(core_schema.ErrorType))  # its own types of errors
LISTED = 10  # names in a message
UNKNOWN = "unknown_name"  # the type of an error whose message already says what was meant


class TypedText(str):
    """Text that was typed in a command: a path in it is relative to `folder`, where that was, not to the sweep file."""

    __slots__ = ("folder",)
    folder: str

    def __new__(cls, text: str, folder: str) -> Self:
        typed = super().__new__(cls, text)
        typed.folder = folder
        return typed

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # what was found out of this one text is looked up by the object


TEMPERATURES = 0.1, 1000.0
HEAVIEST = 1000.0


def of_one(size: float) -> float:
    """Papers write 8/255, other code 8, which would be eight times all that a pixel can be."""
    if not 0 <= size <= 1:
        meant = f"; {size:g}/255 is {size / 255:.3g}" if 1 < size <= 255 else ""
        raise ValueError(f"pixels are in [0, 1]{meant}")
    return size


def _softening(temperature: float) -> float:
    """Measured on logits of deviations from 0.1 to 30 against float64, with 10 and 100 classes: within these bounds the
    gradient of kd and dkd is wrong by at most 0.2 %. At 100,000 up to a sixth of it is rounding, at a million all; at
    0.01 that of a reversed KL vanishes."""
    low, high = TEMPERATURES
    if not low <= temperature <= high:
        raise ValueError(f"temperatures are in [{low:g}, {high:g}]; beyond, gradients are lost in float32's rounding")
    return temperature


def _weighing(weight: float) -> float:
    """Measured as above: at 1,000 the rounding of the heavy part is 0.1 % of the cross-entropy's gradient, and 5 % at a
    temperature of 1,000; at a million it is up to fifty times that gradient."""
    if not 0 <= weight <= HEAVIEST:
        raise ValueError(f"weights are in [0, {HEAVIEST:g}]; beyond, the cross-entropy is lost in float32's rounding")
    return weight


def _resolved(path: Any, info: ValidationInfo) -> Any:
    """Paths in a sweep file are relative to it: whoever validates one passes context {"folder": ...}.

    What becomes of typed ones is noted in the context's `paths`, by the id of the text.
    """
    context = info.context or {}
    folder = path.folder if isinstance(path, TypedText) else context.get("folder")
    if folder is None or not isinstance(path, str) or not path:
        return path
    # os.path: pathlib raises RuntimeError where ~ is nobody's home or a link leads to itself, which is said on reading
    resolved = os.path.realpath(os.path.join(folder, os.path.expanduser(path)))
    if isinstance(path, TypedText):
        context.get("paths", {})[id(path)] = resolved
    return resolved


Pixels = Annotated[Real, AfterValidator(of_one)]  # a distance or a deviation, where images are in [0, 1]
Temperature = Annotated[Real, AfterValidator(_softening)]  # what logits are divided by
Weight = Annotated[Real, AfterValidator(_weighing)]  # of a part of a loss beside the cross-entropy
PathText = Annotated[Text, BeforeValidator(_resolved)]


def word_or(settings: type[Settings], words: Iterable[str], written: str) -> BeforeValidator:
    """Of a value that is one of some words, or a mapping: of a union each member would tell what is wrong. `written`:
    what would do, in words."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Mapping):
            return settings.model_validate(value, context=info.context)
        if isinstance(value, settings) or value in words:
            return value
        raise ValueError(f"{written} would do")

    return BeforeValidator(validate)


def _seeds(value: Any) -> Any:
    """A count n stands for the seeds 0..n-1."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value < 1:
        raise ValueError("a count of seeds is at least 1; or name them: [0, 1]")
    return range(value)


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
        raise ValueError(f"{twice[0]} is written twice; it would still be one run")
    return seeds


Seeds = Annotated[tuple[Whole, ...], Field(min_length=1), BeforeValidator(_seeds), AfterValidator(_distinct)]


class Settings(BaseModel):
    """Base of every group of settings in a sweep file: unknown keys are errors, nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    elsewhere: ClassVar[Mapping[str, str]] = {}  # where keys belong that one may well look for here

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
                relocated(error, error["loc"], cls._unknown_key(str(error["loc"][0])))
                if _unknown_here(error)
                else relocated(error, error["loc"])
                for error in errors
            ]
            raise ValidationError.from_exception_data(cls.__name__, told) from None

    @classmethod
    def _unknown_key(cls, key: str) -> str:
        return cls.elsewhere.get(key) or unknown("key", key, cls.known_keys())


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
    close = nearest(name, known)
    hint = f"did you mean {close}?" if close else f"known here: {', '.join(known)}" if known else "remove it"
    return f"unknown {what} {name!r}; {hint}"


def meant(name: str, known: Iterable[str]) -> str:
    """What was probably meant by the beginning of a name, or by a misspelt one: `did you mean val/accuracy?`."""
    known = list(known)
    close = next((one for one in known if one.startswith(name)), None) or nearest(name, known)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"did you mean {close}?" if close else f"known here: {', '.join(known[:LISTED])}{more}"


def refused_at(loc: tuple[int | str, ...], message: str, came: Any) -> ValidationError:
    """An error of a whole group of settings at one place below it; the message already says what was meant."""
    error: InitErrorDetails = {
        "type": PydanticCustomError(UNKNOWN, "{told}", {"told": message}),
        "loc": loc,
        "input": came,
    }
    return ValidationError.from_exception_data("settings", [error])


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
