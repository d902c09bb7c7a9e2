"""Who works on what: a claim is a small object that its owner keeps fresh while it works, and removes when done.

A claim whose heartbeat is old, or whose process is gone from this machine, is stale, and the next one who asks gets it.
In a local folder claiming is done under a lock, so two can never both win. On an object store it is best effort; two
who win there do the same work twice and nothing worse, since the first `done` of a run is the one that counts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdtune.store.encoding import from_json, to_json
from kdtune.store.objects import Objects, StorageError

log = logging.getLogger(__name__)

FOLDER = "runs/claims"
BEAT = 15.0  # seconds between heartbeats
STALE = 90.0  # seconds; a heartbeat this far from now, before or after, is not believed: clocks jump
SETTLE = 1.0  # seconds until a remote claim is read back
REREAD = 0.05  # seconds until a claim that could not be read is read once more
POLL = 1.0  # seconds between looks at a claim that is waited for


class Claim:
    """A claim that was won; beats from a daemon thread until `release`, or the end of the `with` block."""

    def __init__(self, claims: Claims, name: str, attempt: str) -> None:
        self.name = name
        self.attempt = attempt  # unique: tells this claim from every other; serves as the attempt's folder name too
        self.lost = False  # somebody took it over, for instance while this machine slept
        self._claims = claims
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give it up; nothing happens if it was given up or taken over before."""
        self._stop.set()
        self._thread.join()
        try:
            self._claims.drop(self)
        except StorageError as error:  # stale in 90 s anyway: no reason to lose finished work
            log.warning("the claim of %s could not be released: %s", self.name, error)

    def _beat(self) -> None:
        while not self._stop.wait(self._claims.beat):
            try:
                self.lost = not self._claims.renew(self)
            except StorageError as error:
                log.warning("no heartbeat for %s: %s", self.name, error)
            if self.lost:
                log.warning("the claim of %s was taken over by another process", self.name)
                return


class Claims:
    """All claims of one results folder. `beat`, `stale`, `settle` in seconds; `clock` gives seconds since 1970."""

    def __init__(
        self,
        objects: Objects,
        *,
        beat: float = BEAT,
        stale: float = STALE,
        settle: float = SETTLE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.beat = beat
        self._objects, self._stale, self._settle, self._clock = objects, stale, settle, clock

    def claim(self, name: str, wait: bool = False) -> Claim | None:
        """Claim `name` (a run's id, or a path such as "sweep/fickle/laptop"); None if it is claimed and not `wait`."""
        while True:
            attempt = new_attempt()
            if self._take(name, attempt):
                return Claim(self, name, attempt)
            if not wait:
                return None
            time.sleep(POLL)

    def owner(self, name: str) -> dict[str, Any] | None:
        """Who holds `name` now: host, pid, started, boot, pids, attempt, heartbeat. None if unclaimed or stale."""
        found = self._read(name)
        return found if found is not None and self._live(found) else None

    def renew(self, claim: Claim) -> bool:
        """Write a fresh heartbeat; False if the claim is no longer this one's."""
        with self._objects.locked():
            if not self._holds(claim):
                return False
            self._write(claim.name, claim.attempt)
            return True

    def drop(self, claim: Claim) -> None:
        """Remove the claim, if it is still this one's."""
        with self._objects.locked():
            if self._holds(claim):
                self._objects.delete(f"{FOLDER}/{claim.name}")

    def _take(self, name: str, attempt: str) -> bool:
        if self.owner(name) is not None:  # a look without the lock: most contenders end here
            return False
        with self._objects.locked():
            if self.owner(name) is not None:
                return False
            stale = self._read(name)
            self._write(name, attempt)
        if stale is not None:
            log.info("took over the claim of %s from process %s on %s", name, stale.get("pid"), stale.get("host"))
        if self._objects.local is not None:
            return True
        time.sleep(self._settle)  # two may have written at once: whoever is there after a while has it
        found = self._read(name)
        return found is not None and found.get("attempt") == attempt

    def _holds(self, claim: Claim) -> bool:
        found = self._read(claim.name)
        return found is not None and found.get("attempt") == claim.attempt

    def _write(self, name: str, attempt: str) -> None:
        record = {**identity(), "attempt": attempt, "heartbeat": self._clock()}
        self._objects.put(f"{FOLDER}/{name}", to_json(record), durable=False)

    def _read(self, name: str) -> dict[str, Any] | None:
        """The claim as written; garbage counts as no claim."""
        for patience in (REREAD, 0.0):
            data = self._objects.get(f"{FOLDER}/{name}")
            if data is None:
                return None
            with contextlib.suppress(ValueError):
                found = from_json(data)
                if isinstance(found, dict):
                    return found
            # Where overwriting is not atomic (a mounted bucket) this may be a heartbeat that is just being written.
            time.sleep(patience)
        return None

    def _live(self, record: dict[str, Any]) -> bool:
        heartbeat = record.get("heartbeat")
        if isinstance(heartbeat, bool) or not isinstance(heartbeat, (int, float)):
            return False
        if abs(self._clock() - heartbeat) > self._stale:
            return False
        here = identity()
        if any(record.get(field) != here[field] for field in ("host", "boot", "pids")):
            return True  # another machine's process cannot be looked for: its heartbeat decides
        pid = record.get("pid")
        return isinstance(pid, int) and started(pid) is not None and started(pid) == record.get("started")


def new_attempt() -> str:
    """A unique name, sortable by time (UTC, to the microsecond): 20261120T101500123456-9f03ab."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"


def identity() -> dict[str, Any]:
    """This process, so that another on the same machine can tell whether it still runs."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid()), **_machine()}


@cache
def _machine() -> dict[str, str]:
    """The boot, and the process namespace: two containers may share a host name, yet not see each other's processes."""
    boot, pids = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return {
        "boot": boot.read_text().strip() if boot.exists() else "",
        "pids": os.readlink(pids) if os.path.lexists(pids) else "",
    }


def started(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot (so a reused pid differs); None if it does not run.

    Where there is no /proc, 0 for every process that runs.
    """
    if not Path("/proc/self/stat").exists():
        return 0 if _runs(pid) else None
    try:
        # Fields after the command's closing bracket (proc(5)): state is field 3, the start time field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # Z, X: dead, only not yet collected by its parent


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
