"""Files that a sweep names, by what is in them: an id holds no path."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

from kdtune.data.error import DataError


def file_digest(path: str, what: str) -> str:
    """SHA-256 of a file; `what` names it in a DataError, where it cannot be read."""
    if os.path.exists(path) and not os.path.isfile(path):  # a folder has no bytes, a device or a pipe may have no end
        raise DataError(f"{path}: {what} cannot be read (that is no file)")
    try:
        about = os.stat(path)
        return _digest_of(path, about.st_mtime_ns, about.st_size)
    except OSError as error:
        raise DataError(f"{path}: {what} cannot be read ({error.strerror})") from error


@lru_cache(maxsize=64)
def _digest_of(path: str, changed: int, size: int) -> str:
    """Read once for all points of a grid."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
