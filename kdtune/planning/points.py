"""Further points of a file: a plan that has their runs too, and which run is whose."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

from kdtune.planning.place import Place
from kdtune.planning.plan import Plan
from kdtune.planning.watching import CannotGrow
from kdtune.search.space import Distribution
from kdtune.sweepfile.load import SweepFile
from kdtune.sweepfile.tree import SweepFileError
from kdtune.sweepfile.values import word


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


def restored(number: int, point: Mapping[str, Any], space: Mapping[str, Distribution], kept: str) -> dict[str, Any]:
    """A point as it lies at `kept`, with the file's own alternatives: the order of their keys may have a meaning."""
    if lacking := [axis for axis in space if axis not in point]:
        raise no_sweep(number, point, f"it has no {', '.join(lacking)}", kept)
    told = {axis: each.told(point[axis]) for axis, each in space.items()}
    return {axis: point[axis] if told[axis] is None else space[axis].value(told[axis]) for axis in space}


def no_sweep(number: int, point: Mapping[str, Any], why: SweepFileError | str, kept: str | None) -> CannotGrow:
    """What is said of a proposal that is no sweep: of one that was just drawn, or of one that lies at `kept`."""
    if isinstance(why, SweepFileError):  # whose values have no line, for they stand in no file
        why = "; ".join(f"{'.'.join(map(str, each.path))}: {each.message}" for each in why.problems)
    told = " ".join(f"{axis}={word(value)}" for axis, value in point.items())
    if kept is None:
        return CannotGrow(f"proposal {number} is no sweep, so that the search ends here: {told}: {why}")
    return CannotGrow(
        f"proposal {number} is kept in {kept}, and is no sweep for this kdtune: {told}: {why}. The kdtune that made it "
        f"goes on with it; or move that file away, and {number} is drawn anew, while later ones stay as they are"
    )
