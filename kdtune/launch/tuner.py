"""A plan through Ray Tune: one searcher that hands out runs as their teachers become ready, one Tuner, callbacks.

Tune's own folder is scratch. What is finished is in the store, so nothing is ever restored: a damaged or planted Tune
state is not read, and the same command again goes on from the store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from kdtune.launch.searcher import OnInterrupt, PlanSearcher, Watching, patience
from kdtune.launch.trainable import trial
from kdtune.planning.dispatch import Dispatch, Watcher
from kdtune.planning.plan import PlannedRun
from kdtune.store.state import FINISHED

MAX_PENDING = "TUNE_MAX_PENDING_TRIALS_PG"
# Ray and Tune read these when they start. They hold while a sweep runs: a Tuner of the user's own keeps its loggers.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the driver writes TensorBoard itself
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would end with status 0 after Ctrl-C
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # its state is never read
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    MAX_PENDING: "8",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean the same in every process
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
TRIALS_PER_TUNER = 500  # Tune slows down with thousands of trials; larger plans are several Tuners in a row
RETRIES = 3  # of a trial whose process or node was lost; a run's own exception is not retried


class CannotHold(Exception):
    """No machine of the cluster can ever hold a run of this plan; the message says what was asked for."""


@dataclass(frozen=True)
class Resources:
    """What one run asks for. A student may share a GPU: fractions are bookkeeping, its memory is not divided."""

    teacher: dict[str, float]
    student: dict[str, float]

    def of(self, role: str) -> dict[str, float]:
        return self.teacher if role == "teacher" else self.student


def launch(
    dispatch: Dispatch,
    job: Callable[[PlannedRun], dict[str, Any]],
    watcher: Watcher,
    *,
    address: str | None = None,
    gpus_per_run: float | None = None,
    max_concurrent: int | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Runs what a dispatch has to give, through Ray, until nothing is left or `interrupted` says so.

    `address` of a running cluster; without one a Ray of our own is started here and ended afterwards.
    Raises CannotHold, ConnectionError.
    """
    # It would list every trial at the end, because Tune's own result files are off.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with (
        _as_kdtune_needs_it(),
        _ray(address),
        tempfile.TemporaryDirectory(prefix="kdtune-", ignore_cleanup_errors=True) as scratch,
    ):
        resources = choose_resources(gpus_per_run)
        check_resources(resources, {planned.role for planned in dispatch.plan.runs.values()})
        while not dispatch.over and not interrupted():
            _tune(
                dispatch, job, watcher, resources, max_concurrent, interrupted, scratch, on_cluster=address is not None
            )


@contextlib.contextmanager
def _as_kdtune_needs_it() -> Iterator[None]:
    """Ray's environment and Tune's cache of processes, for the time of a sweep."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        with patience():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A Ray to work with. `address="local"` never joins another Ray, however stale the address file it left behind."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    common = {"log_to_driver": False, "logging_level": logging.WARNING}
    # Sockets lie in the folder of a Ray of our own, and a socket's path has at most 107 bytes: keep it short.
    folder = None if address else tempfile.mkdtemp(prefix="kdt", dir="/tmp")
    try:
        if address:
            ray.init(address=address, **common)
        else:
            # A local Ray listens on all interfaces, behind a token that it turns on by itself and says so at length.
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
            ray.init(address="local", include_dashboard=False, _temp_dir=folder, **common)
            _protect_token()
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray's own handler would end the driver on the spot
                signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _protect_token() -> None:
    """Ray writes the token that lets its bearer run code readable for everybody on the machine."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        token.chmod(0o600)


def choose_resources(gpus_per_run: float | None) -> Resources:
    """A core a run on a machine without GPUs; else a GPU for a teacher and a quarter of one for a student."""
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if not has_gpu and not gpus_per_run:
        return Resources({"CPU": 1}, {"CPU": 1})
    student = gpus_per_run if gpus_per_run is not None else 0.25
    return Resources(
        {"CPU": 1, "GPU": max(student, 1.0) if gpus_per_run is None else student}, {"CPU": 1, "GPU": student}
    )


def check_resources(resources: Resources, roles: set[str]) -> None:
    """Raises CannotHold where no machine could ever hold a run, so that nothing waits for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for role in sorted(roles):
        asked = resources.of(role)
        if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in asked}
            raise CannotHold(
                f"a {role} asks for {_words(asked)}, but no machine has more than {_words(largest)}; "
                "lower --gpus-per-run, or give --address of a cluster that has them"
            )


def _words(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _tune(
    dispatch: Dispatch,
    job: Callable[[PlannedRun], dict[str, Any]],
    watcher: Watcher,
    resources: Resources,
    max_concurrent: int | None,
    interrupted: Callable[[], bool],
    scratch: str,
    on_cluster: bool,
) -> None:
    """One Tuner over the runs that are left, at most TRIALS_PER_TUNER of them."""
    # Tune lets one trial wait for resources by default; more must wait for an autoscaling cluster to grow.
    os.environ[MAX_PENDING] = str(200 if on_cluster else 8)
    searcher = PlanSearcher(dispatch, job, watcher, max_concurrent)
    left = sum(state not in FINISHED for state in dispatch.states.values())
    tuner = tune.Tuner(
        tune.with_resources(trial, lambda config: tune.PlacementGroupFactory([resources.of(config["role"])])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=min(left, TRIALS_PER_TUNER),
            reuse_actors=True,  # a new process costs seconds, a run of a small network less
            trial_name_creator=lambda trial: trial.config["id"],
            trial_dirname_creator=lambda trial: f"{trial.config['id']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Watching(searcher)],
            stop=OnInterrupt(interrupted),
        ),
    )
    tuner.fit()
