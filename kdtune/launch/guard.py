"""Ray at arm's length: it works in a thread of its own and is watched from here.

What hangs within Ray (a head that is lost, an address where something else listens) hangs that thread alone. This one
hears signals all the time, and ends in bounded time whatever becomes of the other.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

import ray
from ray._private import worker as ray_worker

from kdtune.launch.connection import ray_at
from kdtune.launch.door import CannotConnect
from kdtune.launch.interrupt import LEFT_BEHIND

POLL_S = 0.2
ASK_EVERY_S = 3.0
CONNECT_S = 30.0  # a cluster that is there answers within seconds; a Ray of our own takes what it takes
SILENT_S = 25.0  # an answer takes milliseconds
ENDING_S = 20.0  # Tune gives its runs 5 s to end, Ray its processes as many


class RayLost(Exception):
    """Ray ended, or does not answer any more. The message says which of its parts."""


class Phase(Enum):
    CONNECTING = 1
    WORKING = 2
    ENDING = 3


class RayThread(threading.Thread):
    """Connects, does `work`, disconnects; `error` is what came of it. Once `stop` is set it should come to its end."""

    def __init__(self, address: str | None, folder: str, work: Callable[[threading.Event], None]) -> None:
        super().__init__(name=LEFT_BEHIND, daemon=True)  # a daemon: the interpreter does not wait for it
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self.phase = Phase.CONNECTING
        self._address, self._folder, self._work = address, folder, work
        self._asking = threading.Lock()
        self._unanswered = 0  # polls since Ray last answered: while this process is stopped, none are counted
        self._alive = True

    def run(self) -> None:
        try:
            with ray_at(self._address, self._folder):
                node = ray.get_runtime_context().get_node_id()
                self.phase, self._unanswered = Phase.WORKING, 0
                threading.Thread(target=self._ask, args=(node,), daemon=True).start()
                if not self.stop.is_set():
                    self._work(self.stop)
        except BaseException as error:
            lost = self.trouble() if self.phase is Phase.WORKING else ""
            self.error = RayLost(lost) if lost else error
        finally:
            self.phase = Phase.ENDING
            with contextlib.suppress(Exception):
                self._shut_down()

    def _shut_down(self) -> None:
        # A question after the end would start another Ray. One that hangs does not come back, and asks nothing more.
        held = self._asking.acquire(timeout=ENDING_S / 4)
        try:
            ray.shutdown()
        finally:
            if held:
                self._asking.release()

    def _ask(self, node_id: str) -> None:
        """Is the machine we work on still part of the cluster? In a thread of its own: an answer may never come."""
        while self.phase is Phase.WORKING:
            with self._asking, contextlib.suppress(Exception):
                if self.phase is Phase.WORKING:
                    self._alive = any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
                    self._unanswered = 0
            time.sleep(ASK_EVERY_S)

    def trouble(self) -> str:
        """What is wrong with Ray; empty as long as nothing is. To be asked at every poll."""
        self._unanswered += 1
        if ended := ended_parts():
            return f"Ray is gone: its {' and '.join(ended)} ended"
        if not self._alive:
            return "Ray has lost this machine: its raylet ended or does not answer"
        if self._unanswered * POLL_S > SILENT_S:
            return f"Ray does not answer: its head has been silent for {SILENT_S:.0f} s"
        return ""


def take_back_signals() -> None:
    """Python's handlers again: Ray's C++ puts its own in their place, which ends the process on the spot."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (handler := signal.getsignal(number)) is not None:  # None: not Python's to begin with
                signal.signal(number, handler)


def ended_parts() -> list[str]:
    """Which vital processes of a Ray of our own have ended by themselves. Of a cluster's nothing is known here."""
    node: Any = getattr(ray_worker, "_global_node", None)  # there is no public way to ask
    with contextlib.suppress(AttributeError, RuntimeError):  # RuntimeError: it changes while it is read
        return sorted(kind for kind, _ in node.dead_processes() if kind in ("gcs_server", "raylet"))
    return []


def with_ray(
    address: str | None, folder: str, work: Callable[[threading.Event], None], interrupted: Callable[[], bool]
) -> None:
    """Does `work` with Ray, in another thread; the event it is given is set when it should come to its end.

    Returns when that is done, or in bounded time after `interrupted`. Raises CannotConnect, RayLost, what `work`
    raises. A thread that hangs in Ray is left behind then, and Ray's processes end with this one.
    """
    thread = RayThread(address, folder, work)
    thread.start()
    began, asked, connected = time.monotonic(), None, False
    while thread.is_alive():
        thread.join(POLL_S)
        now = time.monotonic()
        if not connected:
            connected = thread.phase is not Phase.CONNECTING
            take_back_signals()
        if thread.phase is Phase.CONNECTING and address is not None and now - began > CONNECT_S:
            thread.stop.set()
            raise CannotConnect(f"something listens there, but does not answer as a Ray within {CONNECT_S:.0f} s")
        if thread.phase is Phase.WORKING and (lost := thread.trouble()) and thread.phase is Phase.WORKING:
            thread.stop.set()
            thread.join(ENDING_S)
            raise RayLost(lost)
        if interrupted():
            thread.stop.set()
            asked = now if asked is None else asked
            if now - asked > ENDING_S or thread.phase is Phase.CONNECTING:
                return
    if thread.error is not None:
        raise thread.error
