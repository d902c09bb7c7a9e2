"""Whether what a plan will write finds room where it shall lie. Arithmetic, like `cost`, without torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from kdtune.planning.cost import checkpoint_bytes
from kdtune.planning.plan import Plan
from kdtune.planning.responses import listening
from kdtune.planning.sizes import images, model_cost
from kdtune.store.checkpoints import KEPT
from kdtune.store.standing import Standing
from kdtune.store.state import PASSED_OVER, State

FLOAT = 4  # bytes


def shortage(plan: Plan, states: Mapping[str, State], standing: Standing, at_once: int) -> str | None:
    """Why the disk is too small for what is left of a plan, `at_once` runs of it at a time; None where it is not.

    A run holds one checkpoint more than it keeps while it writes. An object store is never full.
    """
    if (root := standing.store.objects.local) is None:
        return None
    left = [id for id, state in states.items() if state not in PASSED_OVER]
    untrained = [id for id in left if standing.look(id).done is None]
    sizes = sorted((checkpoint_bytes(plan.runs[id].run) // KEPT * (KEPT + 1) for id in untrained), reverse=True)
    stored = sum(each.size for each in listening(plan, untrained) if each.stored)
    stays = sum(_weights(plan, id) for id in untrained) + sum(_answers(plan, id) for id in left) + stored
    needed, free = sum(sizes[:at_once]) + stays, shutil.disk_usage(_existing(root)).free
    if not left or needed <= free:
        return None
    fewer = [count for count in range(1, min(at_once, len(sizes))) if sum(sizes[:count]) + stays <= free]
    lower = f"take fewer runs at a time, --max-concurrent {fewer[-1]}, or " if fewer else ""
    return (
        f"{root}: about {_mb(needed)} are needed, {_mb(sum(sizes[:at_once]))} of it for checkpoints (runs at a time: "
        f"{min(at_once, len(sizes))}), and {_mb(free)} are free; {lower}name another place, --results DIR"
    )


def _weights(plan: Plan, id: str) -> int:
    run = plan.runs[id].run
    return FLOAT * model_cost(run.model, run.dataset.shape(), run.dataset.classes())[0]


def _answers(plan: Plan, id: str) -> int:
    """Every softmax value of every test image, the largest part of what is measured."""
    seen = images(plan.runs[id].run.dataset)
    return FLOAT * seen.test * seen.classes


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
