"""The two kinds of place where objects lie: a folder, and a pyarrow filesystem. Only `objects` uses this.

Both take checked keys and raise OSError; `objects` turns it into advice.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

LOCK = ".lock"
LOCK_PATIENCE = 60.0  # seconds; the lock is only ever held for milliseconds
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # FAT, some FUSE mounts


class Backend(ABC):
    """What a place must be able to do. `root` has no trailing slash."""

    root: str

    @abstractmethod
    def write(self, key: str, data: bytes, durable: bool) -> None: ...

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool: ...

    @abstractmethod
    def read(self, key: str) -> bytes | None: ...

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def names(self, folder: str) -> Iterator[str]: ...

    @abstractmethod
    def delete(self, key: str) -> None: ...

    @abstractmethod
    def preserve(self, key: str, aside: str) -> None: ...

    @abstractmethod
    def lock(self) -> contextlib.AbstractContextManager[object]: ...

    @abstractmethod
    def remove_leftovers(self, folder: str, age: float) -> None: ...


class Local(Backend):
    """A folder. Objects are written aside as `.<name>.<random>.tmp`, flushed to the disk, then put in place."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(os.path.expanduser(root))

    def write(self, key: str, data: bytes, durable: bool) -> None:
        path = self._path(key)
        with self._aside(path, data, durable) as aside:
            os.replace(aside, path)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        if os.path.lexists(path):
            return False
        with self._aside(path, data) as aside:
            try:
                os.link(aside, path)  # fails where there is one, atomically, on NFS too
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return _create_in_place(path, data)
        return True

    def read(self, key: str) -> bytes | None:
        try:
            with open(self._path(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, key: str) -> bool:
        return os.path.isfile(self._path(key))

    def names(self, folder: str) -> Iterator[str]:
        for key, entry in self._walk(folder):
            if not entry.name.startswith("."):
                yield key

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._path(key))

    def preserve(self, key: str, aside: str) -> None:
        try:
            os.link(self._path(key), self._path(aside))  # a second name for the same bytes: works on a full disk too
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            shutil.copyfile(self._path(key), self._path(aside))

    def lock(self) -> contextlib.AbstractContextManager[object]:
        from filelock import FileLock

        os.makedirs(self.root, exist_ok=True)
        return FileLock(os.path.join(self.root, LOCK), timeout=LOCK_PATIENCE, poll_interval=0.01)

    def remove_leftovers(self, folder: str, age: float) -> None:
        for _, entry in self._walk(folder):
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > age:
                        os.unlink(entry.path)

    def _path(self, key: str) -> str:
        path = os.path.join(self.root, key) if key else self.root
        real = os.path.realpath(path)
        if real != path and not real.startswith(self.root.rstrip("/") + "/"):
            raise ValueError(
                f"{path} leads out of {self.root} by a link (to {real}); links may not leave the results folder"
            )
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


class Remote(Backend):
    """A pyarrow filesystem: an object store, in which an object appears when its stream is closed."""

    def __init__(self, filesystem: FileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        # Object stores have no folders; making them would cost a request and a permission each.
        self.has_folders = filesystem.type_name not in ("s3", "gcs", "abfs")

    def write(self, key: str, data: bytes, durable: bool) -> None:
        path = self._path(key)
        if self.has_folders and "/" in path:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self.filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)

    def create(self, key: str, data: bytes) -> bool:
        if self.exists(key):
            return False
        self.write(key, data, durable=True)
        return True

    def read(self, key: str) -> bytes | None:
        try:
            with self.filesystem.open_input_stream(self._path(key), compression=None) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, key: str) -> bool:
        return bool(self.filesystem.get_file_info(self._path(key)).is_file)

    def names(self, folder: str) -> Iterator[str]:
        from pyarrow.fs import FileSelector

        inside = len(self.root) + 1 if self.root else 0
        selector = FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        try:
            infos = self.filesystem.get_file_info(selector)
        except NotADirectoryError:
            return
        yield from (info.path[inside:] for info in infos if info.is_file)

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.filesystem.delete_file(self._path(key))

    def preserve(self, key: str, aside: str) -> None:
        self.filesystem.copy_file(self._path(key), self._path(aside))

    def lock(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def remove_leftovers(self, folder: str, age: float) -> None:
        """An object store drops unfinished uploads itself."""

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if self.root and key else self.root or key


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
