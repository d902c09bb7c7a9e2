"""Folders of event files: what one holds, how it is replaced, added to and removed. Each has one file, and `holds.json`
with what that file stands for.

Files are open only while something is written, however many folders there are. Links are not followed. TensorBoard's
package is loaded (by `eventfile`) only where there is something to write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

log = logging.getLogger(__name__)

HOLDS = "holds.json"


class EventFolders:
    """The folders below `root`, a local path. A failing write is one warning: the runs matter more."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._warned = False

    def replace(self, folder: Path, events: Sequence[Event], contents: str) -> Path:
        """Write a new file, then remove those before it. Its name sorts behind theirs: TensorBoard never looks back."""
        path = folder / f"events.out.tfevents.{time.time_ns()}.kdtune"
        before = _event_files(folder)
        if self.add(path, events, opening=True) and self.note(path, contents):
            for old in before:
                old.unlink(missing_ok=True)
        return path

    def add(self, path: Path, events: Sequence[Event], *, opening: bool = False) -> bool:
        """Append events to a file; `opening` begins it. Whether it was written."""
        from kdtune.report import eventfile

        return self._written(path, eventfile.records(events, opening=opening), "ab")

    def note(self, path: Path, contents: str) -> bool:
        """Keep beside a file what it stands for, as it is now."""
        size = path.stat().st_size if path.exists() else 0
        holds = {"file": path.name, "bytes": size, "sha256": contents}
        return self._written(path.with_name(HOLDS), json.dumps(holds).encode(), "wb")

    def _written(self, path: Path, data: bytes, mode: str) -> bool:
        try:
            above = (self.root, path.parent.parent, path.parent)  # folders are at most two deep
            if link := next((place for place in above if place.is_symlink()), None):
                raise OSError(errno.ELOOP, f"{link} is a link")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, mode, opener=no_link) as file:
                file.write(data)
        except OSError as error:
            if not self._warned:
                log.warning("TensorBoard files are incomplete, the runs are not affected: %s: %s", path, error.strerror)
            self._warned = True
            return False
        return True


def no_link(path: str, flags: int) -> int:
    """An opener that follows no link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def standing_for(*contents: Any) -> str:
    """A digest of what a file stands for."""
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def holding(folder: Path, contents: str) -> Path | None:
    """The folder's only event file, if it is as it was written and stands for `contents`."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        holds = json.loads((folder / HOLDS).read_bytes())
        (path,) = _event_files(folder)
        if holds == {"file": path.name, "bytes": path.stat().st_size, "sha256": contents}:
            return path
    return None


def clear(folder: Path) -> None:
    """Remove what was written there by this module, and the folder if that was all."""
    if folder.is_symlink():
        return
    with suppress(OSError):
        for path in [*_event_files(folder), folder / HOLDS]:
            path.unlink(missing_ok=True)
        folder.rmdir()


def clear_others(folder: Path, kept: Collection[str]) -> None:
    """The same of all folders in this one but those of the names `kept`."""
    for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        if path.is_dir() and not path.is_symlink() and path.name not in kept:
            clear(path)


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))
