"""Labels in a file of the user's own: .npy, .npz, .csv, or .pt, which is what CIFAR-10N is published as.

No code that a file may hold is run. torch is loaded for .pt alone. All errors are ValueErrors that name the file.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import re
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from kdtune import archive
from kdtune.settings import unknown

SUFFIXES = (".pt", ".pth", ".npy", ".npz", ".csv")
WHOLE = re.compile(r"-?[0-9]{1,18}")  # that int64 holds
CLEAN = "clean_label"  # what CIFAR-10N and CIFAR-100N call the labels of the data set itself, which they hold too


class LabelFile(NamedTuple):
    labels: numpy.ndarray  # int64 [N]
    clean: numpy.ndarray | None  # int64 [N]: the data set's own labels, where the file says which they are
    texts: Mapping[str, tuple[str, ...]]  # columns of text: the names of the images may be among them


def read_labels(path: str, key: str | None) -> LabelFile:
    """The labels under `key`; without one those of a file that holds no others. Read once, as long as it is as it was.

    Errors: ValueError for a file that cannot be read or holds anything but integers there, for a missing key, and for
    rows that are numbered in another order than the images.
    """
    try:
        if not stat.S_ISREG((seen := os.stat(path)).st_mode):
            raise ValueError("is no file")
        return _read(path, key, (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as labels ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@lru_cache(maxsize=8)
def _read(path: str, key: str | None, seen: tuple[int, ...]) -> LabelFile:
    content = _content(path)
    if not isinstance(content, Mapping):
        if key is not None:
            raise ValueError(f"key is {key!r}, but this file holds one array, which has no name; remove key")
        return LabelFile(_integers(content), None, {})
    named = {str(name): values for name, values in content.items()}
    labels = _integers(named[_chosen([*named], key)])
    for name, values in named.items():
        _refuse_other_order(name, values, len(labels))
    texts = {name: tuple(map(str, values)) for name, values in named.items() if _is_text(values)}
    return LabelFile(labels, _integers(named[CLEAN]) if CLEAN in named else None, texts)


def _is_text(values: Any) -> bool:
    if isinstance(values, list):
        return all(isinstance(each, str) for each in values)
    return isinstance(values, numpy.ndarray) and values.ndim == 1 and values.dtype.kind == "U"


def _content(path: str) -> Any:
    """An array, or arrays by name. Any exception is the file's fault: readers stumble over damage in many ways."""
    data, suffix = Path(path).read_bytes(), Path(path).suffix.lower()
    try:
        archive.check(data)
        if suffix in (".pt", ".pth"):
            return _pt(data)
        if suffix == ".csv":
            return _csv(data)
        content = numpy.load(io.BytesIO(data), allow_pickle=False)
        return {name: content[name] for name in content} if isinstance(content, Mapping) else content
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"cannot be read as labels ({' '.join(f'{type(error).__name__}: {error}'.split())})"
        ) from error


def _refuse_other_order(name: str, values: Any, count: int) -> None:
    """Raises ValueError for a column that numbers the rows, from 0 or 1, and not as they stand."""
    try:
        numbers = _integers(values)
    except ValueError:
        return
    for first in (0, 1):
        in_order = numpy.arange(first, first + count)
        if len(numbers) == count > 1 and (numpy.sort(numbers) == in_order).all() and (numbers != in_order).any():
            raise ValueError(f"its rows are not in the order of the images: {name or 'the column without a name'!r}")


def _chosen(names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is None:
        raise ValueError(f"holds {', '.join(names) or 'nothing'}; say which with key")
    if key not in names:
        raise ValueError(f"{unknown('key', key, names)}; it holds {', '.join(names) or 'nothing'}")
    return key


def _pt(data: bytes) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_arrays()):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = "holds more than arrays, lists and numbers, or is damaged, and is not opened: it might run code"
        raise ValueError(f"{what}; save the labels as .npy") from error
    except Exception as error:  # bytes at random make torch's reader stumble in many ways
        raise ValueError(f"is damaged ({type(error).__name__}: {error})") from error


def _arrays() -> list[Any]:
    """What a pickled NumPy array is put together with, under NumPy 1's names too: CIFAR-10N holds such arrays."""
    from numpy._core import multiarray

    makers = {"_reconstruct": multiarray._reconstruct, "scalar": multiarray.scalar}
    named = [(made, f"numpy.{core}.multiarray.{name}") for name, made in makers.items() for core in ("core", "_core")]
    return [*named, numpy.ndarray, numpy.dtype, *{type(numpy.dtype(code)) for code in "?bBhHiIlLqQefd"}]


def _csv(data: bytes) -> Any:
    """Columns by the names in the first row; a single column without a name is the labels."""
    first, *rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row] or [[]]
    if len(first) == 1 and WHOLE.fullmatch(first[0].strip()):
        return _numbers([row[0] for row in (first, *rows)])
    names = [name.strip() for name in first]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"has several columns {', '.join(map(repr, twice))}")
    if odd := next((row for row in rows if len(row) != len(first)), None):
        raise ValueError(f"a row has {len(odd)} columns, {','.join(odd)!r}, and the first {len(first)}")
    return {name: _numbers(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)} if rows else {}


def _numbers(column: Sequence[str]) -> numpy.ndarray:
    """A column of text as int64, if it is whole numbers, else as it is."""
    written = [text.strip() for text in column]
    if all(WHOLE.fullmatch(text) for text in written):
        return numpy.array(written, dtype=numpy.int64)
    return numpy.array(column)


def _integers(values: Any) -> numpy.ndarray:
    """int64 [N]."""
    try:
        array = numpy.asarray(values)
    except Exception as error:  # a tensor that is sparse, asks for gradients, has no numbers
        raise ValueError(f"holds {type(values).__name__}, which is no row of integers ({error})") from error
    if array.ndim != 1:
        raise ValueError(f"holds an array of shape {list(array.shape)}; labels are a row, one for each image")
    if odd := [text for text in array.tolist() if isinstance(text, str) and not WHOLE.fullmatch(text.strip())]:
        raise ValueError(f"holds {odd[0]!r}; labels are integers from 0")
    if array.dtype.kind not in "iu":
        raise ValueError(f"holds {array.dtype}; labels are integers from 0")
    return array.astype(numpy.int64)
