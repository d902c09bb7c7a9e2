"""A run that somebody may stop by hand (`kdtune stop`): looked for beside the training, obeyed where an epoch ends.

It hangs on what training asks of its context in any case, how many seconds lie between two checkpoints and whom to tell
of an epoch, so that what trains is the same code whether or not anybody may stop it.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import isfinite
from types import TracebackType
from typing import Self

from kdtune.config import Run
from kdtune.evaluation.evaluation import Evaluation
from kdtune.store.objects import StorageError
from kdtune.store.state import State
from kdtune.store.stopping import is_stopped
from kdtune.store.store import Store
from kdtune.training.loop import Row
from kdtune.training.run import Outcome, RunContext, perform

LOOK_S = 5.0  # between two looks: on S3 each is a request


class Stopped(BaseException):
    """Ends training from its report of an epoch. Not an Exception: nothing failed that the store should tell of."""


class Ending:
    """Whether somebody has stopped a run, seen from a thread of its own, which costs the training nothing."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._objects, self._id = store.objects, run_id
        self._asked, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stopping", daemon=True)
        self.due = False  # at the end of the epoch under way, of which a checkpoint is kept

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()  # not joined: a look may be waiting for the storage

    def ask(self) -> bool:
        """Whether training ends with the epoch that is just over; the answer that `report` goes by."""
        self.due = self._asked.is_set()
        return self.due

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            with suppress(StorageError):  # the next look will tell
                if is_stopped(self._objects, self._id):
                    self._asked.set()
                    return


class Interval(float):
    """Seconds between two checkpoints, and none at all once the run is to end: then one is due whatever its age.

    Training asks it when an epoch is over, as `seconds since the last >= interval`.
    """

    ending: Ending

    @classmethod
    def until(cls, ending: Ending, seconds: float) -> Self:
        interval = cls(seconds)
        interval.ending = ending
        return interval

    def __le__(self, passed: float) -> bool:
        return self.ending.ask() or float(self) <= passed


def performed(run: Run, evaluation: Evaluation, context: RunContext) -> Outcome:
    """`training.run.perform` for a run that may be stopped by hand: at once where it has not begun, else when the epoch
    under way is over, which is kept as a checkpoint. What is trained is evaluated to the end."""
    store = context.store
    try:
        if is_stopped(store.objects, run.id) and store.done(run.id) is None:
            return Outcome(State.STOPPED)
    except StorageError as error:
        return Outcome(State.FAILED, error)
    with Ending(store, run.id) as ending:
        every = Interval.until(ending, context.checkpoint_every)
        watched = replace(context, checkpoint_every=every, report=partial(_report, context, ending))
        try:
            return perform(run, evaluation, watched)
        except Stopped:
            return Outcome(State.STOPPED)


def reason_of(outcome: Outcome) -> str:
    """What a dispatch is told of a run that ended. Of one that was stopped by hand it learns from the record; this is
    for the case that there is none any more."""
    if outcome.state is State.STOPPED:
        return "it was stopped by hand, and another command has taken it up since (--retry)"
    return outcome.traceback


def _report(context: RunContext, ending: Ending, history: list[Row]) -> None:
    context.report(history)
    if ending.due and isfinite(history[-1]["train/loss"]):  # else training ends by itself, for it has diverged
        raise Stopped
