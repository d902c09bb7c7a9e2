"""Whether a run gets on: seen from within its process, which a pass of the network is heard in (`RunContext.pulse`)."""

from __future__ import annotations

import faulthandler
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn, Self

from kdtune.store.store import Store

log = logging.getLogger(__name__)

SILENCE_S = 300.0  # a run may be silent for so long, however quick its steps were
TIMES = 10  # and for so many times its longest silence so far: an evaluation that prepares its images, a slow step
LOOKS = 60  # looks within such a silence
LAST_WORDS_S = 30.0  # to write down where it hangs, perhaps in the storage itself


class Stuck(Exception):
    """No training step and no evaluation batch for far too long. What `failure.json` of such an attempt names."""


class Watchdog:
    """Calls `found` once per silence that is too long, with what there is to say; from a thread of its own.

    Silence is counted in looks that were taken: a process that was stopped and goes on was not silent meanwhile.
    Before the first pulse, while data are read, say, `found` gets `first=True`.
    """

    def __init__(self, found: Callable[[str, bool], None], silence: float = SILENCE_S) -> None:
        self._found, self._allowed = found, silence
        self._beats = 0
        self._waiting = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def pulse(self) -> None:
        """The run got on. Costs a tenth of a microsecond."""
        self._beats += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What the run waits for meanwhile is not its own doing: a driver that was stopped, say."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _watch(self) -> None:
        look = self._allowed / LOOKS
        silence, longest, beats, told = 0.0, 0.0, 0, False
        while not self._over.wait(look):
            if beats != self._beats or self._waiting:
                longest = max(longest, silence) if beats else 0.0
                silence, beats, told = 0.0, self._beats, False
                continue
            silence += look
            if silence >= max(self._allowed, TIMES * longest) and not told:
                told = True
                self._found(f"no training step or evaluation batch for {silence:.0f} s", beats == 0)


def stacks() -> str:
    """Where every thread of this process is, in Python's eyes."""
    with tempfile.TemporaryFile("w+") as file:  # faulthandler writes to a descriptor
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def write_down(store: Store, run_id: str, what: str, failed: bool = False) -> None:
    """Stacks into the folder of the attempt that this process is at; with `failed` also that the attempt failed so."""
    owner = store.owner(run_id)
    if owner is None or owner.get("pid") != os.getpid():
        return
    attempt = store.attempt(run_id, owner["attempt"])
    attempt.write_stacks(f"{what}\n\n{stacks()}")
    if failed:
        attempt.write_failure(Stuck(what))


def end_process(store: Store, run_id: str, what: str) -> NoReturn:
    """Ends this process, on the spot: whatever a stuck thread holds on to goes with it."""
    last = threading.Thread(target=write_down, args=(store, run_id, what, True), daemon=True)
    last.start()
    last.join(LAST_WORDS_S)
    os._exit(1)
