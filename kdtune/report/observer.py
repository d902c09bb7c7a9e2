"""Who is told what happens in a sweep: the screen, the table and TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan
from kdtune.planning.watching import Watcher
from kdtune.report.curve import NAME, Curve
from kdtune.report.folder import View
from kdtune.report.tensorboard import Events
from kdtune.store.evaluations import Metrics
from kdtune.store.layout import HISTORY
from kdtune.store.objects import StorageError
from kdtune.store.state import State

EVERY_S = 60.0  # between two tables
SHARE = 50  # so many times as long as one takes: of thousands of runs it takes seconds


class Observer:
    """Passes on what the driver hears of its runs."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def started(self, id: str) -> None:
        for watcher in self.watchers:
            watcher.started(id)

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        for watcher in self.watchers:
            watcher.rows(id, rows)

    def ended(self, id: str, state: State) -> None:
        for watcher in self.watchers:
            watcher.ended(id, state)

    def grown(self, plan: Plan, new: Sequence[str]) -> None:
        for watcher in self.watchers:
            watcher.grown(plan, new)

    def tick(self) -> None:
        for watcher in self.watchers:
            watcher.tick()

    def close(self) -> None:
        for watcher in self.watchers:
            watcher.close()


class Table:
    """The sweep's table while it runs: whoever looks finds what was finished a minute ago, also where the driver was
    killed. `write` takes how its runs stand."""

    def __init__(self, dispatch: Dispatch, write: Callable[[Mapping[str, State]], object]) -> None:
        self.dispatch, self.write = dispatch, write
        self._new, self._next = False, time.monotonic() + EVERY_S

    def started(self, id: str) -> None:
        """It has nothing yet."""

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        """Epochs are TensorBoard's."""

    def ended(self, id: str, state: State) -> None:
        self._new = True

    def grown(self, plan: Plan, new: Sequence[str]) -> None:
        """The next table has it."""
        self._new = True

    def tick(self) -> None:
        began = time.monotonic()
        if not self._new or began < self._next:
            return
        with suppress(StorageError):  # the runs' own matter; it is written at the end
            self.write(self.dispatch.states)
        self._new, now = False, time.monotonic()
        self._next = now + max(EVERY_S, (now - began) * SHARE)

    def close(self) -> None:
        """The command writes the last one."""


class TensorBoard:
    """The event files of a sweep's folder. They are rebuilt from the store at start and end, so that runs of other
    sweeps and of earlier commands appear too, once and whole; only histories that they do not hold are read."""

    def __init__(self, dispatch: Dispatch, view: View) -> None:
        self.dispatch, self.view = dispatch, view
        self.standing = dispatch.standing
        self.late = tuple(view.late)
        self.shown = [metric.name for metric in view.headlines]
        self.curve = Curve(view.local, view.search) if view.search is not None else None
        self.events = Events(view.local, view.plan, (NAME,) if view.search is not None else ())
        self._may_change = not dispatch.over
        self._rebuild()

    def started(self, id: str) -> None:
        self.events.append(id, [])  # it shows among TensorBoard's HParams before its first epoch

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        self.events.append(id, rows)

    def ended(self, id: str, state: State) -> None:
        self.events.finish(id, self._headlines(id), State.PARTIAL if self._cut_short(id, state) else state)

    def _cut_short(self, id: str, state: State) -> bool:
        """Stopped with the command, which goes on with it when it is given again; not by hand."""
        return state is State.STOPPED and id not in self.dispatch.by_hand

    def _headlines(self, id: str) -> Metrics:
        """Final metrics that stand for a run. TensorBoard draws each as a card with a dot beside the curves, and its
        HParams tab can read none that is not drawn; dozens of dots would hide the curves. The table has them all."""
        measured = self.standing.measured(id, self.late)
        return {name: measured[name] for name in self.shown if name in measured}

    def grown(self, plan: Plan, new: Sequence[str]) -> None:
        self.events.grow(plan)
        if self.curve is not None:
            self.curve.tick()

    def tick(self) -> None:
        """Epochs are written as they come."""
        if self.curve is not None:
            self.curve.tick()

    def close(self) -> None:
        if self.curve is not None:
            self.curve.tick()
        if self._may_change:
            self._rebuild()
        self.events.close()
        self.view.upload()

    def _rebuild(self) -> None:
        ids = self.view.plan.runs
        done = {id: self.standing.look(id).done for id in ids}
        digests = {id: each.files[HISTORY] for id, each in done.items() if each is not None and HISTORY in each.files}
        metrics = {id: self._headlines(id) for id in ids}
        states = self.dispatch.states
        cut = {id: State.PARTIAL for id, state in states.items() if self._cut_short(id, state)}
        self.events.rebuild(self.standing.histories, digests, metrics, self.view.whole({**states, **cut}))
