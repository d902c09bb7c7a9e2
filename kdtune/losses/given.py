"""Where a loss has its teacher's answers from: what a sweep file writes as `responses`."""

from __future__ import annotations

from typing import Annotated, Literal

from kdtune.settings import PathText, Settings, word_or


class Given(Settings):
    """Answers of a teacher that is not here, from a file: `training.given` says what it holds."""

    file: PathText


Shuffle = Literal["class"]
Responses = Annotated[
    Literal["computed", "stored"] | Given,
    word_or(Given, ("computed", "stored"), "computed, stored or {file: PATH}"),
]
