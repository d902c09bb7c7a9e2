"""Published image sets: their constants, known without torch and without the files, and how the files are read.

Whatever is read is held against a published or pinned digest.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy

from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.data.fetch import fetched, read_idx
from kdtune.data.files import Arrays

NUMERALS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class Published(Dataset):
    """A set whose content never changes. `content` is its digest: the published archive's MD5 for CIFAR, which
    vouches for the files whose MD5s torchvision checks; for the others `content_digest` of the genuine files."""

    title: ClassVar[str]  # type: ignore[assignment,misc]
    image_shape: ClassVar[tuple[int, int, int]]
    class_count: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]]  # training, test
    content: ClassVar[str]
    test_content: ClassVar[str | None] = None  # of the test images alone, where they lie in files of their own
    checked: ClassVar[bool] = False  # `read_files` checks by itself
    shape_is_known: ClassVar[bool] = True

    @abstractmethod
    def read_files(self, data_dir: Path) -> Arrays:
        """The set's images and labels."""

    def digest(self, data_dir: Path) -> str:
        return self.content

    def shape(self) -> tuple[int, int, int]:
        return self.image_shape

    def classes(self) -> int:
        return self.class_count

    def counts(self) -> tuple[int, int]:
        return self.images

    def read_test_files(self, data_dir: Path) -> Arrays:
        """Where there is a `test_content`: its images and labels."""
        raise NotImplementedError(f"{self.title} has no files of its test images alone")

    def read(self, data_dir: Path) -> Arrays:
        arrays = self.read_files(data_dir)
        return arrays if self.checked else self._genuine(arrays, self.content, data_dir)

    def read_test(self, data_dir: Path) -> Arrays:
        if self.test_content is None:
            return self.read(data_dir)
        return self._genuine(self.read_test_files(data_dir), self.test_content, data_dir)

    def _genuine(self, arrays: Arrays, content: str, data_dir: Path) -> Arrays:
        if (found := content_digest(arrays)) != content:
            what = f"{self.title}: the files read for {data_dir} are not the published ones"
            raise DataError(f"{what} (content {found}, not {content}); delete them and run again")
        return arrays


def content_digest(arrays: Arrays) -> str:
    """16 hex digits of a SHA-256 over pixels, then labels (a byte each), of every split: train, test, shifted ones."""
    content = hashlib.sha256()
    for images, labels in arrays.splits.values():
        content.update(numpy.ascontiguousarray(images).tobytes())
        content.update(labels.astype(numpy.uint8).tobytes())
    return content.hexdigest()[:16]


class CIFAR10(Published):
    """60,000 colour photographs of 32 x 32 in ten classes (Krizhevsky 2009)."""

    title: ClassVar[str] = "CIFAR-10"
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    images: ClassVar[tuple[int, int]] = (50_000, 10_000)
    content: ClassVar[str] = "c58f30108f718f92721af3b95e74349a"
    checked: ClassVar[bool] = True

    def read_files(self, data_dir: Path) -> Arrays:
        return read_cifar("CIFAR10", data_dir)


class CIFAR100(Published):
    """60,000 colour photographs of 32 x 32 in a hundred classes (Krizhevsky 2009)."""

    title: ClassVar[str] = "CIFAR-100"
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    class_count: ClassVar[int] = 100
    images: ClassVar[tuple[int, int]] = (50_000, 10_000)
    content: ClassVar[str] = "eb9058c3a382ffc7106e4002c42a8d85"
    checked: ClassVar[bool] = True

    def read_files(self, data_dir: Path) -> Arrays:
        return read_cifar("CIFAR100", data_dir)


class MNIST(Published):
    """Handwritten digits, 70,000 grey images of 28 x 28 (LeCun et al. 1998)."""

    title: ClassVar[str] = "MNIST"
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    images: ClassVar[tuple[int, int]] = (60_000, 10_000)
    content: ClassVar[str] = "06b0d1f124c4e5fa"
    test_content: ClassVar[str] = "c3f9adf9c66efb57"

    def read_files(self, data_dir: Path) -> Arrays:
        return read_mnist("MNIST", NUMERALS, data_dir)

    def read_test_files(self, data_dir: Path) -> Arrays:
        return read_mnist("MNIST", NUMERALS, data_dir, parts=("test",))


class FashionMNIST(Published):
    """Clothes in the format of MNIST (Xiao et al. 2017)."""

    title: ClassVar[str] = "Fashion-MNIST"
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    images: ClassVar[tuple[int, int]] = (60_000, 10_000)
    content: ClassVar[str] = "ca3ab2a37f845e1b"
    test_content: ClassVar[str] = "9f1ec356a747bfe4"

    def read_files(self, data_dir: Path) -> Arrays:
        return read_mnist("FashionMNIST", CLOTHES, data_dir)

    def read_test_files(self, data_dir: Path) -> Arrays:
        return read_mnist("FashionMNIST", CLOTHES, data_dir, parts=("test",))


class Digits(Published):
    """8 x 8 handwriting inside scikit-learn (Alpaydin and Kaynak, UCI, 1998; its test part), grey levels 0..16.

    The first 1400 in file order: every third one (index % 3 == 2) is test, the others train. The last 397 come from
    other writers: `writers`. Grey level v becomes round(v * 255 / 16).
    """

    title: ClassVar[str] = "digits (8 x 8, scikit-learn)"
    image_shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    images: ClassVar[tuple[int, int]] = (934, 466)
    content: ClassVar[str] = "0b9464ec3276aea2"
    shifted: ClassVar[tuple[str, ...]] = ("writers",)

    def read_files(self, data_dir: Path) -> Arrays:
        table = read_digits()
        grey, labels = table[:, :-1], table[:, -1]
        images = numpy.rint(grey * 255 / 16).astype(numpy.uint8).reshape(-1, 1, 8, 8)
        index = numpy.arange(len(images))
        masks = {
            "train": (index < 1400) & (index % 3 != 2),
            "test": (index < 1400) & (index % 3 == 2),
            "writers": index >= 1400,
        }
        return Arrays(
            NUMERALS, {name: (images[mask], labels[mask].astype(numpy.int64)) for name, mask in masks.items()}
        )


def read_digits() -> numpy.ndarray:
    """The rows of scikit-learn's file, float64 [1797, 65]: 64 grey levels and the label.

    scikit-learn is not imported for them: that would take every process that trains 1.6 s.
    """
    package = find_spec("sklearn")
    path = Path(package.origin if package and package.origin else "sklearn").parent / "datasets/data/digits.csv.gz"
    try:
        return numpy.loadtxt(path, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"digits: {path}: {error}; install scikit-learn as constraints.txt names it") from error


def read_cifar(source: str, data_dir: Path) -> Arrays:
    """The python version of a CIFAR set, as torchvision's class `source` lays it out."""
    from torchvision import datasets

    kind = getattr(datasets, source)

    def sets() -> tuple[Any, Any]:  # RuntimeError where a file is missing or its MD5 differs
        return kind(data_dir, train=True), kind(data_dir, train=False)

    put = f"the folder {kind.base_folder} or the archive {kind.filename}"
    train, test = fetched(sets, kind, data_dir, put, archive=kind.filename)
    # torchvision shows the archive's [N, C, H, W] as [N, H, W, C]
    named = {"train": train, "test": test}.items()
    splits = {name: (one.data.transpose(0, 3, 1, 2), numpy.array(one.targets)) for name, one in named}
    return Arrays(tuple(train.classes), splits)


IDX = {"train": "train", "test": "t10k"}  # what files are called


def read_mnist(source: str, class_names: tuple[str, ...], data_dir: Path, parts: Sequence[str] = tuple(IDX)) -> Arrays:
    """A set in the format of MNIST, as torchvision's class `source` lays it out."""
    from torchvision import datasets

    raw = data_dir / source / "raw"
    names = {part: [f"{IDX[part]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")] for part in parts}
    every = [name for of_part in names.values() for name in of_part]
    put = f"{source}/raw/ with {', '.join(every)} (or these as .gz)"
    kind = getattr(datasets, source)
    read = dict(zip(every, fetched(lambda: [read_idx(raw / name) for name in every], kind, data_dir, put), strict=True))
    splits = {
        part: (read[images][:, None], read[labels].astype(numpy.int64)) for part, (images, labels) in names.items()
    }
    return Arrays(class_names, splits)
