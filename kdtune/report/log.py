"""`log` in a sweep's folder: what its commands did, a line an event, each with its time (UTC).

It is appended to by every command that had something to do, and is for people: nothing is read from it. A log that
cannot be written any more ends nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from kdtune.planning.cost import duration
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan
from kdtune.report.eventfolder import no_link
from kdtune.report.folder import View
from kdtune.report.progress import headline
from kdtune.store.objects import StorageError
from kdtune.store.state import FINISHED, State

NAME = "log"
NAMED = 4  # of runs that came at once


class Warnings(logging.Handler):
    """What kdtune warns of, to `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(f"{record.levelname.lower()}: {record.getMessage()}")


class Log:
    """A watcher; and warnings of kdtune stand there too. `command` is the one that is at work."""

    def __init__(self, dispatch: Dispatch, view: View, command: str) -> None:
        self.dispatch, self.view = dispatch, view
        self._path = view.local / NAME
        self._first = [metric.name for metric in view.headlines]
        self._began: dict[str, float] = {}
        self._handlers: list[logging.Handler] = [Warnings(self.say)]
        self._lost = dispatch.over  # then there is nothing to tell
        if not self._lost:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            self.say(f"begun: {command}")
            logger = logging.getLogger("kdtune")
            if not logger.hasHandlers() and logging.lastResort is not None:
                self._handlers.append(logging.lastResort)  # Python asks it no more where any other is: the screen's
            for handler in self._handlers:
                logger.addHandler(handler)

    def started(self, id: str) -> None:
        self._began[id] = time.monotonic()
        self.say(f"started  {self._name(id)}")

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        """Epochs are TensorBoard's."""

    def ended(self, id: str, state: State) -> None:
        began = self._began.pop(id, None)
        took = [duration(time.monotonic() - began)] if began is not None else []
        told = headline(self.dispatch.standing.measured(id), self._first) if state in FINISHED else ""
        self.say("  ".join(filter(None, [f"{state:8s} {self._name(id)}", told, *took])))
        if state is State.FAILED:
            self.say(self.dispatch.reasons.get(id, "").strip() or "no reason is known")

    def grown(self, plan: Plan, new: Sequence[str]) -> None:
        self.say(
            f"{len(new)} more runs: "
            + ", ".join(plan.runs[id].name for id in new[:NAMED])
            + " ..." * (len(new) > NAMED)
        )

    def tick(self) -> None:
        """An event is written as it comes."""

    def close(self) -> None:
        for handler in self._handlers:
            logging.getLogger("kdtune").removeHandler(handler)
        if not self._lost:
            if self.dispatch.stopped:
                self.say(f"stopped: {self.dispatch.stopped}")
            self.say("ended: " + ", ".join(f"{count} {state}" for state, count in self.dispatch.counts.items()))
            self._publish()

    def say(self, text: str) -> None:
        """Lines with the time; what a line goes on with stands further in."""
        if self._lost:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            with open(self._path, "a", encoding="utf-8", errors="backslashreplace", opener=no_link) as file:
                file.write(f"{now} " + text.replace("\n", "\n    ") + "\n")
        except OSError:
            self._lost = True  # its folder went away, or the disk is full: the screen says what happens

    def _publish(self) -> None:
        """To a bucket's log, behind what other machines wrote there. What does not arrive stays here, and goes with the
        next command's."""
        objects, key = self.view.standing.store.objects, f"{self.view.key}/{NAME}"
        if objects.local is None:
            with suppress(StorageError, OSError):  # the runs' own matter
                objects.put(key, (objects.get(key) or b"") + self._path.read_bytes())
                self._path.unlink()

    def _name(self, id: str) -> str:
        return f"{id} {self.dispatch.plan.runs[id].name}"
