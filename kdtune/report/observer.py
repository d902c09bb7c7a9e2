"""Who is told what happens in a sweep: the screen and TensorBoard."""

from __future__ import annotations

from kdtune.planning.dispatch import Dispatch, measured
from kdtune.planning.plan import Plan
from kdtune.report.folder import View
from kdtune.report.progress import Progress
from kdtune.report.tensorboard import Events


class Observer:
    """Passes on what the driver hears of its runs. TensorBoard is rebuilt from the store's histories at start and end,
    so that runs of other sweeps and of earlier commands appear too, once and whole."""

    def __init__(self, plan: Plan, dispatch: Dispatch, view: View, verbosity: int) -> None:
        self.plan = plan
        self.dispatch = dispatch
        self.store = dispatch.store
        self.events = Events(view.local, plan)
        self.progress = Progress(plan, dispatch, verbosity=verbosity)
        self._rebuild()

    def started(self, id: str) -> None:
        self.events.append(id, [])  # it shows among TensorBoard's HParams before its first epoch
        self.progress.started(id)

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        self.events.append(id, rows)
        recipe = self.plan.runs[id].run.recipe
        if rows and recipe is not None:
            self.progress.epoch(id, int(rows[-1]["epoch"]), recipe.epochs)

    def ended(self, id: str, state: str) -> None:
        metrics = measured(self.plan, self.store, id)
        if state == "failed":
            self.progress.failed(id, self.dispatch.reasons.get(id, ""))
        else:
            self.progress.ended(id, state, metrics)
        self.events.finish(id, metrics, state)

    def tick(self) -> None:
        self.progress.tick()

    def close(self) -> None:
        self.progress.close()
        self._rebuild()
        self.events.close()

    def _rebuild(self) -> None:
        histories = {id: self.store.history(id) for id in self.plan.runs}
        metrics = {id: measured(self.plan, self.store, id) for id in self.plan.runs}
        self.events.rebuild(histories, metrics, self.dispatch.states)
