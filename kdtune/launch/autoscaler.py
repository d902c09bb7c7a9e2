"""Which machines Ray's autoscaler would start: the node types of the file it was given. Nothing else in Ray knows them.

`ray up cluster.yaml` starts the head's monitor with `--autoscaling-config=FILE`, so the head is asked for that file.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml

ANSWER_S = 30.0  # to start a process on the head and read two files
FLAG = b"--autoscaling-config="

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeType:
    """What one machine of a type has, and how many of them there may be at a time."""

    resources: dict[str, float]
    most: int


@dataclass(frozen=True)
class Growth:
    """What an autoscaler may start: types by name, and the ceiling of all their machines together."""

    types: dict[str, NodeType]
    ceiling: int

    def most(self, kind: str) -> float:
        """How many GPUs, or cores, there are at most: the largest machines first, up to the ceiling."""
        total, left = 0.0, self.ceiling
        for each in sorted(self.types.values(), key=lambda each: -each.resources.get(kind, 0)):
            count = min(each.most, left)
            total, left = total + count * each.resources.get(kind, 0), left - count
        return total


NOTHING = Growth({}, 0)


def growth() -> Growth:
    """What the autoscaler may start: nothing where none runs, or none can be asked."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = next((node["NodeID"] for node in ray.nodes() if "node:__internal_head__" in node["Resources"]), None)
    if head is None:
        return NOTHING
    on_head = NodeAffinitySchedulingStrategy(head, soft=False)
    ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_head)(growth_of_monitor)
    try:
        told: Growth = ray.get(ask.remote(ray.get_runtime_context().gcs_address), timeout=ANSWER_S)
        return told
    except ray.exceptions.RayError as error:
        log.warning("the head does not say which machines it could start: %s", str(error).strip().splitlines()[0])
        return NOTHING


def growth_of_monitor(gcs_address: str) -> Growth:
    """On the head: what stands in the file of the monitor that serves this cluster."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended
            continue
        given = [word.removeprefix(FLAG).decode() for word in words if word.startswith(FLAG)]
        if given and f"--gcs-address={gcs_address}".encode() in words:
            return growth_in(Path(os.path.expanduser(given[0])).read_text())
    return NOTHING


def growth_in(text: str) -> Growth:
    """Of a cluster file the types that may be started at all."""
    file = yaml.safe_load(text)
    ceiling = int(file.get("max_workers", 0))
    types = {
        name: NodeType(
            {kind: float(amount) for kind, amount in each.get("resources", {}).items()},
            min(each.get("max_workers", ceiling), ceiling),
        )
        for name, each in file.get("available_node_types", {}).items()
    }
    return Growth({name: each for name, each in types.items() if each.most > 0}, ceiling)
