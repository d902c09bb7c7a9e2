"""What a command does about runs that end without a result: again, fewer at a time, or no more. Pure counting."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from enum import StrEnum


class Cause(StrEnum):
    """Why a run ended without a result."""

    ITSELF = "its own exception"
    LOST = "its process was lost"
    PREEMPTED = "its machine was taken back"
    STUCK = "it did not get on"
    GPU = "its GPU had an error"
    MEMORY = "its machine was short of memory"
    UNFIT = "its machine cannot train it"
    STORAGE = "the storage went away"


# How often a run may end so until it counts as failed. An exception would only come again; a machine that was taken
# back says nothing about the run. For want of memory: alone, with no other run beside it.
TRIES = {Cause.ITSELF: 1, Cause.LOST: 4, Cause.STUCK: 2, Cause.GPU: 2, Cause.MEMORY: 3}
ALIKE = 5  # failures with one last line, and no success before them: what is left would fail too
NO_ROOM = ("No space left on device", "Disk quota exceeded")  # as the system says it, for any run that writes
NOT_VISIBLE = "and not visible here"  # of a run that another machine has finished
VARYING = re.compile(r"[0-9a-f]{12}|0x[0-9a-f]+|\d+")  # ids, addresses, numbers: the same error each time


class Setbacks:
    """The setbacks of one command. `limit` is how many runs may be out at a time; None as many as there is room."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self._times: Counter[tuple[str, Cause]] = Counter()
        self._alike: Counter[str] = Counter()
        self._succeeded = False

    def times(self, id: str, cause: Cause) -> str:
        """`2 of 4`: how often the run ended so, and how often it may."""
        return f"{self._times[id, cause]} of {TRIES[cause]}" if cause in TRIES else "as often as it happens"

    def keeps_being_lost(self, id: str) -> bool:
        """Whether its process was lost more than once: perhaps it ends itself, as a GPU's driver may."""
        return self._times[id, Cause.LOST] > 1

    def again(self, id: str, cause: Cause) -> bool:
        """Counts that a run ended so; whether it is tried again."""
        self._times[id, cause] += 1
        return cause not in TRIES or self._times[id, cause] < TRIES[cause]

    def short_of_memory(self, running: Collection[str]) -> bool:
        """Counts that a process of one of these runs was killed for want of memory; False if that run was too often.

        Which one it was is nobody's fault while others run beside it: then half as many run from now on. Once the run
        that is too large even alone is out of the way, as many as before.
        """
        if len(running) != 1:
            self.limit = max(1, len(running) // 2)
            return True
        again = self.again(next(iter(running)), Cause.MEMORY)
        self.limit = 1 if again else None
        return again

    def succeeded(self) -> None:
        self._succeeded = True

    def failed(self, error: str) -> str:
        """Counts a failure by what it says (`said`). Why no further run should start; empty if that does not follow."""
        last = said(error)
        alike = VARYING.sub("#", last)
        self._alike[alike] += 1
        if "StorageError: " in last and any(words in last for words in NO_ROOM):
            return f"no room is left for results, no further run is started: {last.partition(': ')[2]}"
        if NOT_VISIBLE in last and not self._succeeded:
            return f"no further run is started: {last}"
        of_storage = "StorageError: " in last  # earlier runs could write, and say nothing about later ones
        if (self._succeeded and not of_storage) or self._alike[alike] < ALIKE:
            return ""
        none = "" if self._succeeded else " and none succeeded"
        return f"{ALIKE} runs failed alike{none}, no further run is started: {last}"


def said(error: str) -> str:
    """The line of a traceback that says what was wrong: a message may go on for lines, and end in advice. Of other text
    the last line."""
    lines = error.strip().splitlines() or [""]
    frames = [number for number, line in enumerate(lines) if line.lstrip().startswith("File ")]
    after = lines[frames[-1] + 1 :] if frames else []
    return next((line for line in after if line and not line[0].isspace()), lines[-1])
