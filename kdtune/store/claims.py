"""Who works on what: a claim is a small object that its owner keeps fresh while it works, and removes when done.

A claim whose heartbeat is old, or whose process is gone from this machine, is stale, and the next one who asks gets it.
A claim is made, renewed and taken over by writes that the place itself refuses to the second of two: never both win.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from kdtune.store.encoding import from_json, to_json
from kdtune.store.layout import claim_key
from kdtune.store.objects import Objects, StorageError, is_gone

log = logging.getLogger(__name__)

BEAT = 15.0  # seconds between heartbeats
STALE = 90.0  # seconds; a heartbeat this far from now, before or after, is not believed: clocks jump
REREAD = 0.05  # seconds until a claim that could not be read is read once more
TIME = "%Y%m%dT%H%M%S%f"

Told = TypeVar("Told")


class Claim:
    """A claim that was won; beats from a daemon thread until `release`, or the end of the `with` block."""

    def __init__(self, claims: Claims, name: str, attempt: str) -> None:
        self.name = name
        self.attempt = attempt  # unique: tells this claim from every other; serves as the attempt's folder name too
        self._abandoned = False
        self._claims = claims
        self._resting: float | None = None  # since when, in monotonic seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if is_gone(error):
            self.abandon()  # it was waited for, and would be again
        else:
            self.release()

    def resting(self, call: Callable[[Told], None], told: Told) -> None:
        """Make a call that may never return, such as a report to a scheduler that ends the trial with it.

        Heartbeats end where it takes longer than one: others may then take the claim over as if the process were gone.
        """
        self._resting = time.monotonic()
        try:
            call(told)
        finally:
            self._resting = None

    def release(self) -> None:
        """Give it up; nothing happens if it was given up or taken over before."""
        if self._abandoned:
            return
        self._stop.set()
        self._thread.join()
        try:
            self._claims.release(self)
        except StorageError as error:  # stale in 90 s anyway: no reason to lose finished work
            log.warning("the claim of %s could not be released: %s", self.name, error)

    def abandon(self) -> None:
        """Let it grow stale, without a word to a storage that does not answer."""
        self._abandoned = True
        self._stop.set()

    def _beat(self) -> None:
        while not self._stop.wait(self._claims.beat):
            resting = self._resting
            if resting is not None and time.monotonic() - resting > self._claims.beat:
                continue
            try:
                if not self._claims.renew(self):  # while this machine slept, say
                    log.warning("the claim of %s was taken over by another process", self.name)
                    return
            except StorageError as error:
                log.warning("no heartbeat for %s: %s", self.name, error)


class Claims:
    """All claims of one results folder. `beat` and `stale` in seconds; `clock` gives seconds since 1970.

    `by` names the command that a run is claimed for; it may evict the claim of a process that it knows to be gone.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        beat: float = BEAT,
        stale: float = STALE,
        clock: Callable[[], float] = time.time,
        by: str = "",
    ) -> None:
        self.beat, self.by = beat, by
        self._objects, self._stale, self._clock = objects, stale, clock

    def claim(self, name: str, after: str = "") -> Claim | None:
        """Claim `name` (a run's id, or a path such as "sweep/fickle/laptop"); None if somebody else has it.

        `after`: the newest attempt at it that is known.
        """
        attempt = new_attempt(after)
        return Claim(self, name, attempt) if self._take(name, attempt) else None

    def owner(self, name: str) -> dict[str, Any] | None:
        """Who holds `name` now: host, pid, started, boot, pids, attempt, heartbeat. None if unclaimed or stale."""
        found = self._read(name)
        return found[0] if found is not None and self._live(found[0]) else None

    def attempt_of(self, name: str) -> str | None:
        """The attempt that the claim is of, however old its heartbeat; None if there is none."""
        found = self._read(name)
        return None if found is None else found[0].get("attempt")

    def renew(self, claim: Claim) -> bool:
        """Write a fresh heartbeat; False if the claim is no longer this one's."""
        for _ in range(2):  # a write that was done may look refused, where its answer came late
            found = self._read(claim.name)
            if found is None or found[0].get("attempt") != claim.attempt:
                return False
            if self._objects.replace(claim_key(claim.name), self._record(claim.attempt), found[1]):
                return True
        return False

    def release(self, claim: Claim) -> None:
        """Remove the claim, if it is still this one's."""
        found = self._read(claim.name)
        if found is not None and found[0].get("attempt") == claim.attempt:
            self._remove(claim.name, found)

    def evict(self, name: str, by: str) -> None:
        """Remove the claim that a process of the command `by` had, which has ended on a machine that nobody can ask."""
        found = self._read(name)
        if by and found is not None and found[0].get("by") == by:
            self._remove(name, found)

    def _remove(self, name: str, found: tuple[dict[str, Any], Any]) -> None:
        """Not where somebody has taken it over meanwhile. A bucket deletes without a condition, so there the claim is
        only made stale, by a write under one: it may lie there for ever, and is taken over at once."""
        key, (record, version) = claim_key(name), found
        if self._objects.local is None:
            self._objects.replace(key, to_json(record | {"heartbeat": 0}), version)
            return
        with self._objects.locked():
            there = self._objects.versioned(key)
            if there is not None and there[1] == version:
                self._objects.delete(key)

    def _take(self, name: str, attempt: str) -> bool:
        """Whether this attempt has it now: the place decides between two who ask at the same moment."""
        key, mine = claim_key(name), self._record(attempt)
        there = self._objects.versioned(key)
        if there is None:
            return self._objects.create(key, mine, durable=False)
        found = self._read(name)
        if found is not None and self._live(found[0]):
            return False
        stale, version = found or ({}, there[1])
        if not self._objects.replace(key, mine, version):
            return False
        log.info("took over the claim of %s from process %s on %s", name, stale.get("pid"), stale.get("host"))
        return True

    def _record(self, attempt: str) -> bytes:
        command = {"by": self.by} if self.by else {}
        return to_json({**identity(), **command, "attempt": attempt, "heartbeat": self._clock()})

    def _read(self, name: str) -> tuple[dict[str, Any], Any] | None:
        """The claim as written, and its version; garbage counts as no claim."""
        for pause in (REREAD, 0.0):
            there = self._objects.versioned(claim_key(name))
            if there is None:
                return None
            with contextlib.suppress(ValueError):
                found = from_json(there[0])
                if isinstance(found, dict):
                    return found, there[1]
            # Where overwriting is not atomic (a mounted bucket) this may be a heartbeat that is just being written.
            time.sleep(pause)
        return None

    def _live(self, record: dict[str, Any]) -> bool:
        heartbeat = record.get("heartbeat")
        if isinstance(heartbeat, bool) or not isinstance(heartbeat, (int, float)):
            return False
        if abs(self._clock() - heartbeat) > self._stale:
            return False
        return process_lives(record) is not False  # where nobody can tell its heartbeat decides


def new_attempt(after: str = "") -> str:
    """A unique name, sortable by time (UTC, to the microsecond): 20261120T101500123456-9f03ab. It sorts behind the
    attempt `after`, also where the clock has gone back since."""
    now = datetime.now(UTC)
    with contextlib.suppress(ValueError, OverflowError):  # a name that is no time
        last = datetime.strptime(after.partition("-")[0].ljust(21, "0"), TIME).replace(tzinfo=UTC)
        now = max(now, last + timedelta(microseconds=1))
    return f"{now:{TIME}}-{secrets.token_hex(3)}"


def identity() -> dict[str, Any]:
    """This process, so that another on the same machine can tell whether it still runs."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid()), **_machine()}


def process_lives(record: Mapping[str, Any]) -> bool | None:
    """Whether the process of such a record still runs; None of another machine's, which cannot be looked for."""
    here = identity()
    if any(record.get(field) != here[field] for field in ("host", "boot", "pids")):
        return None
    pid = record.get("pid")
    return isinstance(pid, int) and started(pid) is not None and started(pid) == record.get("started")


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
