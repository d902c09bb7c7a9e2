"""How many runs share a GPU, by measuring it on one: `--gpus-per-run auto`. Half a minute for each role.

Only ways that leave every bit of a run as it is are looked at: processes side by side, as Ray starts them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, replace
from typing import TYPE_CHECKING

import ray

from kdtune.extensions import in_use
from kdtune.launch.resources import Resources
from kdtune.planning.sizes import model_cost
from kdtune.training.together import NotRehearsed, Part, Together, together

if TYPE_CHECKING:
    from kdtune.planning.place import Place

log = logging.getLogger(__name__)

MOST = 8  # runs on a GPU
LONGEST_S = 300.0  # for a role, once there is a GPU; more is a process that hangs
POLL_S = 0.5


def packed(
    asked: Resources, untrained: Collection[Place], plan: Mapping[str, Place], stop: threading.Event
) -> Resources:
    """What runs ask for, with the share of a GPU that gets most done; where that cannot be measured, which is said, as
    it was asked. `plan` also holds the teachers that the `untrained` learn from. A machine with a GPU is waited for."""
    if not any("GPU" in asked.of(role) for role in ("teacher", "student")):
        log.warning("--gpus-per-run auto has nothing to choose: runs train on CPU cores")
    for role in ("teacher", "student"):
        of_role = [each for each in untrained if (each.role == "teacher") == (role == "teacher")]
        if not asked.of(role).get("GPU") or (place := heaviest(of_role)) is None:
            continue
        log.warning("trying out how many runs like %s share a GPU best, for half a minute", place.name)
        found = measured(part_of(place, plan, "cuda"), {"CPU": 1, "GPU": 1}, stop)
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
    """Of a pool of teachers the first stands for whichever it will be."""
    teacher = plan[place.run.teacher.runs[0]].run.model_dump_json() if place.run.teacher else None
    return Part(place.run.model_dump_json(), teacher, device, [astuple(each) for each in in_use()])


def measured(part: Part, booked: Mapping[str, float], stop: threading.Event) -> Together | None:
    """What a task of Ray's finds out on the device that it books; None where nothing came of it."""
    task = ray.remote(num_cpus=booked["CPU"], num_gpus=booked.get("GPU", 0), max_calls=1, max_retries=0)(_tried)
    asked, began = task.remote(part), time.monotonic()
    while not ray.wait([asked], timeout=POLL_S)[0]:
        if stop.is_set() or time.monotonic() - began > LONGEST_S:
            ray.cancel(asked, force=True)
            break
    try:
        return ray.get(asked)  # type: ignore[no-any-return]
    except (ray.exceptions.RayError, NotRehearsed) as error:
        if not stop.is_set():
            why = " ".join(str(getattr(error, "cause", None) or error).split())
            log.warning("it cannot be tried out (%s): runs share a GPU as they do without --gpus-per-run auto", why)
        return None


def _tried(part: Part) -> Together:
    """On the machine that trains; each run will need a core of it."""
    here = ray.get_runtime_context().get_node_id()
    (machine,) = (each["Resources"] for each in ray.nodes() if each["NodeID"] == here)
    return together(part, most=max(1, min(MOST, int(machine["CPU"] // (machine.get("GPU") or 1)))))
