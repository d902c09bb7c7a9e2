"""Whole objects by key under one root: a local folder (NFS too), or whatever pyarrow has a filesystem for (`s3://...`).

Nothing here appends, and nobody may conclude anything from a rename: an object is written whole or it is not there.
What a local folder gives beyond that (atomic `create`, `locked`) an object store gives as best effort only; each method
says what that means.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdtune.store.backends import Backend, Local, Remote

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

log = logging.getLogger(__name__)

# A part of a key. No leading dot: such names are files in the making, and hidden.
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]{0,199}")

ADVICE = {
    errno.ENOSPC: "free some space there and give the same command again; what was stored before is intact",
    errno.EDQUOT: "the quota is used up: free some space and give the same command again",
    errno.EFBIG: "a limit on file sizes is set: raise it (ulimit -f) and give the same command again",
    errno.EACCES: "make it readable and writable for this user, or choose another place with --results",
    errno.EPERM: "make it readable and writable for this user, or choose another place with --results",
    errno.EROFS: "it is mounted read-only: mount it writable, or choose another place with --results",
    errno.ENOTDIR: "a file stands where a folder should be: move it, or choose another place with --results",
    errno.EEXIST: "a file stands where a folder should be: move it, or choose another place with --results",
    errno.EISDIR: "a folder stands where a file should be: move it, or choose another place with --results",
}


class StorageError(Exception):
    """The storage refused: names the path, the cause, and what would do. Objects stored before are as they were."""


class Objects:
    """The objects under `root`: a local path, or a URI that `pyarrow.fs.FileSystem.from_uri` takes.

    A pyarrow `filesystem` may be given, `root` is then a path inside it. Keys are relative posix paths; a key that
    could leave the root ("../x", "/x", a link that leads out) raises ValueError.
    """

    def __init__(self, root: str | os.PathLike[str], filesystem: FileSystem | None = None) -> None:
        # Keys and passwords of a bucket (s3://key:secret@...) never reach a message.
        uri = filesystem is None and "://" in os.fspath(root)
        self.root = re.sub(r"(?<=://).*@|\?.*", "", os.fspath(root)) if uri else os.fspath(root)
        self._backend = _backend(os.fspath(root), filesystem, self.root)

    @property
    def local(self) -> Path | None:
        """The root as a folder of this machine, None where it is not one."""
        return Path(self._backend.root) if isinstance(self._backend, Local) else None

    def put(self, key: str, data: bytes, durable: bool = True) -> None:
        """Write the object, replacing what was there. Local: readers see the old bytes or the new, never a mixture.

        With `durable` off (heartbeats) a power cut may take it back, and nobody waits for a busy disk.
        """
        with self._explained("write", key, len(data)):
            self._backend.write(check_key(key), data, durable)

    def create(self, key: str, data: bytes) -> bool:
        """Write the object only if there is none; True if this call did. Local: of many callers exactly one gets True.

        Remote: a look, then a write. Two callers within the same moment may both get True, and the later one stays.
        """
        with self._explained("write", key, len(data)):
            return self._backend.create(check_key(key), data)

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None if there is none."""
        with self._explained("read", key):
            return self._backend.read(check_key(key))

    def exists(self, key: str) -> bool:
        """Whether there is such an object. A folder is none."""
        with self._explained("look for", key):
            return self._backend.exists(check_key(key))

    def list(self, folder: str = "") -> list[str]:
        """Keys of all objects under `folder`, at any depth, sorted; none if it does not exist. No link is followed."""
        with self._explained("list", folder):
            keys = self._backend.names(check_key(folder) if folder else "")
            return sorted(key for key in keys if all(PART.fullmatch(part) for part in key.split("/")))

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""
        with self._explained("delete", key):
            self._backend.delete(check_key(key))

    def set_aside(self, key: str, seen: bytes | None = None) -> str | None:
        """Keep a damaged object as `<key>.damaged` (`.damaged-2`, ...) and remove it under its own key; the new key.

        With `seen`, the bytes that were found to be damaged, an object that has changed since is left alone: somebody
        else has set the damaged one aside already, and written a good one. None if nothing was moved.
        """
        with self.locked():
            found = self.get(key)
            if found is None or (seen is not None and found != seen):
                return None
            for number in range(1, 1000):
                aside = f"{key}.damaged" + (f"-{number}" if number > 1 else "")
                if not self.exists(aside):
                    break
            with self._explained("set aside", key):
                self._backend.preserve(key, aside)
                self._backend.delete(key)
            return aside

    def reject(self, key: str, seen: bytes, why: str) -> None:
        """For readers: warn that the object is damaged and set it aside; a warning too where that fails (read-only)."""
        try:
            aside = self.set_aside(key, seen)
        except StorageError as error:
            log.warning("%s is damaged (%s) and not used; it could not be set aside: %s", self.path(key), why, error)
        else:
            kept = f"kept as {aside}" if aside else "another process has set it aside"
            log.warning("%s is damaged (%s) and not used; %s", self.path(key), why, kept)

    def remove_leftovers(self, folder: str, age: float = 600.0) -> None:
        """Remove what writers killed in mid-write left under `folder`, once untouched for `age` seconds. Local only."""
        with self._explained("tidy", folder):
            self._backend.remove_leftovers(check_key(folder), age)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the root's lock, for a few milliseconds. Not to be nested. Remote: there is no lock, nothing happens."""
        with contextlib.ExitStack() as stack:
            with self._explained("lock", ""):
                stack.enter_context(self._backend.lock())
            yield

    def probe(self) -> None:
        """Write, read, list and delete a small object: StorageError now, not after the first epoch (faults 10)."""
        key, data = f"probe-{secrets.token_hex(6)}", secrets.token_bytes(64)
        self.put(key, data)
        try:
            if self.get(key) != data or key not in self.list():
                raise StorageError(
                    f"{self.path(key)}: what was written there is not what is read; choose another --results"
                )
        finally:
            self.delete(key)

    def path(self, key: str) -> str:
        """The object's full address, for messages."""
        return f"{self.root.rstrip('/')}/{key}".rstrip("/")

    @contextlib.contextmanager
    def _explained(self, doing: str, key: str, size: int | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            advice = ADVICE.get(number, "check that it can be reached (network, credentials) and try again")
            space = self._space(size) if number in (errno.ENOSPC, errno.EDQUOT) and size is not None else ""
            cause = error.strerror or str(error)
            raise StorageError(f"cannot {doing} {self.path(key)}: {cause}{space}; {advice}") from error

    def _space(self, size: int) -> str:
        if self.local is None or not self.local.exists():
            return f" ({size:,} bytes needed)"
        return f" ({size:,} bytes needed, {shutil.disk_usage(self.local).free:,} free)"


def check_key(key: str) -> str:
    """`key` itself, if it is a relative posix path that stays where it is; ValueError otherwise (faults 33)."""
    if not all(PART.fullmatch(part) for part in key.split("/")):
        raise ValueError(
            f"{key!r} cannot be the name of a stored object: parts between '/' begin with a letter, digit or '_' and go"
            " on with those or any of '.+=,@-', up to 200 characters"
        )
    return key


def _backend(root: str, filesystem: FileSystem | None, shown: str) -> Backend:
    if filesystem is None and "://" not in root:
        return Local(root)
    if filesystem is None:
        from pyarrow.fs import FileSystem, LocalFileSystem

        try:
            filesystem, root = FileSystem.from_uri(root)
        except (ValueError, OSError, NotImplementedError) as error:  # ArrowInvalid is a ValueError
            reason = str(error).replace(root, shown)
            raise StorageError(
                f"cannot use {shown}: {reason}; name a folder, or a bucket as s3://bucket/prefix"
            ) from error
        if isinstance(filesystem, LocalFileSystem):  # file:///...
            return Local(root)
    return Remote(filesystem, root)
