"""Where a loss has its teacher's answers from: what a sweep file writes as `responses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationInfo

from kdtune.settings import PathText, Settings


class Given(Settings):
    """Answers of a teacher that is not here, from a file: `training.given` says what it holds."""

    file: PathText


def _word_or_file(value: Any, info: ValidationInfo) -> Any:
    """Of a union each member would tell what is wrong."""
    if isinstance(value, Mapping):
        return Given.model_validate(value, context=info.context)
    if isinstance(value, Given) or value in ("computed", "stored"):
        return value
    raise ValueError("computed, stored or {file: PATH} would do")


Shuffle = Literal["class"]
Responses = Annotated[Literal["computed", "stored"] | Given, BeforeValidator(_word_or_file)]
