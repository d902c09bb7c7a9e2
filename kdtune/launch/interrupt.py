"""How this process comes to its end: signals taken politely, and threads that cannot be waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

LEFT_BEHIND = "kdtune's Ray"  # name of a thread that may hang for ever: who ends this process must not wait for it


class Interrupt:
    """SIGINT, SIGTERM, SIGHUP: the first asks the sweep to end and is remembered, the second ends it at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # signals are the main thread's, whoever runs there
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the terminal may go away
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)  # what is finished is in the store already
        self.signal = number
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nending; once more ends at once. The same command goes on from the last checkpoints.\n")
