"""Published image sets: their constants, known without torch and without the files, and how the files are read.

Whatever is read is held against a published or pinned digest. What is missing is downloaded by torchvision, aside and
under a lock, and put in place when it is complete.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy

from kdtune.data.files import Arrays, DataError, locked

TIMEOUT = 15.0  # seconds without an answer after which a download is given up
NUMERALS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Published:
    """A set whose content never changes. `content` is its digest: the published archive's MD5 for CIFAR, which
    vouches for the files whose MD5s torchvision checks; for the others `content_digest` of the genuine files."""

    title: str
    image_shape: tuple[int, int, int]
    class_count: int
    total: int  # training images
    content: str
    read_files: Callable[[Path], Arrays]
    checked: bool = False  # `read_files` checks by itself

    def digest(self, data_dir: Path) -> str:
        return self.content

    def shape(self) -> tuple[int, int, int]:
        return self.image_shape

    def classes(self) -> int:
        return self.class_count

    def train_total(self) -> int:
        return self.total

    def read(self, data_dir: Path) -> Arrays:
        """The set's images and labels. Errors: DataError where files are missing and cannot be had, or are damaged."""
        arrays = self.read_files(data_dir)
        if not self.checked and content_digest(arrays) != self.content:
            what = f"{self.title}: the files read for {data_dir} are not the published ones"
            raise DataError(f"{what} (content {content_digest(arrays)}, not {self.content}); delete them and run again")
        return arrays


def content_digest(arrays: Arrays) -> str:
    """16 hex digits of a SHA-256 over pixels, then labels (a byte each), of every split: train, test, shifted ones."""
    content = hashlib.sha256()
    for images, labels in arrays.splits.values():
        content.update(numpy.ascontiguousarray(images).tobytes())
        content.update(labels.astype(numpy.uint8).tobytes())
    return content.hexdigest()[:16]


def _cifar(source: str) -> Callable[[Path], Arrays]:
    def read(data_dir: Path) -> Arrays:
        from torchvision import datasets

        kind = getattr(datasets, source)

        def sets() -> tuple[Any, Any]:  # RuntimeError where a file is missing or its MD5 differs
            return kind(data_dir, train=True), kind(data_dir, train=False)

        put = f"the folder {kind.base_folder} or the archive {kind.filename}"
        train, test = _fetched(sets, kind, data_dir, put, archive=kind.filename)
        # torchvision shows the archive's [N, C, H, W] as [N, H, W, C]
        named = {"train": train, "test": test}.items()
        splits = {name: (one.data.transpose(0, 3, 1, 2), numpy.array(one.targets)) for name, one in named}
        return Arrays(tuple(train.classes), splits)

    return read


def _mnist(source: str, class_names: tuple[str, ...]) -> Callable[[Path], Arrays]:
    def read(data_dir: Path) -> Arrays:
        from torchvision import datasets

        raw = data_dir / source / "raw"
        names = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        put = f"{source}/raw/ with {', '.join(names)} (or these as .gz)"
        kind = getattr(datasets, source)
        images, labels, *test = _fetched(lambda: [_idx(raw / name) for name in names], kind, data_dir, put)
        train = images[:, None], labels.astype(numpy.int64)
        return Arrays(class_names, {"train": train, "test": (test[0][:, None], test[1].astype(numpy.int64))})

    return read


def _idx(path: Path) -> numpy.ndarray:
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


def _digits(data_dir: Path) -> Arrays:
    """8 x 8 handwriting inside scikit-learn (Alpaydin and Kaynak, UCI, 1998; its test part), grey levels 0..16.

    The first 1400 in file order: every third one (index % 3 == 2) is test, the others train. The last 397 come from
    other writers: `writers`. Grey level v becomes round(v * 255 / 16).
    """
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    images = numpy.rint(grey * 255 / 16).astype(numpy.uint8).reshape(-1, 1, 8, 8)
    index = numpy.arange(len(images))
    masks = {
        "train": (index < 1400) & (index % 3 != 2),
        "test": (index < 1400) & (index % 3 == 2),
        "writers": index >= 1400,
    }
    return Arrays(NUMERALS, {name: (images[mask], labels[mask].astype(numpy.int64)) for name, mask in masks.items()})


def _fetched(read: Callable[[], Any], kind: Any, data_dir: Path, put: str, archive: str = "") -> Any:
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


PUBLISHED = {
    "cifar10": Published(
        "CIFAR-10", (3, 32, 32), 10, 50_000, "c58f30108f718f92721af3b95e74349a", _cifar("CIFAR10"), checked=True
    ),
    "cifar100": Published(
        "CIFAR-100", (3, 32, 32), 100, 50_000, "eb9058c3a382ffc7106e4002c42a8d85", _cifar("CIFAR100"), checked=True
    ),
    "mnist": Published("MNIST", (1, 28, 28), 10, 60_000, "06b0d1f124c4e5fa", _mnist("MNIST", NUMERALS)),
    "fashion_mnist": Published(
        "Fashion-MNIST", (1, 28, 28), 10, 60_000, "ca3ab2a37f845e1b", _mnist("FashionMNIST", CLOTHES)
    ),
    "digits": Published("digits (8 x 8, scikit-learn)", (1, 8, 8), 10, 934, "0b9464ec3276aea2", _digits),
}
