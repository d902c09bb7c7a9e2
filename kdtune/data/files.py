"""Folders of image files: their content digest, and their pixels, decoded once per machine and memory-mapped after.

What lies there is `listing`'s matter. The data folder then holds

    decoded/digests/<key>        the digest of a folder whose names, sizes, times and inodes were seen before
    decoded/<digest>/            one .npy of pixels per split, and contents.json, written last

Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from filelock import FileLock

from kdtune.data.error import DataError
from kdtune.data.listing import Listing, tell
from kdtune.data.pixels import read_pixels

log = logging.getLogger(__name__)

DECODING = 2  # of `pixels`: rises where the same files give other pixels; what an earlier one decoded is done again
TICK_S = 0.1  # a file system's clock goes in ticks of 10 ms at most; a file changed within one may look untouched


class Arrays(NamedTuple):
    """Labelled images by split: uint8 [N, C, H, W] and int64 [N] indices into `class_names`."""

    class_names: tuple[str, ...]
    splits: dict[str, tuple[numpy.ndarray, numpy.ndarray]]


def digest(listing: Listing, data_dir: Path) -> str:
    """16 hex digits of a SHA-256 over relative names and bytes. Quick when nothing was touched since the last time.

    Says, once in a process, what was passed over.
    """
    tell(listing.path, listing.passed_over)
    known = data_dir / "decoded" / "digests" / _seen(listing)
    if _remembered(known):
        return known.read_text()
    with locked(known):
        if _remembered(known):
            return known.read_text()
        newest = max(file.stat().st_ctime for file in listing.all())
        time.sleep(min(max(newest + TICK_S - time.time(), 0), TICK_S))  # after that, who writes moves a ctime
        content = hashlib.sha256()
        for file in listing.all():
            _read(listing, file, content)
        known.with_suffix(".part").write_text(content.hexdigest()[:16])
        known.with_suffix(".part").replace(known)
        return known.read_text()


def _seen(listing: Listing) -> str:
    """Another text whenever a file was written to, replaced or renamed, even if size and time of change were restored:
    nobody can set a file's ctime. 32 hex digits."""
    seen = hashlib.sha256(os.fsencode(listing.path.resolve()))
    for file in listing.all():
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read ({error.strerror})") from error
        numbers = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
        seen.update(b"\0%s\0%d\0%d\0%d\0%d" % (listing.relative(file), *numbers))
    return seen.hexdigest()[:32]


def _remembered(known: Path) -> bool:
    return known.is_file() and re.fullmatch("[0-9a-f]{16}", known.read_text()) is not None


def decoded(listing: Listing, data_dir: Path) -> Arrays:
    """The folder's images, RGB. Decoded under a lock if this machine has not done so, or if what it kept is damaged.

    Errors: DataError for a file that is no image, images of different sizes, a data folder that cannot be written.
    """
    kept = data_dir / "decoded" / digest(listing, data_dir)
    arrays = _kept(kept)
    if arrays is None:
        with locked(kept):
            arrays = _kept(kept)
            if arrays is None:
                aside = kept.with_suffix(".part")
                shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
                aside.mkdir()
                _decode(listing, kept.name, aside)
                shutil.rmtree(kept, ignore_errors=True)
                aside.rename(kept)
                arrays = _kept(kept)
    if arrays is None:
        raise DataError(f"{kept}: decoded images do not read back as they were written; check this disk")
    return arrays


def _decode(listing: Listing, expected: str, folder: Path) -> None:
    content, first = hashlib.sha256(), listing.all()[0]
    contents: dict[str, Any] = {"decoding": DECODING, "class_names": listing.class_names, "splits": {}}
    shape = _pixels(first, _read(listing, first)).shape
    for split, classes in listing.files.items():
        images = numpy.empty((sum(map(len, classes)), *shape), numpy.uint8)
        for index, file in enumerate(file for files in classes for file in files):
            pixels = _pixels(file, _read(listing, file, content))
            if pixels.shape != shape:
                sizes = f"{shape[2]} x {shape[1]} and {pixels.shape[2]} x {pixels.shape[1]}"
                raise DataError(f"images must share one size: {first.path} and {file.path} are {sizes}")
            images[index] = pixels
        saved = folder / f"{split or 'all'}.npy"
        numpy.save(saved, images)
        contents["splits"][split] = {"counts": [len(files) for files in classes], "sha256": _sha256(saved)}
    if content.hexdigest()[:16] != expected:
        raise DataError(f"{listing.path}: files changed while they were read; run again when they are complete")
    (folder / "contents.json").write_text(json.dumps(contents))


def _kept(folder: Path) -> Arrays | None:
    """What an earlier call decoded, or None where there is nothing or it is not what was written."""
    try:
        contents = json.loads((folder / "contents.json").read_text())
        if contents["decoding"] != DECODING:
            return None
        splits = {}
        for split, about in contents["splits"].items():
            saved = folder / f"{split or 'all'}.npy"
            if _sha256(saved) != about["sha256"]:
                return None
            # "c": pages are shared with every other process until written to
            images = numpy.load(saved, mmap_mode="c", allow_pickle=False)
            splits[split] = images, numpy.repeat(numpy.arange(len(about["counts"])), about["counts"])
        return Arrays(tuple(contents["class_names"]), splits)
    except (OSError, ValueError, KeyError):
        return None


def image_shape(listing: Listing) -> tuple[int, int, int]:
    """(3, height, width) of the folder's first image."""
    first = listing.all()[0]
    return _pixels(first, _read(listing, first)).shape


def _pixels(file: os.DirEntry[str], encoded: bytes) -> numpy.ndarray:
    try:
        return read_pixels(encoded)
    except ValueError as error:
        raise DataError(f"{file.path}: {error}") from error


def _read(listing: Listing, file: os.DirEntry[str], content: Any = None) -> bytes:
    try:
        with open(file.path, "rb") as opened:
            encoded = opened.read()
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read ({error.strerror})") from error
    if content is not None:
        content.update(b"%s\0%d\0" % (listing.relative(file), len(encoded)) + encoded)
    return encoded


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock beside `target`, whose folder is made where missing; one process on the machine at a time."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            yield
    except OSError as error:
        where = f"{target.parent}: cannot be written ({error})"
        raise DataError(f"{where}; name another data folder with --data DIR or KDTUNE_DATA") from error
