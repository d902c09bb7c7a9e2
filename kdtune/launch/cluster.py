"""What must be so on a cluster before the first run of a sweep starts there, asked of its machines.

The head that a command runs on often has no core, no GPU and no data: what would fail is found where runs are trained.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from kdtune.launch import node
from kdtune.launch.node import Expected, Unfit
from kdtune.launch.resources import Resources, fits, machines, words
from kdtune.planning.place import Place
from kdtune.planning.plan import data_sets
from kdtune.store import bucket
from kdtune.training.provenance import TRAVELLED, origin

log = logging.getLogger(__name__)

WARN_AFTER_S = 30.0  # until it is said what is waited for: a process that loads torch answers within this
REMIND_S = 600.0

Preflight = Callable[[], Sequence[str]]  # what would fail, a sentence each


class NotReady(Exception):
    """Runs of this sweep would fail on this cluster; `problems` say why, a sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Cluster:
    """A running cluster, by its address, and what a sweep expects of it.

    `preflight` is done on a machine that trains. `sized` is told how many GPUs (of runs that ask for none: cores) the
    cluster has or can grow to.
    """

    address: str
    expected: Expected
    preflight: Preflight
    sized: Callable[[int], None]


def environment() -> dict[str, Any]:
    """Ray's runtime environment of a sweep: this very code travels, so that machines need its dependencies alone."""
    return {
        "py_modules": [str(Path(__file__).parents[1])],
        "excludes": ["__pycache__"],
        "env_vars": {
            TRAVELLED: json.dumps(origin()),
            **{name: os.environ[name] for name in bucket.ENVIRONMENT if name in os.environ},
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a look at a machine books no GPU, and asks torch for it
        },
    }


def ready(cluster: Cluster, asked: Resources, plan: Mapping[str, Place], stop: threading.Event) -> None:
    """Asks every machine that lives and could hold a run, and does the preflight on one that does: the first there is.

    An autoscaler starts a machine for that. Machines that come later are asked by their first run. Returns early once
    `stop` is set. Raises NotReady.
    """
    roles = {planned.role for planned in plan.values()}
    largest = asked.of("teacher" if "teacher" in roles else "student")
    data = [run.model_dump_json() for run in data_sets(plan)]
    able = [each for each in machines() if any(fits(asked.of(role), each["Resources"]) for role in roles)]
    gpus = asked.student.get("GPU", 0)
    problems = [problem for told in look_over(cluster.expected, data, able, gpus, stop).values() for problem in told]
    if not problems and not stop.is_set():
        task = ray.remote(num_cpus=largest["CPU"], num_gpus=largest.get("GPU", 0), max_calls=1, max_retries=1)(_first)
        first = task.remote(cluster.expected, data, largest.get("GPU", 0), cluster.preflight)
        problems = _answers({"a machine": first}, stop, words(largest))["a machine"]
    if problems:
        raise NotReady(list(dict.fromkeys(problems)))


def look_over(
    expected: Expected, data: Sequence[str], there: Sequence[Mapping[str, Any]], gpus: float, stop: threading.Event
) -> dict[str, list[str]]:
    """What is wrong with each of these machines, by name; CUDA is asked for where Ray counts a GPU and `gpus` are.

    One that goes away meanwhile, as spot machines do, is left out.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    tasks = {}
    for each in there:
        on_it = NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_calls=1, max_retries=1, scheduling_strategy=on_it)(node.check)
        tasks[_name(each)] = task.remote(expected, data, min(each["Resources"].get("GPU", 0), gpus))
    found = _answers(tasks, stop)
    stay = {_name(each) for each in machines()}
    return {machine: problems for machine, problems in found.items() if machine in stay}


def _name(machine: Mapping[str, Any]) -> str:
    return f"{machine['NodeManagerHostname']} ({machine['NodeManagerAddress']}, {machine['NodeID'][:6]})"


def _first(expected: Expected, data: Sequence[str], gpus: float, preflight: Preflight) -> Sequence[str]:
    """On a machine that trains. Raises Unfit."""
    node.check(expected, data, gpus)
    return preflight()


def _answers(tasks: Mapping[str, Any], stop: threading.Event, waits_for: str = "") -> dict[str, list[str]]:
    """What these tasks, by the machine they are on, find wrong. With `waits_for` the machine may have yet to start."""
    found: dict[str, list[str]] = {machine: [] for machine in tasks}
    left = {task: machine for machine, task in tasks.items()}
    began = said = time.monotonic()
    while left and not stop.is_set():
        done, _ = ray.wait([*left], timeout=1.0)
        for task in done:
            machine = left.pop(task)
            found[machine] += _problems(task, machine)
        now = time.monotonic()
        if left and now - said > (WARN_AFTER_S if said == began else REMIND_S):
            said = now
            which = f"a machine with {waits_for} free" if waits_for else f"an answer of {', '.join(left.values())}"
            log.warning("waiting for %s, for %.0f s so far", which, now - began)
    for task in left:
        ray.cancel(task, force=True)
    return found


def _problems(task: Any, machine: str) -> Sequence[str]:
    try:
        return ray.get(task) or []
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, Unfit):
            return [str(cause)]
        return [f"machine {machine}: {type(cause).__name__}: {' '.join(str(cause).split())}"]
    except ray.exceptions.RayError as error:  # it went away, or its Ray cannot start a process
        return [f"machine {machine} does not answer: {' '.join(str(error).split())}"]
