"""What `noise:` may say: knobs by injection point."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import field_validator

from kdtune.kinds import Several
from kdtune.noise.input import InputKnob
from kdtune.noise.knob import Knob
from kdtune.noise.target import TargetKnob
from kdtune.noise.teacher import TeacherKnob
from kdtune.settings import Settings


class Noise(Settings):
    """Knobs by injection point; those of one point compose in written order."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "labels": "labels are the data set's, wrong in the same way for all that learn from it: write dataset.labels; "
        "those that noise.target makes are redrawn for every batch"
    }

    input: Annotated[tuple[InputKnob, ...], Several(InputKnob)] = ()
    teacher: Annotated[tuple[TeacherKnob, ...], Several(TeacherKnob)] = ()
    target: Annotated[tuple[TargetKnob, ...], Several(TargetKnob)] = ()

    @field_validator("target")
    @classmethod
    def _labels_first(cls, knobs: tuple[TargetKnob, ...]) -> tuple[TargetKnob, ...]:
        for earlier, later in pairwise(knob for knob in knobs if not knob.off):
            if earlier.softens:
                raise ValueError(
                    f"{later.key} stands after {earlier.key}, which makes soft targets of the labels; "
                    f"{later.key} needs labels: write it before {earlier.key}"
                )
        return knobs

    def knobs(self, point: str) -> dict[str, Any]:
        """The knobs of `input`, `teacher` or `target` that are on, by name, in written order."""
        at: tuple[Knob, ...] = getattr(self, point)
        return {knob.key: knob for knob in at if not knob.off}
