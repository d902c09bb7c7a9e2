"""Tune's side of a dispatch: the searcher that hands out runs, what Tune tells of its trials, and how it ends early."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.execution import tune_controller
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from kdtune.planning.dispatch import Dispatch, Watcher
from kdtune.planning.plan import PlannedRun

log = logging.getLogger(__name__)


def tune_cache() -> type | None:
    """Tune's cache of processes, a private class; None where this Tune has none that works as `patient_cache` needs."""
    own = getattr(tune_controller, "_ObjectCache", None)
    try:
        made = own(may_keep_one=True)  # type: ignore[misc]
        fits = isinstance(made._cached_objects, defaultdict) and made._cached_objects.default_factory is list
        fits = fits and isinstance(made._max_num_objects, Mapping) and isinstance(made._num_cached_objects, int)
        fits = fits and callable(made.cache_object) and callable(made.flush_cached_objects)
    except (AttributeError, TypeError):
        fits = False
    return own if fits else None


def patient_cache(own: type) -> type:
    """Tune's `own` cache, changed: it keeps the processes of finished runs while nothing waits for a place.

    Tune's own keeps a single one. Where a group of students waits for the last teacher, Tune would end all processes
    but one; the new ones start in seconds, and Tune gives their run to the one that is free before they are ready,
    again and again: short runs would then use one slot only, to the end. A process kept for one shape of resources goes
    as soon as another shape waits.
    """

    class PatientCache(own):  # type: ignore[misc]
        def cache_object(self, key: Any, obj: Any) -> bool:
            if any(self._max_num_objects.values()):
                return bool(super().cache_object(key, obj))
            self._cached_objects[key].append(obj)
            self._num_cached_objects += 1
            return True

        def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
            if force_all or any(self._max_num_objects.values()):
                yield from super().flush_cached_objects(force_all)

    return PatientCache


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Tune with a patient cache, for the time of a sweep. With another Tune than was tested: its own, and a warning."""
    own = tune_cache()
    if own is None:
        _warn_once(ray.__version__)
        yield
        return
    tune_controller._ObjectCache = patient_cache(own)
    try:
        yield
    finally:
        tune_controller._ObjectCache = own


@cache
def _warn_once(version: str) -> None:
    log.warning(
        "Ray %s keeps processes in another way than kdtune knows: short runs may wait for new ones; ray[tune] 2.60 does"
        " not have that",
        version,
    )


class NotKept:
    """Tune pickles what it is given into its folder, for a restore that never happens: none of ours is kept there."""

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
