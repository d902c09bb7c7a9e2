"""What every setting is: strict (no string passes for a number), frozen, and closed to unknown keys.

A default may only mean "off": a run's description leaves defaults out (see `config`), so a default that meant anything
else could change under a finished run. Importing this module loads neither torch nor ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationInfo, model_validator

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


def _beside_the_file(path: str, info: ValidationInfo) -> str:
    """Paths in a sweep file are relative to it: whoever validates one passes context {"folder": ...}."""
    folder = (info.context or {}).get("folder")
    return path if folder is None else str((Path(folder) / Path(path).expanduser()).resolve())


PathText = Annotated[Text, AfterValidator(_beside_the_file)]


class Settings(BaseModel):
    """Base of every group of settings in a sweep file: unknown keys are errors, nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OneOf(Settings):
    """A mapping that names a kind: `{sgd: {lr: 0.1}}`. A bare name `digits` stands for `{digits: {}}`.

    Subclasses have one optional field per kind, typed by that kind's settings; fields listed in `shared` stand beside
    the kind. `chosen` is the settings of the kind that was named, `kind` its name.
    """

    @classmethod
    def kinds(cls) -> list[str]:
        """The names that this mapping may hold, in the order of the code."""
        return [name for name, field in cls.model_fields.items() if (field.json_schema_extra or {}) != {"shared": True}]

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {value: {}} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        named = [kind for kind in self.kinds() if getattr(self, kind) is not None]
        if len(named) != 1:
            raise ValueError(f"names {' and '.join(named) or 'no kind'}; exactly one of {', '.join(self.kinds())}")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in self.kinds() if getattr(self, kind) is not None)

    @property
    def chosen(self) -> Any:
        return getattr(self, self.kind)


def shared(default: Any = None) -> Any:
    """A field of a `OneOf` that stands beside the kind instead of naming one."""
    return Field(default=default, json_schema_extra={"shared": True})
