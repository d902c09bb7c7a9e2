"""Files of published sets: downloaded by torchvision where they are missing, aside and under a lock, and put in place
when they are complete."""

from __future__ import annotations

import gzip
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy

from kdtune.data.error import DataError
from kdtune.data.files import locked

TIMEOUT = 15.0  # seconds without an answer after which a download is given up


def fetched(read: Callable[[], Any], kind: Any, data_dir: Path, put: str, archive: str = "") -> Any:
    """What `read` gives, after a download by torchvision's class `kind` if files are missing. Once per machine: the
    second of two processes waits and reads what the first one fetched. An archive that lies in data_dir is used."""
    missing = (RuntimeError, FileNotFoundError)
    with suppress(*missing):
        return read()
    with locked(data_dir / kind.__name__):
        with suppress(*missing):
            return read()
        # inside data_dir, so that putting a file in place is a rename
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as aside:
            if archive and (data_dir / archive).is_file():
                shutil.copy(data_dir / archive, aside)
            try:
                with _timeout(TIMEOUT):
                    kind(aside, download=True)
            except (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError, zlib.error) as error:
                where = f"{kind.__name__} is missing or damaged in {data_dir} and cannot be downloaded"
                reason = " ".join(str(error).split())
                raise DataError(f"{where} ({reason}); put {put} there, or name its folder with --data DIR") from error
            for file in Path(aside).rglob("*"):
                if file.is_file() and file.suffix != ".gz":
                    target = data_dir / file.relative_to(aside)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
        return read()


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)  # torchvision passes none to urlopen
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_idx(path: Path) -> numpy.ndarray:
    """An array of bytes in LeCun's IDX format: two zeros, type, number of axes, then each axis as big-endian int32."""
    try:
        zipped = path.with_name(path.name + ".gz")
        content = bytearray(path.read_bytes() if path.is_file() else gzip.decompress(zipped.read_bytes()))
        shape = numpy.frombuffer(content, ">i4", count=content[3], offset=4)
        return numpy.frombuffer(content, numpy.uint8, offset=4 + 4 * content[3]).reshape(shape)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and run again") from error
