"""What `dataset:` may say, and the images it stands for: one uint8 tensor per split on the training device.

Everything but the functions that load works without torch. `data_dir` is the machine's data folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.data.files import Arrays, DataError, Listing, decoded, digest, image_shape, list_images
from kdtune.data.published import PUBLISHED, Published
from kdtune.noise.point import LabelsNoise
from kdtune.settings import Count, Fraction, OneOf, PathText, Settings, Text, Whole, shared

if TYPE_CHECKING:
    import torch


__all__ = ["Data", "DataError", "Dataset", "Split", "load", "load_folder", "load_images", "preflight"]


class Plain(Settings):
    """A published set has no settings of its own."""


class Folder(Settings):
    """Images of one size under path/train/CLASS/ and path/test/CLASS/ (.jpg, .png); classes are ordered by name.

    `name` is the set's title everywhere, figures included. A run's id knows the set by name and content, not by path.
    """

    path: PathText
    name: Text

    @property
    def title(self) -> str:
        return self.name

    def digest(self, data_dir: Path) -> str:
        return digest(list_images(Path(self.path), ("train", "test")), data_dir)

    def shape(self) -> tuple[int, int, int]:
        return image_shape(list_images(Path(self.path), ("train", "test")))

    def classes(self) -> int:
        return len(list_images(Path(self.path), ("train", "test")).class_names)

    def train_total(self) -> int:
        return sum(map(len, list_images(Path(self.path), ("train", "test")).files["train"]))

    def read(self, data_dir: Path) -> Arrays:
        return decoded(list_images(Path(self.path), ("train", "test")), data_dir)


class Dataset(OneOf):
    """A labelled set of images. `seed` draws what defines the data, so that it is the same for teacher and student.

    `train_size` keeps that many training images, as equal a number of every class as there are; `validation` then
    holds that share of them out, the same share of every class. `labels` are the knobs of `noise.labels`: what they
    make of the training images' labels is what there is to train on and to choose by, for the images held out are as
    wrongly labelled as the others. Only test labels stay clean. An image's wrong label hangs on `seed` alone, and
    which images are kept and held out does not hang on wrong labels.
    """

    cifar10: Plain | None = None
    cifar100: Plain | None = None
    mnist: Plain | None = None
    fashion_mnist: Plain | None = None
    digits: Plain | None = None
    folder: Folder | None = None

    train_size: Count | None = shared()
    validation: Fraction | None = shared()
    seed: Whole = shared(0)
    labels: LabelsNoise | None = shared()

    @property
    def source(self) -> Published | Folder:
        return self.folder or PUBLISHED[self.kind]

    @property
    def label_knobs(self) -> dict[str, Any]:
        """The knobs of `labels` that are on, by name, in written order."""
        return self.labels.knobs if self.labels else {}

    @property
    def title(self) -> str:
        """The set's name for people: "CIFAR-10", or a folder's own."""
        return self.source.title

    def digest(self, data_dir: Path) -> str:
        """Digest of the set's content: a constant, or for a folder that of its files (DataError without them)."""
        return self.source.digest(data_dir)

    def shape(self, data_dir: Path) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.source.shape()

    def classes(self, data_dir: Path) -> int:
        return self.source.classes()

    def train_images(self, data_dir: Path) -> int:
        """Images trained on: after `train_size` and `validation`."""
        kept, held_out = self.sizes(self.source.train_total())
        return kept - held_out

    def sizes(self, total: int) -> tuple[int, int]:
        """Of `total` training images, how many `train_size` keeps, and how many of those `validation` holds out.

        Errors: DataError where there are not enough images for that.
        """
        kept = self.train_size or total
        if kept > total:
            raise DataError(f"dataset.train_size: {kept}, but {self.title} has {total} training images")
        held_out = round(kept * (self.validation or 0))
        if self.validation and not 0 < held_out < kept:
            raise DataError(f"dataset.validation: {self.validation} of {kept} images holds out {held_out} of them")
        return kept, held_out

    def description(self, data_dir: Path) -> dict[str, Any]:
        """What a run's id is made from: content, never a path, and nothing that is off."""
        asked = {"train_size": self.train_size, "validation": self.validation}
        known = {"name": self.folder.name if self.folder else self.kind, "digest": self.digest(data_dir)}
        noise = {"labels": self.labels.model_dump(mode="json")} if self.labels and self.label_knobs else {}
        return known | {"seed": self.seed} | {key: value for key, value in asked.items() if value is not None} | noise


@dataclass(frozen=True)
class Split:
    """Labelled images on one device: uint8 [N, C, H, W] and int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: torch.Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """A dataset in memory. `shifted` holds further test sets, by name, whose images come from elsewhere.

    Where labels were corrupted, `corrupted` says which of `train` are wrong (bool [N], on the CPU), and `noise` holds
    the measured strength of each knob in `train`, by path: {"labels.corruption": 0.09}.
    """

    title: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Split
    validation: Split | None
    test: Split
    shifted: dict[str, Split]
    corrupted: torch.Tensor | None = None
    noise: dict[str, float] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.class_names)


def load(dataset: Dataset, data_dir: Path, device: torch.device | str = "cpu") -> Data:
    """The dataset's images on `device`, downloaded or decoded first where this machine has not done so.

    On the CPU a decoded folder's tensors are mapped files: their pages are shared by all runs of the machine.
    Errors: DataError for data that is missing, damaged or too little.
    """
    from kdtune.data.split import measured, relabelled, split

    arrays = dataset.source.read(data_dir)
    splits = {name: _split(*pair) for name, pair in arrays.splits.items()}
    train = splits.pop("train")
    kept, held_out = split(train.labels, dataset)
    stages = relabelled(train.labels, dataset, len(arrays.class_names))
    given = Split(train.images, stages[-1])
    _, channels, height, width = train.images.shape
    return Data(
        title=dataset.title,
        class_names=arrays.class_names,
        shape=(channels, height, width),
        train=(given if len(kept) == len(given) else given[kept]).to(device),  # a mapped file is not copied
        validation=given[held_out].to(device) if len(held_out) else None,
        test=splits.pop("test").to(device),
        shifted={name: split.to(device) for name, split in splits.items()},
        corrupted=(stages[-1] != stages[0])[kept] if dataset.label_knobs else None,
        noise=measured([labels[kept] for labels in stages], dataset),
    )


def load_folder(
    path: Path, name: str, class_names: Sequence[str], data_dir: Path, device: torch.device | str = "cpu"
) -> Split:
    """A test set from path/CLASS/FILE; labels index `class_names`, whatever their order. `name` is for errors."""
    return load_images(list_images(path, ("",)), name, class_names, data_dir, device)


def load_images(
    listing: Listing, name: str, class_names: Sequence[str], data_dir: Path, device: torch.device | str = "cpu"
) -> Split:
    """The same from files that are already listed, those of several splits as one set; copied, not mapped."""
    import torch

    arrays = decoded(listing, data_dir)
    if set(arrays.class_names) != set(class_names):
        odd = ", ".join(sorted(set(arrays.class_names) ^ set(class_names)))
        raise DataError(f"{name}: {listing.path} must hold the classes of the test set; only one of them has {odd}")
    parts = [_split(*pair) for pair in arrays.splits.values()]
    order = torch.tensor([list(class_names).index(each) for each in arrays.class_names])
    labels = order[torch.cat([part.labels for part in parts])]
    return Split(torch.cat([part.images for part in parts]), labels).to(device)


def preflight(dataset: Dataset, data_dir: Path) -> None:
    """Download, decode and check the data, once before any run starts. Errors: as `load`."""
    load(dataset, data_dir)


def _split(images: Any, labels: Any) -> Split:
    import torch

    return Split(torch.from_numpy(images), torch.from_numpy(labels))
