"""What lies in a folder of images: SPLIT/CLASS/FILE, or CLASS/FILE when it holds a single set.

Files are images by their suffix, in any format that Pillow reads (`pixels`). What else lies there, and whatever starts
with a dot, is passed over and named in a warning.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kdtune.data.error import DataError
from kdtune.data.pixels import suffixes

log = logging.getLogger(__name__)

NAMED = 8  # files that a warning names


class Listing(NamedTuple):
    """The image files of a folder: by split, the files of every class in order of class and name.

    `passed_over` are the names, relative to the folder, of what else lies there.
    """

    path: Path
    class_names: tuple[str, ...]
    files: dict[str, list[list[os.DirEntry[str]]]]
    passed_over: tuple[str, ...] = ()

    def all(self) -> list[os.DirEntry[str]]:
        return [file for classes in self.files.values() for files in classes for file in files]

    def relative(self, file: os.DirEntry[str]) -> bytes:
        return os.fsencode(file.path[len(str(self.path)) + 1 :].replace(os.sep, "/"))


class Entries(NamedTuple):
    """What lies in one folder, each part in order of name."""

    folders: list[os.DirEntry[str]]
    images: list[os.DirEntry[str]]
    others: list[os.DirEntry[str]]  # no image by its suffix, or hidden


def list_images(path: Path, splits: tuple[str, ...]) -> Listing:
    """What lies under path/SPLIT/CLASS; `splits` is ("",) for path/CLASS. Classes are ordered by name.

    Errors: DataError for a missing folder, a split without classes, an empty class, a folder inside a class folder,
    splits of different classes.
    """
    path = path.absolute()
    names: dict[str, tuple[str, ...]] = {}
    files: dict[str, list[list[os.DirEntry[str]]]] = {}
    others = [] if splits == ("",) else _beside(path, splits)
    for split in splits:
        folder = path / split
        found = _entries(folder)
        if not found.folders:
            raise DataError(f"{folder}: no class folders; expected {folder / 'CLASS' / 'FILE.png'} (or .jpg)")
        names[split] = tuple(entry.name for entry in found.folders)
        classes = [_class_entries(Path(entry.path)) for entry in found.folders]
        files[split] = [each.images for each in classes]
        others += [*found.images, *found.others, *(other for each in classes for other in each.others)]
    first, *rest = names
    for other in rest:
        if names[other] != names[first]:
            odd = ", ".join(_told(sorted(set(names[first]) ^ set(names[other]))))
            raise DataError(f"{path}: {first} and {other} must hold the same classes; only one of them has {odd}")
    return Listing(path, names[first], files, tuple(os.path.relpath(other.path, path) for other in others))


def _told(names: list[str]) -> list[str]:
    """Names as they are; letter by letter where two of them look alike, as macOS and others spell them."""
    alike = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
    return [ascii(name) for name in names] if alike else names


def _entries(folder: Path) -> Entries:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot list this folder of images ({error.strerror}); check `path`") from error
    parts = Entries([], [], [])
    for entry in entries:
        if entry.name.startswith("."):
            parts.others.append(entry)
        elif _leads(entry.is_dir):
            parts.folders.append(entry)
        else:
            is_image = Path(entry.name).suffix.lower() in suffixes()
            (parts.images if is_image else parts.others).append(entry)
    return parts


def _leads(to: Callable[[], bool]) -> bool:
    """Whether an entry is a folder or a file, as `to` asks; a link that leads to itself is neither."""
    try:
        return to()
    except OSError:
        return False


def _class_entries(folder: Path) -> Entries:
    found = _entries(folder)
    if found.folders:
        raise DataError(
            f"{found.folders[0].path}: a folder inside a class folder; images lie in {folder} itself: move or remove it"
        )
    if not found.images:
        raise DataError(f"{folder}: no image files (.png, .jpg, ...); add some, or remove the class folder")
    for image in found.images:
        if not _leads(image.is_file):
            raise DataError(f"{image.path}: no file (a link that leads nowhere?); replace or remove it")
    return found


def _beside(path: Path, splits: tuple[str, ...]) -> list[os.DirEntry[str]]:
    """What lies beside the splits. A folder that cannot be listed has its error where a split is looked for in it."""
    if not os.path.isdir(path):  # pathlib raises OSError where the name is too long
        return []
    found = _entries(path)
    return [entry for entry in [*found.folders, *found.images, *found.others] if entry.name not in splits]


@cache  # a process lists a folder again and again
def tell(path: Path, passed_over: tuple[str, ...]) -> None:
    if passed_over:
        shown = ", ".join(passed_over[:NAMED]) + (", ..." if len(passed_over) > NAMED else "")
        log.warning("%s: passed over %d that are no images of a class: %s", path, len(passed_over), shown)
