"""Whole objects by key under one root: a folder (NFS too), or a bucket (`s3://`, `gs://`, `az://`).

Nothing here appends, and nobody may conclude anything from a rename: an object is written whole or it is not there.
`create` and `replace` are decided by the place itself, so of two writers one is refused, wherever they are.
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
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from kdtune.store.backend import GONE, Backend
from kdtune.store.bucket import Bucket
from kdtune.store.folder import Folder

if TYPE_CHECKING:
    from obstore.store import ObjectStore

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
    errno.ELOOP: "only the results folder itself and `runs` in it may be links: put a folder there, or choose another"
    " place with --results",
    errno.ENOLCK: "no file can be locked there: mount it with locks, or choose another place with --results",
    errno.EOPNOTSUPP: "no file can be locked there: mount it with locks, or choose another place with --results",
    errno.EISDIR: "a folder stands where a file should be: move it, or choose another place with --results",
}


class StorageError(Exception):
    """The storage refused: names the path, the cause, and what would do. Objects stored before are as they were.

    `gone` where it does not answer at all, after it was waited for: nothing that was asked of it is to blame.
    """

    gone = False


def is_gone(error: BaseException | None) -> bool:
    """Whether it says that the storage has gone."""
    return isinstance(error, StorageError) and error.gone


class Objects:
    """The objects under `root`: a local path, or the URI of a bucket; `store` is an obstore store to take for it.

    Keys are relative posix paths; a key that could leave the root ("../x", "/x") raises ValueError. No link below the
    root is followed but `runs`, which may lie on another disk: StorageError.
    """

    def __init__(self, root: str | os.PathLike[str], store: ObjectStore | None = None) -> None:
        self.root = os.fspath(root)
        self._backend = _backend(self.root, store)

    @property
    def local(self) -> Path | None:
        """The root as a folder of this machine, None where it is not one."""
        return Path(self._backend.root) if isinstance(self._backend, Folder) else None

    def put(self, key: str, data: bytes) -> None:
        """Write the object, replacing what was there. Local: readers see the old bytes or the new, never a mixture."""
        with self._explained("write", key, len(data)):
            self._backend.write(check_key(key), data, durable=True)

    def publish(self, folder: str, name: str, data: bytes) -> None:
        """Write a file for people and other programs, under a name of its own below `folder`: it is no object of ours,
        and neither listed nor read here."""
        if any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
            raise ValueError(f"{name!r} could lead out of {folder}")
        with self._explained("write", folder, len(data)):
            self._backend.write(f"{check_key(folder)}/{name}", data, durable=False)

    def published(self, folder: str) -> list[str]:
        """Names below `folder` of whatever lies there, `publish`ed files too."""
        with self._explained("list", folder):
            return sorted(key.removeprefix(f"{folder}/") for key in self._backend.names(check_key(folder)))

    def unpublish(self, folder: str, name: str) -> None:
        """Delete a file that was published."""
        with self._explained("delete", folder):
            self._backend.delete(f"{check_key(folder)}/{name}")

    def create(self, key: str, data: bytes, durable: bool = True) -> bool:
        """Write the object only if there is none; True if this call did. Of many callers exactly one gets True.

        With `durable` off (claims) a power cut may take it back, and nobody waits for a busy disk.
        """
        with self._explained("write", key, len(data)):
            return self._backend.create(check_key(key), data, durable)

    def versioned(self, key: str) -> tuple[bytes, Any] | None:
        """The object's bytes and their version, for `replace`; None if there is none."""
        with self._explained("read", key):
            return self._backend.versioned(check_key(key))

    def replace(self, key: str, data: bytes, version: Any) -> bool:
        """Write the object if what is there is still of this version; True if this call did. Not flushed to disk."""
        with self._explained("write", key, len(data)):
            return self._backend.replace(check_key(key), data, version)

    def get(self, key: str) -> bytes | None:
        """The object's bytes, None if there is none. A folder is none."""
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

    def sizes(self, folder: str = "") -> dict[str, tuple[int, float]]:
        """What `list` lists, with bytes, and when each was last written, in seconds since 1970 by the place's clock."""
        with self._explained("list", folder):
            found = dict(self._backend.sizes(check_key(folder) if folder else ""))
            return {key: found[key] for key in sorted(found) if all(PART.fullmatch(part) for part in key.split("/"))}

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""
        with self._explained("delete", key):
            self._backend.delete(check_key(key))

    def move(self, key: str, to: str) -> None:
        """Move the object, or all below a folder, to where nothing is yet; nothing happens if there is none.

        Local: a rename. Remote: a copy of each object, then their deletion.
        """
        with self._explained("move", key):
            self._backend.move(check_key(key), check_key(to))

    def refuse_link(self, key: str) -> None:
        """StorageError if the object or folder is a link, or below one: for those who write there by themselves."""
        with self._explained("write to", key):
            self._backend.refuse_link(check_key(key))

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

    def knock(self) -> None:
        """StorageError where a bucket does not answer within seconds: whatever is asked later is waited for."""
        with self._explained("use", ""):
            self._backend.knock()

    def probe(self) -> None:
        """Whether the place does all this to a small object: StorageError now, not after the first epoch (faults 10).

        A bucket that does not answer is given seconds, not minutes.
        """
        # In a folder of its own, so that a listing is short; no sweep has that name (`settings.place_name`).
        key, data = f"_probe-{secrets.token_hex(6)}/object", secrets.token_bytes(64)
        with self._explained("use", ""):
            if wrong := self._backend.probe(key, data):
                raise StorageError(f"{self.path(key)}: {wrong}; choose another --results")

    def path(self, key: str) -> str:
        """The object's full address, for messages."""
        return self._address(key)[0]

    def uri(self, key: str) -> str:
        """The same for a command: of a bucket with endpoint and region, without which another service is asked."""
        return "".join(self._address(key))

    def _address(self, key: str) -> tuple[str, str]:
        """Where it is, and what a URI says behind its question mark. A folder's name may have one."""
        base, query, options = self.root.partition("?") if self.local is None else (self.root, "", "")
        return f"{base.rstrip('/')}/{key}".rstrip("/"), query + options

    @contextlib.contextmanager
    def _explained(self, doing: str, key: str, size: int | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            advice = ADVICE.get(number, "check that it can be reached (network, credentials) and try again")
            space = self._space(size) if number in (errno.ENOSPC, errno.EDQUOT) and size is not None else ""
            cause = error.strerror or str(error)
            refused = StorageError(f"cannot {doing} {self.path(key)}: {cause}{space}; {advice}")
            refused.gone = number in GONE
            raise refused from error

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


def _backend(root: str, store: ObjectStore | None) -> Backend:
    if store is not None:
        return Bucket(root, store)
    scheme, there, rest = root.partition("://")
    if not root:
        raise StorageError("--results is empty; name a folder, or a bucket as s3://bucket/prefix")
    if not there and re.match(r"[a-z][a-z0-9]+:/", root):
        raise StorageError(f"cannot use {root}: s3://bucket/prefix has two slashes; a folder so named is ./{root}")
    if not there or scheme == "file":
        return Folder(unquote(rest) if there else root)
    authority = rest.partition("/")[0]
    if "@" in authority or (":" in authority and "@" in rest):  # a key may have a slash
        raise StorageError(
            f"cannot use {scheme}://...@{rest.rpartition('@')[2].partition('?')[0]}: credentials do not belong into "
            "--results, where others read them; give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, by `aws "
            "configure`, or to the machine"
        )
    try:
        return Bucket(root)
    except OSError as error:
        raise StorageError(
            f"cannot use {root.partition('?')[0]}: {error.strerror or error}; name a folder, or a bucket as s3://bucket/prefix"
        ) from error
