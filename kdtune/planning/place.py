"""Where a sweep asks for a run, and what people call it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from kdtune.run import Run
from kdtune.sweepfile.values import comparable, word

ROLES = ("teacher", "source", "student")
SPELLED = 4  # axes; of more, a label names those alone that differ from the sweep's first point


@dataclass(frozen=True)
class Place:
    """Where a sweep asks for a run: a role, a point of the grid, a seed. A run may be asked for at several places."""

    run: Run
    role: str  # one of ROLES
    parameters: dict[str, Any]  # only the axes that this run's part of the file uses
    teacher_parameters: dict[str, Any] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)  # the point of the sweep's first run of this role
    confirms: bool = False  # a search's choice, done again with seeds that have chosen nothing

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def waits_for(self) -> tuple[str, ...]:
        return self.run.waits_for

    @property
    def chooses_from(self) -> dict[str, tuple[str, ...]]:
        """The same by what they are to it: "teacher", "source"."""
        parts = {"teacher": self.run.teacher, "source": self.run.source}
        return {part: choice.runs for part, choice in parts.items() if choice is not None}

    @property
    def point(self) -> dict[str, Any]:
        """The axis values that lead to it: for a student its teacher's too."""
        return self.teacher_parameters | self.parameters

    @cached_property
    def condition(self) -> Hashable:
        """Role and point. Places of one condition differ in their seeds alone: what a mean is taken over."""
        return Place.condition_of(self.role, self.teacher_parameters, self.parameters, self.confirms)

    @staticmethod
    def condition_of(
        role: str, of_teacher: Mapping[str, Any], own: Mapping[str, Any], confirms: bool = False
    ) -> Hashable:
        """The condition of such a place."""
        return role, comparable(of_teacher), comparable(own), confirms

    @property
    def key(self) -> Hashable:
        """What no other place of its sweep has."""
        return self.id, self.condition

    @cached_property
    def label(self) -> str:
        """Its condition in words: `student dropout=0.2`."""
        told = self.point
        if len(told) > SPELLED and self.first:
            told = {axis: value for axis, value in told.items() if axis not in self.first or value != self.first[axis]}
            if not told:
                return f"{self.told_role} as first"
        return " ".join([self.told_role, *(f"{axis}={word(value)}" for axis, value in told.items())])

    @property
    def told_role(self) -> str:
        return f"confirming {self.role}" if self.confirms else self.role

    @cached_property
    def name(self) -> str:
        """What a person reads: `student dropout=0.2 seed=1`."""
        return f"{self.label} seed={self.run.seed}" if self.run.seed is not None else self.label

    def without(self, axis: str) -> Place:
        """The same without an axis: as if it had not been one."""

        def rest(point: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in point.items() if name != axis}

        own, teachers, first = map(rest, (self.parameters, self.teacher_parameters, self.first))
        return replace(self, parameters=own, teacher_parameters=teachers, first=first)

    def has(self, wanted: Mapping[str, Any]) -> bool:
        """Whether axes, seed, role and id are as wanted, by value or by the word that names have for it.

        Numbers compare as numbers, mappings in any order. An axis that is not there is not one that is null. A set is
        of ids. `search.confirms` is known too.
        """
        known = {**self.point, "seed": self.run.seed, "role": self.role, "id": self.id}
        known["search.confirms"] = self.confirms
        return all(axis in known and _is(known[axis], value) for axis, value in wanted.items())


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, frozenset):
        return value in wanted
    alike = comparable(value, in_order=False) == comparable(wanted, in_order=False)
    return alike or (isinstance(wanted, str) and wanted.strip("{}") == word(value).strip("{}"))
