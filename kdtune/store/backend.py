"""What a place for objects must be able to do; `folder` and `bucket` are the two there are. Only `objects` uses this.

All take checked keys and raise OSError; `objects` turns it into advice.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

# What a place that is away says: a network file system that was mounted softly, a mount that has broken, a bucket.
GONE = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)
PATIENCE_S = 240.0  # that long it is asked again; less than a run may be without a step (`launch.watchdog`)
PAUSE_S = 0.1, 15.0  # between two questions: the first, the longest
Asked = ParamSpec("Asked")
Told = TypeVar("Told")
Place = TypeVar("Place", bound="Backend")


def patient(operation: Callable[Concatenate[Place, Asked], Told]) -> Callable[Concatenate[Place, Asked], Told]:
    """A place that is away is asked again, with growing pauses that hear signals; only then is that an error."""

    @wraps(operation)
    def asked(place: Place, *args: Asked.args, **more: Asked.kwargs) -> Told:
        deadline, pause = time.monotonic() + place.patience, PAUSE_S[0]
        while True:
            try:
                return operation(place, *args, **more)
            except OSError as error:
                if error.errno not in GONE or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, PAUSE_S[1])

    return asked


class Backend(ABC):
    """A place. `root` has no trailing slash. A version tells an object from all that stood there before."""

    root: str

    @property
    def patience(self) -> float:
        """Seconds for which an operation is tried."""
        return PATIENCE_S

    @abstractmethod
    def write(self, key: str, data: bytes, durable: bool) -> None: ...

    @abstractmethod
    def create(self, key: str, data: bytes, durable: bool) -> bool:
        """Write it if there is none, in one act: of many callers exactly one is told True."""

    @abstractmethod
    def versioned(self, key: str) -> tuple[bytes, Any] | None:
        """The bytes and their version."""

    @abstractmethod
    def replace(self, key: str, data: bytes, version: Any) -> bool:
        """Write it if what is there is of this version still, in one act."""

    @abstractmethod
    def read(self, key: str) -> bytes | None: ...

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def names(self, folder: str) -> Iterator[str]: ...

    @abstractmethod
    def sizes(self, folder: str) -> Iterator[tuple[str, tuple[int, float]]]:
        """The same with bytes, and when it was last written, in seconds since 1970."""

    @abstractmethod
    def delete(self, key: str) -> None: ...

    @abstractmethod
    def preserve(self, key: str, aside: str) -> None: ...

    @abstractmethod
    def move(self, key: str, to: str) -> None: ...

    @abstractmethod
    def refuse_link(self, key: str) -> None: ...

    @abstractmethod
    def lock(self) -> contextlib.AbstractContextManager[object]:
        """It is held from now to the end of the block."""

    @abstractmethod
    def remove_leftovers(self, folder: str, age: float) -> None: ...

    @abstractmethod
    def knock(self) -> None:
        """One question, without patience."""

    @abstractmethod
    def probe(self, key: str, data: bytes) -> str:
        """Write, read, list and delete an object, which is alone in its folder, and that folder, without patience; what
        is wrong with the place, empty if nothing."""
