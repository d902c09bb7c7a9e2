"""What leaves the process: one JSON object on a stdout that nothing else can reach, and signals taken politely."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self


@contextlib.contextmanager
def json_to_stdout(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Yields a function that prints one JSON object. While it is wanted, all other output goes to stderr.

    The redirection is of the file descriptor, so that libraries and runs in this process that print do not spoil it.
    """
    if not wanted:
        yield lambda value: None
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)

    def print_json(value: Any) -> None:
        os.write(stdout, (json.dumps(value, allow_nan=False) + "\n").encode())

    try:
        yield print_json
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


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
