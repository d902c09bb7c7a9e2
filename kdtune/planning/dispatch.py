"""Which run of a plan may start next, and how each one stands. Pure code, shared by Ray's searcher and by `--here`.

States: new, partial, running, elsewhere (claimed by another sweep), done, diverged, failed, skipped, stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Protocol

from kdtune.planning.plan import Plan, PlannedRun
from kdtune.store.store import Store

STARTABLE = ("new", "partial")
ENDED = ("done", "diverged", "failed", "skipped", "stopped")
POLL_S = 1.0  # between two looks at runs that another sweep trains


class Watcher(Protocol):
    """Who is told what happens: the screen, TensorBoard."""

    def started(self, id: str) -> None: ...
    def rows(self, id: str, rows: list[dict[str, float]]) -> None: ...
    def ended(self, id: str, state: str) -> None: ...
    def tick(self) -> None: ...


class Dispatch:
    """Hands out runs as their teachers become ready, without a barrier between groups.

    A student starts when all teachers it chooses from are done; a diverged one is done and never chosen. If one failed,
    its students are skipped with the reason until the next command retries it.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self.reasons: dict[str, str] = {}  # why a run failed or was skipped, by id
        self._handed_out: set[str] = set()  # given away by `next`; they may still wait for a free machine
        self.states = states(plan, store)
        for id, state in self.states.items():
            if state == "failed":  # a new command tries again
                self.states[id] = "partial" if store.has_checkpoint(id) else "new"
        self._looked = 0.0

    def next(self) -> PlannedRun | None:
        """The first run, in the plan's order, that can start now. It is handed out once; `started` makes it running."""
        self._look_elsewhere()
        self._skip()
        for id, planned in self.plan.runs.items():
            if self.states[id] in STARTABLE and id not in self._handed_out and self._ready(planned):
                self._handed_out.add(id)
                return planned
        return None

    def started(self, id: str) -> None:
        """It has what it needs and trains."""
        self.states[id] = "running"

    def ended(self, id: str, error: str = "") -> str:
        """Learns from the store how a run ended. `error` is the traceback or message of what went wrong, if known."""
        state = _state(self.plan, self.store, id)
        if state in (*STARTABLE, "failed"):
            state = "failed"
            self.reasons[id] = error.strip() or "its process was lost before it could say why"
        self.states[id] = state
        self._handed_out.discard(id)
        self._skip()
        return state

    def stop(self) -> None:
        """No further run starts; what has not ended counts as stopped."""
        self.states = {id: state if state in ENDED else "stopped" for id, state in self.states.items()}

    @property
    def over(self) -> bool:
        return all(state in ENDED for state in self.states.values())

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(self.states.values()))

    def _ready(self, planned: PlannedRun) -> bool:
        return all(self.states[teacher] in ("done", "diverged") for teacher in planned.waits_for)

    def _skip(self) -> None:
        for id, planned in self.plan.runs.items():
            if self.states[id] not in STARTABLE or id in self._handed_out:
                continue
            failed = [teacher for teacher in planned.waits_for if self.states[teacher] in ("failed", "skipped")]
            if failed:
                self.states[id] = "skipped"
                self.reasons[id] = f"its teacher {failed[0]} failed"
            elif planned.waits_for and all(self.states[teacher] == "diverged" for teacher in planned.waits_for):
                self.states[id] = "skipped"
                self.reasons[id] = "all teachers it chooses from diverged"

    def _look_elsewhere(self) -> None:
        if time.monotonic() - self._looked < POLL_S:
            return
        self._looked = time.monotonic()
        for id, state in self.states.items():
            if state == "elsewhere":
                self.states[id] = _state(self.plan, self.store, id)


def states(plan: Plan, store: Store) -> dict[str, str]:
    """How every run of a plan stands in the store."""
    return {id: _state(plan, store, id) for id in plan.runs}


def _state(plan: Plan, store: Store, id: str) -> str:
    state = store.state(id)
    if state == "done" and missing(plan, store, id):
        return "elsewhere" if store.owner(id) else "partial"  # trained, but an evaluator is new
    return state


def missing(plan: Plan, store: Store, id: str) -> list[str]:
    """Hashes of the evaluators that have not measured this run."""
    return [hash for hash in plan.evaluators if store.evaluation(id, hash) is None]


def measured(plan: Plan, store: Store, id: str) -> dict[str, float | None]:
    """All that the plan's evaluators have measured of a run so far, by metric."""
    metrics: dict[str, float | None] = {}
    for hash in plan.evaluators:
        metrics |= store.evaluation(id, hash) or {}
    return metrics
