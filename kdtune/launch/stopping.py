"""A run that somebody may stop by hand (`kdtune stop`): looked for beside the training, obeyed where an epoch ends."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from kdtune.evaluation.evaluation import Evaluation
from kdtune.run import Run
from kdtune.store.objects import StorageError
from kdtune.store.state import State
from kdtune.store.stopping import is_stopped
from kdtune.store.store import Store
from kdtune.training.context import RunContext
from kdtune.training.run import Outcome, perform

LOOK_S = 5.0  # between two looks: on S3 each is a request


class StopWatch:
    """Whether somebody has stopped a run, seen from a thread of its own, which costs the training nothing."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._objects, self._id = store.objects, run_id
        self._asked, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stopping", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()  # not joined: a look may be waiting for the storage

    def asked(self) -> bool:
        """Whether anybody has."""
        return self._asked.is_set()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            with suppress(StorageError):  # the next look will tell
                if is_stopped(self._objects, self._id):
                    self._asked.set()
                    return


def performed(run: Run, evaluation: Evaluation, context: RunContext) -> Outcome:
    """`training.run.perform` for a run that may be stopped by hand: at once where it has not begun, else when the epoch
    under way is over, which is kept as a checkpoint. What is trained is evaluated to the end."""
    store = context.store
    try:
        if is_stopped(store.objects, run.id) and store.done(run.id) is None:
            return Outcome(State.STOPPED)
    except StorageError as error:
        return Outcome(State.FAILED, error)
    with StopWatch(store, run.id) as watch:
        return perform(run, evaluation, replace(context, stopped=watch.asked))


def reason_of(outcome: Outcome) -> str:
    """What a dispatch is told of a run that ended. Of one that was stopped by hand it learns from the record; this is
    for the case that there is none any more."""
    if outcome.state is State.STOPPED:
        return "it was stopped by hand, and another command has taken it up since (--retry)"
    return outcome.traceback
