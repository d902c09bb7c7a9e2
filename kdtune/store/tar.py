"""Tar archives of one kind: files by key, one after the other, with neither owners nor modes nor dates of their own.

The same files always give the same bytes. A reader holds every header against the one that would be written here, so
whatever else a tar may hold is refused before any of it is used: links, devices, folders, long or odd names, sparse
files, a name twice, something behind its end. Every tar program reads such an archive.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
LEAST_END = 2 * BLOCK  # of zeros, which say that nothing follows; the file is then filled up to whole records
SHOWN = 80  # characters of a name in a message


class BundleError(Exception):
    """What cannot be handed on, or taken in: says which file it is about, and why."""


@dataclass(frozen=True)
class Member:
    """Where the bytes of a file lie in an archive."""

    start: int
    size: int


def written(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The archive of these files, piece by piece. BundleError for a name or a size that no header can hold."""
    place = 0
    for name, data in files:
        try:
            head = _header(name, len(data))
        except ValueError as error:
            raise BundleError(f"{name} cannot stand in a tar archive: {error}") from error
        yield head
        yield data
        yield bytes(-len(data) % BLOCK)
        place = _behind(place + BLOCK, len(data))
    yield bytes(_whole(place) - place)


def members(file: BinaryIO) -> dict[str, Member]:
    """The files of an archive by name, in their order. BundleError where it is not just as `written` writes it."""
    size = file.seek(0, os.SEEK_END)
    found: dict[str, Member] = {}
    place = 0
    while True:
        file.seek(place)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise BundleError(_cut(size) if found else "it is no tar archive")
        if not any(block):
            break
        name, length = _named(block, first=not found)
        if name in found:
            raise BundleError(f"{_quoted(name)} stands in it twice")
        found[name] = Member(place + BLOCK, length)
        place = _behind(place + BLOCK, length)
        if place > size:
            raise BundleError(f"{_quoted(name)} says that it has {length:,} bytes, more than are there: {_cut(size)}")
    _check_end(file, place, size)
    return found


def _check_end(file: BinaryIO, place: int, size: int) -> None:
    """Nothing but zeros, up to where a whole archive ends."""
    if size < _whole(place):
        raise BundleError(_cut(size))
    file.seek(place)
    if size > _whole(place) or any(file.read(size - place)):
        raise BundleError("something follows behind its end")


def _named(block: bytes, first: bool) -> tuple[str, int]:
    """Name and size of a file by its header. BundleError for a header of anything else."""
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "backslashreplace")
    except tarfile.HeaderError as error:
        raise BundleError("it is no tar archive" if first else "a header in it is damaged") from error
    try:
        plain = block == _header(info.name, info.size)
    except ValueError:
        plain = False
    if not plain:
        raise BundleError(f"{_quoted(info.name)} is {_what(info)} that `kdtune bundle` does not write")
    return info.name, info.size


def _what(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "a symbolic link" if info.issym() else "a hard link"
    if info.isdev():
        return "a device"
    return "a folder" if info.isdir() else "a file of a kind, an owner, a date or a name"


def _header(name: str, size: int) -> bytes:
    """A plain file's, with tarfile's own mode and no owner; ValueError where name or size do not fit into it."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _behind(start: int, size: int) -> int:
    return start + size + -size % BLOCK


def _whole(place: int) -> int:
    """The size of an archive whose last file ends here."""
    return place + LEAST_END + -(place + LEAST_END) % tarfile.RECORDSIZE


def _cut(size: int) -> str:
    return f"it is cut short, after {size:,} bytes"


def _quoted(name: str) -> str:
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")
