"""What `dataset:` may say, and the images it stands for: one uint8 tensor per split on the training device.

Everything but the functions that load works without torch. `data_dir` is the machine's data folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.data.files import Arrays, DataError, Listing, decoded, digest, image_shape, list_images
from kdtune.data.published import PUBLISHED, Published
from kdtune.settings import Count, Fraction, OneOf, PathText, Settings, Text, Whole, shared

if TYPE_CHECKING:
    import torch

    from kdtune.randomness import Draw

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
    holds that share of them out, the same share of every class.
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
    labels: None = shared()  # where labels corrupted once, by draws from `seed`, will be asked for

    @property
    def source(self) -> Published | Folder:
        return self.folder or PUBLISHED[self.kind]

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
        return known | {"seed": self.seed} | {key: value for key, value in asked.items() if value is not None}


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
    """A dataset in memory. `shifted` holds further test sets, by name, whose images come from elsewhere."""

    title: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Split
    validation: Split | None
    test: Split
    shifted: dict[str, Split]

    @property
    def classes(self) -> int:
        return len(self.class_names)


def load(dataset: Dataset, data_dir: Path, device: torch.device | str = "cpu") -> Data:
    """The dataset's images on `device`, downloaded or decoded first where this machine has not done so.

    On the CPU a decoded folder's tensors are mapped files: their pages are shared by all runs of the machine.
    Errors: DataError for data that is missing, damaged or too little.
    """
    arrays = dataset.source.read(data_dir)
    splits = {name: _split(*pair) for name, pair in arrays.splits.items()}
    train, held_out = _divided(splits.pop("train"), dataset)
    _, channels, height, width = train.images.shape
    return Data(
        title=dataset.title,
        class_names=arrays.class_names,
        shape=(channels, height, width),
        train=train.to(device),
        validation=held_out and held_out.to(device),
        test=splits.pop("test").to(device),
        shifted={name: split.to(device) for name, split in splits.items()},
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


def _divided(train: Split, dataset: Dataset) -> tuple[Split, Split | None]:
    """The images to train on and those held out of them. Drawn on the CPU: the same images on every device."""
    from kdtune.randomness import draw

    kept, held_out = dataset.sizes(len(train))
    if kept < len(train):
        place, _ = _places(train.labels, draw(dataset.seed, "subset"))
        # every class's first, then every class's second ...; a smaller subset is part of a larger one
        train = train[place.argsort(stable=True)[:kept].sort().values]
    if not held_out:
        return train, None
    place, size = _places(train.labels, draw(dataset.seed, "validation"))
    order = ((place + 0.5) / size).argsort(stable=True)
    return train[order[held_out:].sort().values], train[order[:held_out].sort().values]


def _places(labels: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image's place in a random order of its class, and the size of that class, as float64 [N]."""
    order = draw.permutation(len(labels))
    order = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    first = sizes.cumsum(0) - sizes
    place = labels.new_empty(len(labels))
    place[order] = labels.new_tensor(range(len(labels))) - first[labels[order]]
    return place.double(), sizes[labels].double()
