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

    def refusal(self, comparing: str | None, asks: bool, bounded: bool, low_rank: bool) -> str | None:
        """Why these knobs do not go with the rest, if so: at most one reason.

        comparing: a loss that compares clean images with what is shown; asks: whether there is a teacher that the loss
        asks; bounded: whether training images are in [0, 1]; low_rank: whether they fill a subspace that is known.
        """
        hanging = [name for name, knob in self.knobs("target").items() if knob.needs_moved]
        if hanging and not self.knobs("input"):
            return f"noise.target.{hanging[0]} hangs on how far noise.input moves an image, and no knob there does"
        if hanging and comparing is not None:
            told = f"is of the image as it was moved, and the loss {comparing} has targets of images as they are"
            return f"noise.target.{hanging[0]} {told}; remove one of them"
        if comparing is not None and not self.input:
            return f"the loss {comparing} compares clean images with what noise.input makes of them, and it has no knob"
        leaves: str | None = None  # the first knob after which images may lie outside [0, 1]
        for name, knob in self.knobs("input").items():
            if knob.asks_teacher and not asks:
                return f"noise.input.{name} asks a teacher, and there is none that the loss asks"
            if knob.keeps_bounds and not knob.needs_bounds and not bounded:
                return f"noise.input.{name} cuts images off at 0 and 1, and those of this data set have no bounds"
            if knob.confined_to is not None and not low_rank:
                told = f"noise.input.{name}.within: {knob.confined_to}: this data set fills no subspace that is known"
                return f"{told}; gaussian with a rank below its dimension does"
            if knob.needs_bounds and bounded and leaves is not None:
                return f"{name} keeps images in [0, 1], and {leaves} moves them beyond: write {leaves} after {name}"
            leaves = leaves or (None if knob.keeps_bounds else name)
        return None

    def knobs(self, point: str) -> dict[str, Any]:
        """The knobs of `input`, `teacher` or `target` that are on, by name, in written order."""
        at: tuple[Knob, ...] = getattr(self, point)
        return {knob.key: knob for knob in at if not knob.off}
