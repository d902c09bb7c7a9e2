"""Further points of a file: a plan that has their runs too, and which run is whose."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from kdtune.planning.place import Place
from kdtune.planning.plan import Plan
from kdtune.sweepfile.load import SweepFile


def joined(plan: Plan, more: Plan, confirms: bool = False) -> Plan:
    """A plan with the places of another one that it lacks; students of that one confirm, if it is for that."""
    known = {place.key for place in plan.places}
    first = {place.role: place.first for place in reversed(plan.places)}
    places = []
    for place in more.places:
        at = first.setdefault(place.role, place.point)
        named = replace(place, first=at, confirms=confirms and place.role == "student")
        if named.key not in known:
            places.append(named)
    return replace(plan, places=(*plan.places, *places)) if places else plan


def students_of(file: SweepFile, plan: Plan) -> list[tuple[str, ...]]:
    """Of each point of a file its students, by seed. `plan` is of that file."""
    students: dict[Hashable, list[str]] = {}
    for place in plan.places:
        if place.role == "student":
            students.setdefault(place.condition, []).append(place.id)
    found = []
    for point in file.points:
        found.append(tuple(students[Place.condition_of("student", point.led_by("student"), point.student_parameters)]))
    return found
