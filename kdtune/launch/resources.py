"""What a run asks of a machine, and whether there is, or could be, one that has it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from kdtune.launch.autoscaler import Growth
from kdtune.planning import profiles
from kdtune.planning.devices import AUTO, SHARE, GpusPerRun


class CannotHold(Exception):
    """No machine of the cluster can ever hold a run of this plan; the message says what was asked for."""


@dataclass(frozen=True)
class Resources:
    """What one run asks for. A student may share a GPU: fractions are bookkeeping, its memory is not divided."""

    teacher: dict[str, float]
    student: dict[str, float]

    def of(self, role: str) -> dict[str, float]:
        return self.teacher if role == "teacher" else self.student


def choose(profile: str, gpus_per_run: GpusPerRun, *, on_cluster: bool) -> Resources:
    """A core a run, and a GPU for a teacher and a quarter of one for a student, or for both what was asked for. AUTO
    begins as if nothing had been: `packing` measures what it becomes.

    On a cluster GPUs are asked for by what the profile trains, not by what lives: an autoscaler starts a GPU machine
    for a run that asks for one. On a machine of its own a run gets a GPU if there is one.
    """
    if gpus_per_run is not None and gpus_per_run != AUTO:
        teacher = student = gpus_per_run
    elif profiles.wants_gpu(profile) if on_cluster else ray.cluster_resources().get("GPU", 0) > 0:
        teacher, student = 1.0, SHARE
    else:
        teacher = student = 0.0
    return Resources(_of(teacher), _of(student))


def _of(gpus: float) -> dict[str, float]:
    return {"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}


def machines() -> list[dict[str, Any]]:
    """What lives, as Ray tells of it."""
    return [each for each in ray.nodes() if each["Alive"]]


def check(resources: Resources, roles: Collection[str], growth: Growth) -> None:
    """Raises CannotHold where no machine could ever hold a run, so that nothing waits for ever."""
    there = [each["Resources"] for each in machines()]
    possible = {name: type.resources for name, type in growth.types.items()}
    for role in sorted(roles):
        if not any(fits(resources.of(role), machine) for machine in (*there, *possible.values())):
            raise CannotHold(_sentence(role, resources.of(role), there, possible))


def devices(resources: Resources, growth: Growth) -> int:
    """How many GPUs, or of runs that ask for none how many cores, the cluster has or would be grown to."""
    kind = "GPU" if "GPU" in resources.student else "CPU"
    there = sum(each["Resources"].get(kind, 0) for each in machines())
    return max(1, int(max(there, growth.most(kind))))


def fits(asked: Mapping[str, float], machine: Mapping[str, float]) -> bool:
    """Whether this machine could ever hold a run that asks for so much."""
    return all(machine.get(name, 0) >= amount for name, amount in asked.items())


def _sentence(
    role: str,
    asked: Mapping[str, float],
    there: Collection[Mapping[str, float]],
    possible: Mapping[str, Mapping[str, float]],
) -> str:
    largest = {name: max((node.get(name, 0) for node in there), default=0) for name in asked}
    types = "; ".join(f"{name}: {words({kind: of.get(kind, 0) for kind in asked})}" for name, of in possible.items())
    started = f", nor has any that the autoscaler would start ({types})" if types else ""
    without = ", 0 for none" if "GPU" in asked else ""
    return (
        f"a {role} asks for {words(asked)}, but no machine has more than {words(largest)}{started}; "
        f"lower --gpus-per-run{without}, or give --address of a cluster that has them"
    )


def words(resources: Mapping[str, float]) -> str:
    """`1 CPU, 0.25 GPU`"""
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
