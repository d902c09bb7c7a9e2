"""Who is told what happens in a sweep: the screen and TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

from kdtune.planning.dispatch import Dispatch, Watcher
from kdtune.report.folder import View
from kdtune.report.tensorboard import Events
from kdtune.store.attempt import HISTORY
from kdtune.store.state import State


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

    def tick(self) -> None:
        for watcher in self.watchers:
            watcher.tick()

    def close(self) -> None:
        for watcher in self.watchers:
            watcher.close()


class TensorBoard:
    """The event files of a sweep's folder. They are rebuilt from the store at start and end, so that runs of other
    sweeps and of earlier commands appear too, once and whole; only histories that they do not hold are read."""

    def __init__(self, dispatch: Dispatch, view: View) -> None:
        self.dispatch = dispatch
        self.standing = dispatch.standing
        self.events = Events(view.local, dispatch.plan)
        self._rebuild()

    def started(self, id: str) -> None:
        self.events.append(id, [])  # it shows among TensorBoard's HParams before its first epoch

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        self.events.append(id, rows)

    def ended(self, id: str, state: State) -> None:
        self.events.finish(id, self.standing.measured(id), state)

    def tick(self) -> None:
        """Epochs are written as they come."""

    def close(self) -> None:
        self._rebuild()
        self.events.close()

    def _rebuild(self) -> None:
        ids = self.dispatch.plan.runs
        done = {id: self.standing.look(id).done for id in ids}
        digests = {id: each.files[HISTORY] for id, each in done.items() if each is not None and HISTORY in each.files}
        metrics = {id: self.standing.measured(id) for id in ids}
        self.events.rebuild(self.standing.histories, digests, metrics, self.dispatch.states)
