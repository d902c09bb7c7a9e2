"""How many decisions a second a dispatch makes: `python benchmarks/dispatch.py [RUNS ...]`.

A decision is a run handed out, or a run that ended. Each point of the plan has three teachers and seven students that
choose from them. How runs stand lies in memory, so that the dispatch alone is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from kdtune.planning.dispatch import Dispatch
from kdtune.store.state import State

SIZES = (1_000, 2_500, 10_000)
TEACHERS, STUDENTS = 3, 7  # of a point


@dataclass(frozen=True)
class Planned:
    """A run as far as a dispatch looks at it."""

    id: str
    waits_for: tuple[str, ...] = ()

    @property
    def chooses_from(self) -> dict[str, tuple[str, ...]]:
        return {"teacher": self.waits_for} if self.waits_for else {}


class InMemory:
    """How runs stand: new until they end well."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    def states(self, ids: Iterable[str]) -> dict[str, State]:
        return {id: self.state(id) for id in ids}

    def state(self, id: str) -> State:
        return State.DONE if id in self.done else State.NEW

    def refresh(self, *ids: str) -> None:
        """What is in memory is fresh."""

    def look(self, id: str) -> SimpleNamespace:
        return SimpleNamespace(untried=State.NEW)


def plan_of(runs: int) -> SimpleNamespace:
    """All teachers first, so that students of all points wait."""
    points = runs // (TEACHERS + STUDENTS)
    teachers = [[f"{point:06x}{seed:06x}" for seed in range(TEACHERS)] for point in range(points)]
    planned = [Planned(id) for pool in teachers for id in pool]
    planned += [
        Planned(f"{point:06x}{TEACHERS + seed:06x}", tuple(teachers[point]))
        for point in range(points)
        for seed in range(STUDENTS)
    ]
    return SimpleNamespace(runs={each.id: each for each in planned}, evaluators={})


def decide_all(plan: Any, at_a_time: int = 8) -> tuple[int, float]:
    """Decisions until the whole plan is done, and the seconds that they took."""
    standing: Any = InMemory()
    dispatch, decisions, running = Dispatch(plan, standing), 0, []
    began = time.perf_counter()
    while not dispatch.over:
        while len(running) < at_a_time and (planned := dispatch.next()) is not None:
            dispatch.started(planned.id)
            running.append(planned.id)
            decisions += 1
        id = running.pop(0)
        standing.done.add(id)
        dispatch.ended(id)
        decisions += 1
    return decisions, time.perf_counter() - began


if __name__ == "__main__":
    for size in [int(text) for text in sys.argv[1:]] or SIZES:
        count, seconds = decide_all(plan_of(size))
        print(f"{size:6,} runs: {count / seconds:9,.0f} decisions a second")
