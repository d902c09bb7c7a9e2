"""A plan in this process, one run after the other: the same code without Ray, for tests and the debugger."""

from __future__ import annotations

import logging
import pdb
import time
from contextlib import ExitStack
from pathlib import Path

from kdtune.launch.causes import broke_gpu, suspect
from kdtune.launch.interrupt import Interrupt
from kdtune.launch.stopping import performed, reason_of
from kdtune.launch.watchdog import Watchdog, write_down
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.place import Place
from kdtune.planning.setbacks import Cause
from kdtune.planning.watching import Watcher
from kdtune.store.layout import run_folder
from kdtune.store.objects import is_gone
from kdtune.training.context import RunContext
from kdtune.training.pulse import traced
from kdtune.training.run import Outcome
from kdtune.training.step import Row

log = logging.getLogger(__name__)


def launch_here(
    dispatch: Dispatch,
    watcher: Watcher,
    data_dir: Path,
    checkpoint_every: float,
    interrupt: Interrupt,
    post_mortem: bool = False,
    traces: Path | None = None,
) -> None:
    """Runs what a dispatch has to give until nothing is left. Ctrl-C ends it after the epoch that is under way.

    With `post_mortem` the debugger opens where a run failed. `traces`: a folder for a profiler's trace of each run.
    """
    while not dispatch.over and not interrupt.signal:
        watcher.tick()
        if (planned := dispatch.next()) is None:
            time.sleep(0.2)  # what is left is being trained by another sweep
            continue
        dispatch.started(planned.id)
        watcher.started(planned.id)
        try:
            outcome = _performed(planned, dispatch, watcher, data_dir, checkpoint_every, interrupt, traces)
        except KeyboardInterrupt:
            return
        gone = is_gone(outcome.error)
        told, cause = (str(outcome.error), Cause.STORAGE) if gone else (reason_of(outcome), Cause.ITSELF)
        watcher.ended(planned.id, dispatch.ended(planned.id, told, cause))
        if broke_gpu(outcome.error):
            dispatch.stop(f"{Cause.GPU}, which stays with this process; the same command goes on")
        if post_mortem and outcome.error is not None:
            pdb.post_mortem(outcome.error.__traceback__)


def _performed(
    planned: Place,
    dispatch: Dispatch,
    watcher: Watcher,
    data_dir: Path,
    checkpoint_every: float,
    interrupt: Interrupt,
    traces: Path | None,
) -> Outcome:
    """One run, watched. Raises KeyboardInterrupt after an epoch in which somebody asked for the end."""
    import torch

    store, told = dispatch.standing.store, 0

    def report(history: list[Row]) -> None:
        nonlocal told
        watcher.rows(planned.id, history[told:])
        watcher.tick()
        told = len(history)
        if interrupt.signal:
            raise KeyboardInterrupt

    def stuck(what: str, first: bool) -> None:
        write_down(store, planned.id, what)  # a process of the user's own is not ended
        log.warning("%s; where it is: stacks.txt in %s", what, store.objects.path(run_folder(planned.id)))

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = 1  # as through Ray: the same numbers, and on a busy machine no threads that wait for each other
    with ExitStack() as stack:
        pulse = stack.enter_context(Watchdog(stuck)).pulse
        if traces is not None:
            stack.enter_context(traced(traces / f"{planned.id}.pt.trace.json"))
        captured = traces is None and not suspect(dispatch.standing.look(planned.id).failure)
        context = RunContext(store, data_dir, device, threads, checkpoint_every, report, pulse, captured=captured)
        return performed(planned.run, dispatch.plan.evaluation, context)
