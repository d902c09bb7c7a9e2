"""Runs that somebody has stopped by hand: `runs/stopped/<id>` says who and when, whatever sweeps ask for the run.

A record is all there is to it: whoever has the run looks for it (`launch.stopping`), nobody starts a run that has one,
and it stands until somebody takes it away (`kdtune sweep --retry`). A finished run is finished, whatever lies here.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from kdtune.store.encoding import seal, unseal
from kdtune.store.layout import STOPPED, stopped_key
from kdtune.store.objects import Objects


@dataclass(frozen=True)
class Stop:
    """Who stopped a run, on which machine, when (UTC), and why, where that was said."""

    who: str
    host: str
    time: str
    reason: str = ""

    def __str__(self) -> str:
        """One line, whatever was typed elsewhere: it is shown on the terminals of others."""
        told = f"by {self.who} on {self.host}, {self.time}" + (f": {self.reason}" if self.reason else "")
        return "".join(each if each.isprintable() else " " for each in told).rstrip()


def stop(objects: Objects, run_id: str, reason: str = "") -> Stop:
    """Stop a run; returns the record that counts, which is an earlier one where there is one. Raises StorageError."""
    mine = Stop(_user(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"), reason)
    if objects.create(stopped_key(run_id), seal(asdict(mine))):
        return mine
    return stop_of(objects, run_id) or mine


def stop_of(objects: Objects, run_id: str) -> Stop | None:
    """Who stopped a run; None if nobody did. Raises StorageError."""
    data = objects.get(stopped_key(run_id))
    if data is None:
        return None
    try:
        return Stop(**unseal(data))
    except (ValueError, TypeError):  # it says no more by whom, but somebody did
        return Stop("somebody", "a machine", f"in {objects.path(stopped_key(run_id))}, which is damaged")


def is_stopped(objects: Objects, run_id: str) -> bool:
    """Whether there is such a record; it is not read. Raises StorageError."""
    return objects.exists(stopped_key(run_id))


def take_up(objects: Objects, ids: Collection[str]) -> list[str]:
    """Take away the records of these runs, so that they go on; returns the runs that had one. Raises StorageError."""
    stopped = [key.rpartition("/")[2] for key in objects.list(STOPPED)]
    found = [id for id in stopped if id in ids]
    for id in found:
        objects.delete(stopped_key(id))
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in `docker run -u 54321`
        return "somebody"
