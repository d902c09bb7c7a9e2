"""A folder as a place for objects, on this machine or on a network file system. Only `objects` uses this.

Of our own, because libraries for object stores do not do what results on a disk need: nothing counts before it has
reached the disk (fsync of file and folder), what a killed writer leaves is hidden, no link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from kdtune.store.backend import Backend, patient

LOCK = ".lock"
LOCK_PATIENCE = 60.0  # seconds; the lock is only ever held for milliseconds
MAY_BE_LINKED = "runs"  # a folder below the root that may be a link: to a larger disk, say
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # FAT, some FUSE mounts


class Folder(Backend):
    """A folder. Objects are written aside as `.<name>.<random>.tmp`, flushed to the disk, then put in place."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(os.path.expanduser(root))

    @patient
    def write(self, key: str, data: bytes, durable: bool) -> None:
        path = self._path(key)
        with self._aside(path, data, durable) as aside:
            os.replace(aside, path)

    @patient
    def create(self, key: str, data: bytes, durable: bool) -> bool:
        path = self._path(key)
        if os.path.lexists(path):
            return False
        with self._aside(path, data, durable) as aside:
            try:
                os.link(aside, path)  # fails where there is one, atomically, on NFS too
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return _create_in_place(path, data)
        return True

    @patient
    def read(self, key: str) -> bytes | None:
        try:
            with open(self._path(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # a folder is no object
            return None

    def versioned(self, key: str) -> tuple[bytes, Any] | None:
        data = self.read(key)
        return None if data is None else (data, data)

    @patient
    def replace(self, key: str, data: bytes, version: Any) -> bool:
        with self.lock():
            if version is None or self.read(key) != version:
                return False
            self.write(key, data, durable=False)
            return True

    def knock(self) -> None:
        """A folder is here."""

    def probe(self, key: str, data: bytes) -> str:
        folder = os.path.dirname(key)
        try:
            self.write(key, data, durable=True)
            with _locked(self._path(f"{folder}/{LOCK}")):
                pass  # some network file systems have no locks
            whole = self.read(key) == data and key in self.names(folder)
            return "" if whole else "what was written there is not what is read"
        finally:
            self.delete(key)
            self.delete(f"{folder}/{LOCK}")
            with contextlib.suppress(OSError):  # NFS keeps for a while what somebody has open
                os.rmdir(self._path(folder))

    @patient
    def exists(self, key: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self._path(key)).st_mode)  # os.path.isfile takes every error for a no
        except (FileNotFoundError, NotADirectoryError):
            return False

    @patient
    def names(self, folder: str) -> Iterator[str]:
        return iter([key for key, entry in self._walk(folder) if not entry.name.startswith(".")])

    @patient
    def sizes(self, folder: str) -> Iterator[tuple[str, tuple[int, float]]]:
        found = []
        for key, entry in self._walk(folder):
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # it has gone just now
                    about = entry.stat(follow_symlinks=False)
                    found.append((key, (about.st_size, about.st_mtime)))
        return iter(found)

    @patient
    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._path(key))

    @patient
    def preserve(self, key: str, aside: str) -> None:
        try:
            os.link(self._path(key), self._path(aside))  # a second name for the same bytes: works on a full disk too
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            shutil.copyfile(self._path(key), self._path(aside))

    @patient
    def move(self, key: str, to: str) -> None:
        source, target = self._path(key), self._path(to)
        if os.path.lexists(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.move(source, target)  # a rename; between two disks a copy

    @patient
    def refuse_link(self, key: str) -> None:
        self._path(key)

    @patient
    def lock(self) -> contextlib.AbstractContextManager[object]:
        os.makedirs(self.root, exist_ok=True)
        return _locked(os.path.join(self.root, LOCK))

    @patient
    def remove_leftovers(self, folder: str, age: float) -> None:
        for _, entry in self._walk(folder):
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > age:
                        os.unlink(entry.path)

    def _path(self, key: str) -> str:
        """Where the object lies. OSError where a link is on the way: the root and `runs` alone may be links."""
        path = expected = os.path.join(self.root, key) if key else self.root
        runs = os.path.join(self.root, MAY_BE_LINKED)
        if os.path.islink(runs) and f"{path}/".startswith(f"{runs}/"):
            real = os.path.realpath(runs)
            if not os.path.isdir(real):
                raise OSError(errno.ENODEV, f"{runs} is a link to {real}, which is not there")
            expected = real + path.removeprefix(runs)
        if os.path.realpath(path) != expected:
            way = accumulate(path.split("/"), "{}/{}".format)
            link = next((part for part in way if part != runs and os.path.islink(part)), path)
            raise OSError(errno.ELOOP, f"{link} is a link (to {os.path.realpath(link)})")
        return path

    def _walk(self, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            entries = os.scandir(self._path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(key)
                elif entry.is_file(follow_symlinks=False):
                    yield key, entry

    @contextlib.contextmanager
    def _aside(self, path: str, data: bytes, durable: bool = True) -> Iterator[str]:
        """The bytes, on the disk if `durable`, under a name of their own beside `path`, which is gone afterwards."""
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        aside = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
        try:
            # Not tempfile: its files are unreadable for others, and results are shared.
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            yield aside
            if durable:
                _sync_folder(folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)


def _create_in_place(path: str, data: bytes) -> bool:
    """Without hard links: still only one creator, but a crash can leave a part, which readers find damaged."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return True


def _sync_folder(folder: str) -> None:
    """Make a new name in the folder survive a power cut, where the filesystem can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _locked(path: str) -> contextlib.AbstractContextManager[object]:
    from filelock import FileLock

    return FileLock(path, timeout=LOCK_PATIENCE, poll_interval=0.01).acquire()
