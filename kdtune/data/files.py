"""Folders of image files: their content digest, and their pixels, decoded once per machine and memory-mapped after.

A folder is read as SPLIT/CLASS/FILE, or CLASS/FILE when it holds a single set. Files are .jpg, .jpeg or .png; any other
file and whatever starts with a dot is passed over. The data folder then holds

    decoded/digests/<key>        the digest of a folder whose names, sizes and times were seen before
    decoded/<digest>/            one .npy of pixels per split, and contents.json, written last

Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from filelock import FileLock

SUFFIXES = (".jpg", ".jpeg", ".png")


class DataError(Exception):
    """Missing or damaged data. The message says where it was looked for and what would do."""


class Arrays(NamedTuple):
    """Labelled images by split: uint8 [N, C, H, W] and int64 [N] indices into `class_names`."""

    class_names: tuple[str, ...]
    splits: dict[str, tuple[numpy.ndarray, numpy.ndarray]]


class Listing(NamedTuple):
    """The image files of a folder: by split, the files of every class in order of class and name."""

    path: Path
    class_names: tuple[str, ...]
    files: dict[str, list[list[os.DirEntry[str]]]]

    def all(self) -> list[os.DirEntry[str]]:
        return [file for classes in self.files.values() for files in classes for file in files]

    def relative(self, file: os.DirEntry[str]) -> bytes:
        return os.fsencode(file.path[len(str(self.path)) + 1 :].replace(os.sep, "/"))


def list_images(path: Path, splits: tuple[str, ...]) -> Listing:
    """What lies under path/SPLIT/CLASS; `splits` is ("",) for path/CLASS. Classes are ordered by name.

    Errors: DataError for a missing folder, a split without classes, an empty class, splits of different classes.
    """
    path = path.absolute()
    names: dict[str, tuple[str, ...]] = {}
    files: dict[str, list[list[os.DirEntry[str]]]] = {}
    for split in splits:
        folder = path / split
        classes = sorted((entry for entry in _visible(folder) if entry.is_dir()), key=lambda entry: entry.name)
        if not classes:
            raise DataError(f"{folder}: no class folders; expected {folder / 'CLASS' / 'FILE.png'} (or .jpg)")
        names[split] = tuple(entry.name for entry in classes)
        files[split] = [_images(Path(entry.path)) for entry in classes]
    first, *others = names
    for other in others:
        if names[other] != names[first]:
            odd = ", ".join(sorted(set(names[first]) ^ set(names[other])))
            raise DataError(f"{path}: {first} and {other} must hold the same classes; only one of them has {odd}")
    return Listing(path, names[first], files)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot list this folder of images ({error.strerror}); check `path`") from error


def _images(folder: Path) -> list[os.DirEntry[str]]:
    found = [entry for entry in _visible(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
    if not found:
        raise DataError(f"{folder}: no image files ({', '.join(SUFFIXES)}); add some, or remove the class folder")
    return sorted(found, key=lambda entry: entry.name)


def digest(listing: Listing, data_dir: Path) -> str:
    """16 hex digits of a SHA-256 over relative names and bytes. Quick when nothing was touched since the last time."""
    seen = hashlib.sha256(os.fsencode(listing.path.resolve()))
    for file in listing.all():
        stat = file.stat()
        seen.update(b"\0%s\0%d\0%d" % (listing.relative(file), stat.st_size, stat.st_mtime_ns))
    known = data_dir / "decoded" / "digests" / seen.hexdigest()[:32]
    if not _remembered(known):
        with locked(known):
            if not _remembered(known):
                content = hashlib.sha256()
                for file in listing.all():
                    _read(listing, file, content)
                known.with_suffix(".part").write_text(content.hexdigest()[:16])
                known.with_suffix(".part").replace(known)
    return known.read_text()


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
    contents: dict[str, Any] = {"class_names": listing.class_names, "splits": {}}
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
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return numpy.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file.path}: not a readable image ({error}); replace or remove it") from error


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
