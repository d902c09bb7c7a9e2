"""How many runs share a GPU, by measuring it on one: `--gpus-per-run auto`. Half a minute for each role.

Only ways that leave every bit of a run as it is are looked at: processes side by side, as Ray starts them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple, replace
from typing import TYPE_CHECKING

import ray

from kdtune.extensions import in_use
from kdtune.launch.resources import Resources, words
from kdtune.planning.setbacks import said
from kdtune.planning.sizes import model_cost
from kdtune.store.state import PASSED_OVER
from kdtune.training.together import Part, Together, together

if TYPE_CHECKING:
    from kdtune.planning.dispatch import Dispatch
    from kdtune.planning.place import Place

log = logging.getLogger(__name__)

MOST = 8  # runs on a GPU
POLL_S = 0.5
REMIND_S = 60.0  # a GPU may be busy, or yet to start


def packed(asked: Resources, dispatch: Dispatch, at_once: int | None, stop: threading.Event) -> Resources:
    """What runs ask for, with the share of a GPU that gets most done; where that cannot be measured, which is said, as
    it was asked. `at_once`: so many runs are out at most, if that is said. A machine with a GPU is waited for."""
    if not any("GPU" in asked.of(role) for role in ("teacher", "student")):
        log.warning("--gpus-per-run auto has nothing to choose: runs train on CPU cores")
        return asked
    plan = dispatch.plan if dispatch.source is None else dispatch.source.foreseen()
    left = [place for id, place in plan.runs.items() if dispatch.states.get(id) not in PASSED_OVER]
    untrained = [place for place in left if dispatch.standing.look(place.id).done is None]
    for role in ("teacher", "student"):
        of_role = [each for each in untrained if (each.role == "teacher") == (role == "teacher")]
        place, most = heaviest(of_role), min(MOST, at_once or MOST, len(of_role))
        if place is None or most < 2 or "GPU" not in asked.of(role) or stop.is_set():
            continue
        log.warning("trying out how many runs like %s share a GPU best, for half a minute", place.name)
        found = measured(part_of(place, plan.runs, "cuda"), most, {"CPU": 1, "GPU": 1}, stop)
        if found is not None:
            log.warning("%s: %s: %d at a time on a GPU", place.name, found, found.count)
            asked = replace(asked, **{role: {**asked.of(role), "GPU": 1 / found.count}})
    return asked


def heaviest(places: Iterable[Place]) -> Place | None:
    """The one whose step takes most memory, about; None where none trains."""

    def step(place: Place) -> int:
        run = place.run
        images = run.recipe.batch_size if run.recipe is not None else 0
        return images * model_cost(run.model, run.dataset.shape(), run.dataset.classes())[1]

    return max((place for place in places if place.run.recipe is not None), key=step, default=None)


def part_of(place: Place, plan: Mapping[str, Place], device: str) -> Part:
    """Of a pool that one teacher is chosen from, the first stands for whichever it will be."""
    choice = place.run.teacher
    asked = () if choice is None else choice.runs if choice.rule == "average" else choice.runs[:1]
    teachers = [plan[id].run.model_dump_json() for id in asked]
    return Part(place.run.model_dump_json(), teachers, device, [astuple(each) for each in in_use()])


def measured(part: Part, most: int, booked: Mapping[str, float], stop: threading.Event) -> Together | None:
    """What a task of Ray's finds out on the device that it books; None where nothing came of it."""
    task = ray.remote(num_cpus=booked["CPU"], num_gpus=booked.get("GPU", 0), max_calls=1, max_retries=0)(_tried)
    asked, began = task.remote(part, most), time.monotonic()
    reminded = began
    while not ray.wait([asked], timeout=POLL_S)[0]:
        now = time.monotonic()
        if stop.is_set():
            ray.cancel(asked, force=True)
            return None
        if now - reminded > REMIND_S:
            reminded = now
            log.warning(
                "waiting for %s to try it out on, or for what is found there, for %.0f s", words(booked), now - began
            )
    try:
        return ray.get(asked)  # type: ignore[no-any-return]
    except ray.exceptions.RayError as error:
        told = said(str(getattr(error, "cause", None) or error))
        log.warning("it cannot be tried out (%s): runs share a GPU as they do without --gpus-per-run auto", told)
        return None


def _tried(part: Part, most: int) -> Together:
    """On the machine that trains; each run will need a core of it."""
    here = ray.get_runtime_context().get_node_id()
    (machine,) = (each["Resources"] for each in ray.nodes() if each["NodeID"] == here)
    return together(part, max(1, min(most, int(machine["CPU"] // (machine.get("GPU") or 1)))))
