"""Whether the processes of runs still live, seen from the driver: a run's claim is rewritten every 15 s by its process.

One that is stopped, or hangs where no thread of its own can run, says nothing of that itself; its machine is fine and
Ray waits for ever. Elsewhere clocks may differ, so what counts is that a claim changes, not what time it says.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kdtune.launch.watchdog import Stuck
from kdtune.store.claims import process_lives
from kdtune.store.encoding import from_json
from kdtune.store.layout import STACKS, claim_key, run_folder
from kdtune.store.objects import StorageError
from kdtune.store.store import Store

log = logging.getLogger(__name__)

SILENCE_S = 300.0  # others may take over a claim after 90 s; a process that was stopped so long may yet go on
LOOKS = 10  # within such a silence


@dataclass
class Heard:
    """The claim of a run as it was last seen, and for how many seconds it has not changed since."""

    claim: bytes
    silence: float = 0.0


class Heartbeats:
    """The claims of running runs, looked at now and then."""

    def __init__(self, store: Store, silence: float | None = None) -> None:
        self._store = store
        self._allowed = SILENCE_S if silence is None else silence
        self._heard: dict[str, Heard] = {}
        self._warned: set[str] = set()
        self._looked = time.monotonic()

    def frozen(self, running: Iterable[str], heard: Collection[str] = ()) -> dict[str, dict[str, Any]]:
        """Claims, by run, whose process has given no sign of life for too long; each is told once.

        A run that has not been `heard` of yet may have written down where it hangs: a warning says so. Asked more often
        than is worth a look, it does not look.
        """
        every, now = self._allowed / LOOKS, time.monotonic()
        if now - self._looked < every:
            return {}
        passed, self._looked = min(now - self._looked, 2 * every), now  # more: this process itself was stopped
        before, self._heard, silent = self._heard, {}, {}
        for id in running:
            try:
                claim = self._store.objects.get(claim_key(id))
                if claim is None:
                    continue
                record = dict(from_json(claim))
                if id not in heard:
                    self._warn(id, str(record["attempt"]))
            except StorageError as error:
                if error.gone:  # it was waited for, and the next question would wait again
                    break
                continue
            except (ValueError, LookupError, TypeError):
                continue  # nothing is known of it
            last = before.get(id)
            now_heard = Heard(claim, last.silence + passed) if last and last.claim == claim else Heard(claim)
            if now_heard.silence >= self._allowed:
                silent[id] = record
            else:
                self._heard[id] = now_heard
        return silent

    def bury(self, id: str, claim: Mapping[str, Any]) -> None:
        """Writes down that this attempt failed so, in the place of its process, and ends that if it is on this machine.

        Ray ends it too, by asking; a process that is stopped does not hear it.
        """
        what = f"its process gave no sign of life for {self._allowed:.0f} s: it was stopped, or its machine hangs"
        with suppress(StorageError):
            self._store.attempt(id, claim["attempt"]).write_failure(Stuck(what))
        if process_lives(claim):
            os.kill(claim["pid"], signal.SIGKILL)

    def _warn(self, id: str, attempt: str) -> None:
        key = f"{run_folder(id)}/{attempt}/{STACKS}"
        if attempt not in self._warned and self._store.objects.exists(key):
            self._warned.add(attempt)
            log.warning("run %s has not come to its first step yet; where it is: %s", id, self._store.objects.path(key))
