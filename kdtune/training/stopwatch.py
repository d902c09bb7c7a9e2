"""How long parts of training take, without making the CPU wait for a GPU in between."""

from __future__ import annotations

import time
from types import TracebackType

import torch


class Stopwatch:
    """Adds up the seconds between `with` and its end; `seconds` gives their sum and begins anew.

    On a GPU these are of its own clock, between marks in its queue, and asking for the sum waits until it has come
    there: at the end of an epoch. On the CPU they are wall time. What is recorded into a CUDA graph is not timed.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._sum = 0.0
        self._began: float | torch.cuda.Event | None = None
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._now()
        if isinstance(self._began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
            self._marks.append((self._began, ended))
        elif isinstance(self._began, float) and isinstance(ended, float):
            self._sum += ended - self._began

    def seconds(self) -> float:
        if self._marks:
            self._marks[-1][1].synchronize()
        found = (
            self._sum + sum(began.elapsed_time(ended) for began, ended in self._marks) / 1000
        )  # it says milliseconds
        self._sum, self._marks = 0.0, []
        return found

    def _now(self) -> float | torch.cuda.Event | None:
        if not self._on_gpu:
            return time.perf_counter()
        if torch.cuda.is_current_stream_capturing():
            return None
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark
