"""Signals taken politely."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupt:
    """SIGINT and SIGTERM: the first asks the sweep to end and is remembered, the second ends it at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
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
        os.write(2, b"\nending; once more ends at once. The same command goes on from the last checkpoints.\n")
