"""A plan through Ray Tune: one searcher that hands out runs as their teachers become ready, one Tuner, callbacks.

Tune's own folder is scratch. What is finished is in the store, so nothing is ever restored: a damaged or planted Tune
state is not read, and the same command again goes on from the store.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ray import tune

from kdtune.launch import resources
from kdtune.launch.autoscaler import NOTHING, growth
from kdtune.launch.causes import cause_of
from kdtune.launch.cluster import Cluster, ready
from kdtune.launch.guard import with_ray
from kdtune.launch.packing import packed
from kdtune.launch.resources import Resources
from kdtune.launch.searcher import Ending, PlanSearcher, Watching, keeping_processes
from kdtune.launch.trainable import trial
from kdtune.planning.devices import AUTO, GpusPerRun
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.place import Place
from kdtune.planning.setbacks import Cause
from kdtune.planning.watching import Watcher
from kdtune.store.state import ENDED, PASSED_OVER

log = logging.getLogger(__name__)

# Ray and Tune read these when they start. They hold while a sweep runs: a Tuner of the user's own keeps its loggers.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the driver writes TensorBoard itself
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would end with status 0 after Ctrl-C
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # its state is never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # what failed is told by who knows whether it matters
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean the same in every process
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
MAX_PENDING = "TUNE_MAX_PENDING_TRIALS_PG"  # one by default; more must wait for an autoscaling cluster to grow
TRIALS_PER_TUNER = 500  # Tune slows down with thousands of trials; larger plans are several Tuners in a row


def launch(
    dispatch: Dispatch,
    job: Callable[[Place], dict[str, Any]],
    watcher: Watcher,
    *,
    cluster: Cluster | None = None,
    gpus_per_run: GpusPerRun = None,
    max_concurrent: int | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Runs what a dispatch has to give, through Ray, until nothing is left or `interrupted` says so.

    Without a cluster a Ray of our own is started here and ended afterwards. Raises CannotConnect, CannotHold, NotReady,
    RayLost.
    """
    # It would list every trial at the end, because Tune's own result files are off.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # "Trials did not complete"
    on_cluster = cluster is not None

    def work(stop: threading.Event) -> None:
        asked = resources.choose(dispatch.plan.profile, gpus_per_run, on_cluster=on_cluster)
        grows = growth() if on_cluster else NOTHING
        unfinished = {id: dispatch.plan.runs[id] for id, state in dispatch.states.items() if state not in PASSED_OVER}
        resources.check(asked, {planned.role for planned in unfinished.values()}, grows)
        if cluster is not None:
            cluster.sized(resources.devices(asked, grows))
            ready(cluster, asked, unfinished, stop)
        if gpus_per_run == AUTO:
            asked = packed(asked, dispatch, max_concurrent, stop)
        while not dispatch.over and not stop.is_set():
            by = cluster.expected.claim[1] if cluster else ""
            searcher = PlanSearcher(dispatch, job, watcher, fewest(max_concurrent, dispatch.setbacks.limit), by)
            try:
                _tune(searcher, asked, stop, scratch)
            except RuntimeError as error:
                if cause_of(str(error.__cause__ or "")) is not Cause.MEMORY:
                    raise
                searcher.short_of_memory = True
            if searcher.short_of_memory and not dispatch.over:
                _fewer(dispatch, watcher)

    # Sockets lie in the folder of a Ray of our own, and a socket's path has at most 107 bytes: keep it short.
    with (
        _as_kdtune_needs_it(on_cluster),
        tempfile.TemporaryDirectory(prefix="kdt", dir="/tmp", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryDirectory(prefix="kdtune-", ignore_cleanup_errors=True) as scratch,
    ):
        with_ray(cluster.address if cluster else None, folder, work, interrupted)


def fewest(*limits: int | None) -> int | None:
    """The smallest of these limits, of which None is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def _fewer(dispatch: Dispatch, watcher: Watcher) -> None:
    """A process was killed for want of memory, which ends a Tuner: the next one runs fewer at a time."""
    gc.collect()  # Tune's processes end with the last reference to them; it may have fallen over them
    for id, state in dispatch.short_of_memory().items():
        if state in ENDED:
            watcher.ended(id, state)
    limit = dispatch.setbacks.limit
    log.warning(
        "the machine was short of memory, and Ray ended processes of runs: these go on from their last checkpoints%s",
        "" if limit is None else f", at most {limit} at a time",
    )


@contextlib.contextmanager
def _as_kdtune_needs_it(on_cluster: bool) -> Iterator[None]:
    """Ray's environment and Tune's cache of processes, for the time of a sweep."""
    environment = ENVIRONMENT | {MAX_PENDING: "200" if on_cluster else "8"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with keeping_processes():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _tune(searcher: PlanSearcher, asked: Resources, stop: threading.Event, scratch: str) -> None:
    """One Tuner over the runs that are left, at most TRIALS_PER_TUNER trials."""
    dispatch = searcher.dispatch
    tuner = tune.Tuner(
        tune.with_resources(trial, lambda config: tune.PlacementGroupFactory([asked.of(config["role"])])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=TRIALS_PER_TUNER,  # it ends earlier, with the searcher
            # A new process costs seconds, a run of a small network less. Old ones keep memory, if that is short.
            reuse_actors=dispatch.setbacks.limit is None,
            trial_name_creator=lambda trial: trial.config["id"],
            trial_dirname_creator=lambda trial: f"{trial.config['id']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # what is tried again the dispatch says, by cause
            callbacks=[Watching(searcher)],
            stop=Ending(lambda: stop.is_set() or dispatch.over or searcher.short_of_memory),
        ),
    )
    tuner.fit()
