"""Tune's side of a dispatch: the searcher that hands out runs, what Tune tells of its trials, and how it ends early."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ray.tune import Callback
from ray.tune.execution import tune_controller
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from kdtune.planning.dispatch import Dispatch, Watcher
from kdtune.planning.plan import PlannedRun


class PatientCache(tune_controller._ObjectCache):
    """Keeps the processes of finished runs while nothing waits for a place. Tune's own keeps a single one.

    Where a group of students waits for the last teacher, Tune would end all processes but one; the new ones start in
    seconds, and Tune gives their run to the one that is free before they are ready, again and again: short runs would
    then use one slot only, to the end. A process kept for one shape of resources goes as soon as another shape waits.
    """

    def cache_object(self, key: Any, obj: Any) -> bool:
        if any(self._max_num_objects.values()):
            return bool(super().cache_object(key, obj))
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        if force_all or any(self._max_num_objects.values()):
            yield from super().flush_cached_objects(force_all)


class NotKept:
    """Tune pickles what it is given into its folder, for a restore that never happens: nothing of us is kept there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlanSearcher(NotKept, Searcher):
    """Tune's side of a Dispatch: what to start next, and how it ended."""

    def __init__(
        self,
        dispatch: Dispatch,
        job: Callable[[PlannedRun], dict[str, Any]],
        watcher: Watcher,
        max_concurrent: int | None = None,
    ) -> None:
        super().__init__(metric="training_iteration", mode="max")  # Tune wants one; nothing is ranked here
        self.dispatch, self.job, self.watcher, self.max_concurrent = dispatch, job, watcher, max_concurrent
        self.running: dict[str, str] = {}  # run ids by trial id
        self.errors: dict[str, str] = {}  # what is known of an error, by run id

    def suggest(self, trial_id: str) -> Any:
        """A run to start, None to wait, FINISHED. Tune asks about once a second while it waits."""
        if self.max_concurrent is not None and len(self.running) >= self.max_concurrent:
            return None
        planned = self.dispatch.next()
        if planned is None:
            return Searcher.FINISHED if self.dispatch.over else None
        self.running[trial_id] = planned.id
        return self.job(planned)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        id = self.running.pop(trial_id, None)
        if id is not None:
            told = (result or {}).get("error") or self.errors.pop(id, "")
            self.watcher.ended(id, self.dispatch.ended(id, told))

    def save(self, checkpoint_path: str) -> None:
        """Tune wants a file here. Nothing reads it: the store is the only memory."""
        with open(checkpoint_path, "w") as file:
            json.dump({"note": "scratch, never read"}, file)

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("kdtune never restores a Tuner: run the same command again")


class Watching(NotKept, Callback):
    """Passes on what Tune hears from its trials."""

    def __init__(self, searcher: PlanSearcher) -> None:
        self.searcher = searcher

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.searcher.watcher.tick()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.dispatch.started(trial.config["id"])
        self.searcher.watcher.started(trial.config["id"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if rows := result.get("rows"):
            self.searcher.watcher.rows(result["id"], rows)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.errors[trial.config["id"]] = str(trial.get_error() or "")


class OnInterrupt(NotKept, Stopper):
    """Ends all trials once somebody asked for it."""

    def __init__(self, interrupted: Callable[[], bool]) -> None:
        self.interrupted = interrupted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.interrupted()
