"""What a sweep file may say at each injection point: any of its knobs, in an order that counts. Loads no torch."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from pydantic import ModelWrapValidatorHandler, PrivateAttr, create_model, model_serializer, model_validator

from kdtune.noise.knob import knobs_of
from kdtune.settings import Settings


class Point(Settings):
    """The knobs of one injection point. They compose in written order, which validation alone would lose."""

    _order: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _keep_order(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        point = handler(value)
        point._order = tuple(value) if isinstance(value, dict) else value._order
        for earlier, later in pairwise(point.knobs.values()):
            if earlier.softens:
                raise ValueError(
                    f"{later.name()} stands after {earlier.name()}, which makes soft targets of the labels; "
                    f"{later.name()} needs labels: write it before {earlier.name()}"
                )
        return point

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that are on, by name, in written order."""
        named = {name: getattr(self, name) for name in self._order}
        return {name: knob for name, knob in named.items() if knob is not None and not knob.off}

    @model_serializer
    def _in_order(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                field.name: getattr(knob, field.name)
                for field in fields(knob)
                if getattr(knob, field.name) != field.default
            }
            for name, knob in self.knobs.items()
        }


def _point(name: str) -> Any:
    """The settings of one injection point: an optional field for every knob that `kdtune.noise.<name>` defines."""
    knobs: dict[str, Any] = {knob: (kind | None, None) for knob, kind in knobs_of(name).items()}
    return create_model(f"{name.capitalize()}Noise", __base__=Point, **knobs)


if TYPE_CHECKING:
    InputNoise = Point
    TeacherNoise = Point
    TargetNoise = Point
    LabelsNoise = Point
else:
    InputNoise, TeacherNoise, TargetNoise, LabelsNoise = map(_point, ("input", "teacher", "target", "labels"))
