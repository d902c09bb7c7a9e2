"""Tune's side of a dispatch: the searcher that hands out runs, what Tune tells of its trials, and how it ends early."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.execution import tune_controller
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from kdtune.launch.causes import cause_of, in_words, suspect
from kdtune.launch.heartbeats import Heartbeats
from kdtune.launch.watchdog import Stuck
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.place import Place
from kdtune.planning.setbacks import NOT_VISIBLE, Cause
from kdtune.planning.watching import Watcher
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.state import FINISHED, STARTABLE, State

log = logging.getLogger(__name__)


def tune_cache() -> type | None:
    """Tune's cache of processes, a private class; None where this Tune has none that works as `keeping_cache` needs."""
    own = getattr(tune_controller, "_ObjectCache", None)
    try:
        made = own(may_keep_one=True)  # type: ignore[misc]
        fits = isinstance(made._cached_objects, defaultdict) and made._cached_objects.default_factory is list
        fits = fits and isinstance(made._max_num_objects, Mapping) and isinstance(made._num_cached_objects, int)
        fits = fits and callable(made.cache_object) and callable(made.flush_cached_objects)
    except (AttributeError, TypeError):
        fits = False
    return own if fits else None


def keeping_cache(own: type) -> type:
    """Tune's `own` cache, changed: it keeps the processes of finished runs while nothing waits for a place.

    Tune's own keeps a single one. Where a group of students waits for the last teacher, Tune would end all processes
    but one; the new ones start in seconds, and Tune gives their run to the one that is free before they are ready,
    again and again: short runs would then use one slot only, to the end. A process kept for one shape of resources goes
    as soon as another shape waits.
    """

    class KeepingCache(own):  # type: ignore[misc]
        def cache_object(self, key: Any, obj: Any) -> bool:
            if any(self._max_num_objects.values()):
                return bool(super().cache_object(key, obj))
            self._cached_objects[key].append(obj)
            self._num_cached_objects += 1
            return True

        def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
            if force_all or any(self._max_num_objects.values()):
                yield from super().flush_cached_objects(force_all)

    return KeepingCache


@contextlib.contextmanager
def keeping_processes() -> Iterator[None]:
    """Tune with such a cache, for the time of a sweep. With another Tune than was tested: its own, and a warning."""
    own = tune_cache()
    if own is None:
        _warn_once(ray.__version__)
        yield
        return
    tune_controller._ObjectCache = keeping_cache(own)
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
        job: Callable[[Place], dict[str, Any]],
        watcher: Watcher,
        max_concurrent: int | None = None,
        by: str = "",
    ) -> None:
        super().__init__(metric="training_iteration", mode="max")  # Tune wants one; nothing is ranked here
        self.dispatch, self.job, self.watcher, self.max_concurrent = dispatch, job, watcher, max_concurrent
        self.by = by  # whom runs are claimed for, see `store.claims`
        self.running: dict[str, str] = {}  # run ids by trial id
        self.short_of_memory = False  # no process of this Tuner should live on

    def suggest(self, trial_id: str) -> Any:
        """A run to start, None to wait, FINISHED. Tune asks about once a second while it waits."""
        if self.max_concurrent is not None and len(self.running) >= self.max_concurrent:
            return None
        planned = self.dispatch.next()
        if planned is None:
            return Searcher.FINISHED if self.dispatch.over else None
        with self._storage():
            doubtful = suspect(self.dispatch.standing.look(planned.id).failure)
            captured = not (doubtful or self.dispatch.setbacks.keeps_being_lost(planned.id))
            self.running[trial_id] = planned.id
            return {**self.job(planned), "captured": captured}
        return None  # the storage has gone, and the dispatch is over

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        id = self.running.pop(trial_id, None)
        if id is None or error:  # of an error Tune tells more elsewhere, at once: see `failed`
            return
        if reason := (result or {}).get("unfit"):
            self._ended(id, reason, Cause.UNFIT)
        elif reason := (result or {}).get("storage"):
            self._ended(id, reason, Cause.STORAGE)
        else:
            with self._storage():
                self._ended(id, told(result or {}, self.dispatch.standing, id), Cause.ITSELF)

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        """A storage that has gone ends the dispatch; Tune would make an exception of its own of it."""
        try:
            yield
        except StorageError as lost:
            self.dispatch.without_storage(lost)

    def failed(self, id: str, text: str) -> None:
        """A trial failed; `text` is what Ray says of it. The run's process may have told the store more."""
        with self._storage():
            self._failed(id, text)

    def _failed(self, id: str, text: str) -> None:
        cause = cause_of(text)
        if cause is Cause.MEMORY:
            self.short_of_memory = True
            return
        standing = self.dispatch.standing
        if cause in (Cause.LOST, Cause.PREEMPTED):
            # Ray has seen its process end. On a lost machine nobody can, and the claim would look alive for 90 s.
            standing.store.claims.evict(id, self.by)
        standing.refresh(id)
        told = standing.look(id).failure or {}
        if cause is Cause.LOST and told.get("type") == Stuck.__qualname__:
            self._ended(id, f"{Cause.STUCK}: {told['message']}", Cause.STUCK)
        else:
            self._ended(id, in_words(text), cause)

    def _ended(self, id: str, told: str, cause: Cause) -> None:
        state = self.dispatch.ended(id, told, cause)
        again = cause is not Cause.ITSELF and state in {*STARTABLE, State.ELSEWHERE}
        if again:
            name, times = self.dispatch.plan.runs[id].name, self.dispatch.setbacks.times(id, cause)
            log.warning("%s is tried again (%s) from its last checkpoint. %s", name, times, told)
        # A process that Ray saw end a moment ago may still be on its way out: its claim looks like another command's.
        if not again or state is State.ELSEWHERE:
            self.watcher.ended(id, state)

    def save(self, checkpoint_path: str) -> None:
        """Tune wants a file here. Nothing reads it: the store is the only memory."""
        with open(checkpoint_path, "w") as file:
            json.dump({"note": "scratch, never read"}, file)

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("kdtune never restores a Tuner: run the same command again")


def told(result: Mapping[str, Any], standing: Standing, id: str) -> str:
    """What went wrong by a trial's last report. Of a run that is finished nothing has, if it is seen here too."""
    if result.get("error") or State(result.get("ended", State.NEW)) not in FINISHED:
        return str(result.get("error") or "")
    standing.refresh(id)
    if standing.look(id).done is not None:
        return ""
    where = f"{result['ended']} on {result.get('host')}, {NOT_VISIBLE} ({standing.store.objects.path('runs')})"
    return f"{where}: is --results a place that all machines share?"


class Watching(NotKept, Callback):
    """Passes on what Tune hears from its trials, and listens to those that Tune hears nothing of."""

    def __init__(self, searcher: PlanSearcher) -> None:
        self.searcher = searcher
        self.heartbeats = Heartbeats(searcher.dispatch.standing.store)
        self.heard: set[str] = set()  # runs that have told of an epoch

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.searcher.watcher.tick()
        running = {
            id: trial
            for trial in trials
            if (id := self.searcher.running.get(trial.trial_id)) and self.searcher.dispatch.states[id] == State.RUNNING
        }
        for id, claim in self.heartbeats.frozen(running, self.heard).items():
            self.heartbeats.bury(id, claim)
            if (actor := running[id].temporary_state.ray_actor) is not None:
                ray.kill(actor)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.dispatch.started(trial.config["id"])
        self.searcher.watcher.started(trial.config["id"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if rows := result.get("rows"):
            self.heard.add(result["id"])
            self.searcher.watcher.rows(result["id"], rows)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Comes after the searcher's `on_trial_complete`, which is told nothing of the error."""
        self.searcher.failed(trial.config["id"], Path(trial.error_file).read_text() if trial.error_file else "")


class Ending(NotKept, Stopper):
    """Ends all trials once there is a reason to."""

    def __init__(self, reason: Callable[[], bool]) -> None:
        self.reason = reason

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.reason()
