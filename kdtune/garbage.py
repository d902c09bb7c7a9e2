"""Python's look for garbage in cycles, kept away from work whose objects all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, or as a decorator: no look for garbage. Of a plan of 100,000 runs, all of which stays, looking through it
    again and again takes four tenths of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
