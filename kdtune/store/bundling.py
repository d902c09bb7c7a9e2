"""A bundle of a sweep's finished runs, written from the store. What stands in one: see `bundle`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from kdtune.store import tar
from kdtune.store.bundle import (
    FORMAT,
    MANIFEST,
    PLAN,
    VIEW,
    check_description,
    check_record,
    is_folder,
    is_shown,
    search_of,
)
from kdtune.store.done import read_done
from kdtune.store.encoding import digest, seal
from kdtune.store.evaluations import fitting
from kdtune.store.folder import NO_LINKS
from kdtune.store.layout import DESCRIPTION, EVALUATIONS, HASH, WEIGHTS, done_key, proposal_key, run_folder
from kdtune.store.objects import Objects
from kdtune.store.searches import Searches
from kdtune.store.standing import READERS
from kdtune.store.tar import BundleError


@dataclass(frozen=True)
class Contents:
    """What a bundle of a sweep holds: the digest of each file by name; and which of its runs are not finished."""

    sweep: str
    profile: str
    files: dict[str, str]
    runs: list[str]
    left: list[str]


def contents(objects: Objects, sweep: str, profile: str, ids: Iterable[str]) -> Contents:
    """What lies in a sweep's folder, of its search, and of these runs. BundleError where a file of a finished one, or a
    proposal, is not as it was."""
    folder = f"{sweep}/{profile}"
    if not is_folder(sweep, profile):
        raise BundleError(f"{folder!r} is no folder that a sweep has: {objects.path('')} is not where its runs are")
    files = {}
    listed = [name.removeprefix(f"{folder}/") for name in objects.list(folder)]
    for name in (*VIEW, *(name for name in listed if is_shown(name) and name not in VIEW)):
        if (data := objects.get(f"{folder}/{name}")) is None:
            raise BundleError(f"{objects.path(f'{folder}/{name}')} is missing; the sweep's own command writes it anew")
        files[f"{folder}/{name}"] = digest(data)
        files |= _proposed(objects, search_of(data)) if name == PLAN else {}
    ids = [*dict.fromkeys(ids)]
    with ThreadPoolExecutor(READERS) as pool:  # a bucket takes tens of milliseconds for each
        found = dict(zip(ids, pool.map(lambda id: _of_run(objects, id), ids), strict=True))
    for each in found.values():
        files |= each or {}
    finished, left = ([id for id in ids if (found[id] is not None) is there] for there in (True, False))
    return Contents(sweep, profile, files, finished, left)


def _proposed(objects: Objects, search: str) -> dict[str, str]:
    """The digest of each record of a search by key."""
    files = {}
    for number in Searches(objects, search).numbers() if search else ():
        key = proposal_key(search, number)
        data = objects.get(key) or b""
        check_record(f"{objects.path(key)}, which the sweep's own command makes anew,", data)
        files[key] = digest(data)
    return files


def _of_run(objects: Objects, id: str) -> dict[str, str] | None:
    """The digest of each of its files by key, None of a run that is not finished."""
    if (done := read_done(objects, id)) is None:
        return None
    attempt = f"{run_folder(id)}/{done.attempt}"
    files = {f"{attempt}/{name}": value for name, value in done.files.items()}
    check_description(id, _sound(objects, f"{attempt}/{DESCRIPTION}", done.files.get(DESCRIPTION, "")))
    for key in objects.list(f"{attempt}/{EVALUATIONS}"):
        name, _, kind = key.rpartition("/")[2].rpartition(".")
        if kind == "json" and HASH.fullmatch(name) and WEIGHTS in done.files:
            data = objects.get(key) or b""
            try:
                arrays = fitting(data, id, done.files[WEIGHTS])["arrays_sha256"]
            except ValueError as error:
                raise BundleError(f"{objects.path(key)} is damaged: {error}") from error
            files[key] = digest(data)
            files |= {f"{key.removesuffix('.json')}.npz": str(arrays)} if arrays is not None else {}
    return files | {done_key(id): digest(objects.get(done_key(id)) or b"")}


def write(objects: Objects, held: Contents, path: Path) -> str:
    """Writes the bundle to where nothing is yet; the digest of its manifest.

    BundleError where a file is not as it was written, `path` is there or cannot be written: nothing is left behind.
    """
    about = {"format": FORMAT, "sweep": held.sweep, "profile": held.profile, "members": held.files}
    manifest = seal(about)
    files = ((name, _sound(objects, name, held.files[name])) for name in sorted(held.files))
    with _put_in_place(path) as file:
        for piece in tar.written(chain([(MANIFEST, manifest)], files)):
            file.write(piece)
    return digest(manifest)


def _sound(objects: Objects, key: str, wanted: str) -> bytes:
    data = objects.get(key)
    if data is None or digest(data) != wanted:
        raise BundleError(
            f"{objects.path(key)} is {'missing' if data is None else 'damaged'}: it does not fit its digest. Put it"
            " back, or let the sweep's own command make it anew, a run after `kdtune forget`; nothing was written"
        )
    return data


def refuse_taken(path: Path) -> None:
    """BundleError where something is there already."""
    if os.path.lexists(path):
        raise BundleError(f"{path} is there already, and nothing is overwritten; name another file, or move it")


@contextlib.contextmanager
def _put_in_place(path: Path) -> Iterator[BinaryIO]:
    """A file of another name beside `path`, which gets that name in the end, if it is free still."""
    refuse_taken(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)  # fails where there is one, as a rename would not
        except OSError as error:
            refuse_taken(path)
            if error.errno not in NO_LINKS:
                raise
            os.rename(aside, path)  # a stick with FAT
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror or error}; nothing is left of it") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
