"""A plan in this process, one run after the other: the same code without Ray, for tests and the debugger."""

from __future__ import annotations

import pdb
import time
from pathlib import Path

from kdtune.launch.interrupt import Interrupt
from kdtune.planning.dispatch import Dispatch, Watcher
from kdtune.training.loop import Row
from kdtune.training.run import RunContext, perform


def launch_here(
    dispatch: Dispatch,
    watcher: Watcher,
    data_dir: Path,
    checkpoint_every: float,
    interrupt: Interrupt,
    post_mortem: bool = False,
) -> None:
    """Runs what a dispatch has to give until nothing is left. Ctrl-C ends it after the epoch that is under way.

    With `post_mortem` the debugger opens where a run failed.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    while not dispatch.over and not interrupt.signal:
        watcher.tick()
        if (planned := dispatch.next()) is None:
            time.sleep(0.2)  # what is left is being trained by another sweep
            continue
        dispatch.started(planned.id)
        watcher.started(planned.id)
        told = 0

        def report(history: list[Row], id: str = planned.id) -> None:
            nonlocal told
            watcher.rows(id, history[told:])
            watcher.tick()
            told = len(history)
            if interrupt.signal:
                raise KeyboardInterrupt

        context = RunContext(
            dispatch.standing.store, data_dir, device, torch.get_num_threads(), checkpoint_every, report
        )
        try:
            outcome = perform(planned.run, dispatch.plan.evaluation, context)
        except KeyboardInterrupt:
            return
        watcher.ended(planned.id, dispatch.ended(planned.id, outcome.traceback))
        if post_mortem and outcome.error is not None:
            pdb.post_mortem(outcome.error.__traceback__)
