"""What TensorBoard calls the runs of a plan, and the hyperparameters it shows of them.

A *session* is what its HParams tab calls a row: a run at one of its places.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from kdtune.planning.place import Place
from kdtune.planning.plan import Plan
from kdtune.report.table import flat

AGAIN = "+"  # between a run's id and the number of a further place of it, from 2
LONGEST = 100  # characters of a folder's name: file systems and TensorBoard's list of runs


def sessions(plan: Plan) -> dict[str, Place]:
    """What is shown of a plan, by key: runs by their ids, and every further place of a run by `<id>+2`, `<id>+3`."""
    found = dict(plan.runs)
    places = Counter(plan.runs.keys())
    for place in plan.places:
        if place is not plan.runs[place.id]:
            places[place.id] += 1
            found[f"{place.id}{AGAIN}{places[place.id]}"] = place
    return found


def names(plan: Plan) -> dict[str, str]:
    """A folder name of each session by its key."""
    return safe_names({key: place.name for key, place in sessions(plan).items()})


def settings(plan: Plan) -> dict[str, list[str]]:
    """The runs of each condition, which differ in their seeds alone, by a folder name; none where no condition has
    several: a mean of one run is that run."""
    found: dict[Any, dict[str, Place]] = {}
    for key, place in sessions(plan).items():
        found.setdefault(place.condition, {})[key] = place
    if all(len(places) == 1 for places in found.values()):
        return {}
    first = {next(iter(places)): places for places in found.values()}
    called = safe_names({key: places[key].label for key, places in first.items()})
    return {called[key]: [place.id for place in places.values()] for key, places in first.items()}


def safe_names(texts: Mapping[str, str]) -> dict[str, str]:
    """Readable names, safe on any file system, by the same keys; where two would share one, their keys are appended."""
    safe = {key: re.sub(r"[^A-Za-z0-9_.,=+ -]", "_", text).strip(" .") for key, text in texts.items()}
    cut = {key: name[: LONGEST - 20].rstrip(" .") if len(name) > LONGEST else name for key, name in safe.items()}
    used = Counter(name.casefold() for name in cut.values())
    own = {key for key in safe if used[cut[key].casefold()] == 1 and cut[key] == safe[key]}
    return {key: cut[key] if key in own else f"{cut[key]} {key}" for key in safe}


def parameters(plan: Plan) -> dict[str, dict[str, Any]]:
    """The hyperparameters by key: bool, float or text, and one of them for each name throughout the plan."""
    raw = {
        key: {name: _plain(value) for name, value in _of(place).items() if value is not None}
        for key, place in sessions(plan).items()
    }
    kinds: dict[str, set[type]] = {}
    for values in raw.values():
        for name, value in values.items():
            kinds.setdefault(name, set()).add(type(value))
    return {
        id: {name: value if len(kinds[name]) == 1 else str(value) for name, value in values.items()}
        for id, values in raw.items()
    }


def _of(place: Place) -> dict[str, Any]:
    run = place.run
    fixed = {"dataset": run.dataset.heading, "model": run.model.title, "role": place.role, "seed": run.seed}
    teacher = {f"teacher.{axis}": value for axis, value in place.teacher_parameters.items()}
    return fixed | place.parameters | teacher | flat({"noise": run.description.get("noise") or None})


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, bool | str):
        return value
    return float(value) if isinstance(value, int | float) else json.dumps(value, default=str)
