"""A data set in memory: one uint8 tensor per split on the training device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.data.files import Arrays, DataError, Listing, decoded, list_images

if TYPE_CHECKING:
    import torch

    from kdtune.data.dataset import Dataset

KEPT = 4  # data sets that a process keeps decoded: the sweeps of a machine share one or two


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


def load(dataset: Dataset, data_dir: Path, device: torch.device | str = "cpu", digest: str | None = None) -> Data:
    """The dataset's images on `device`, downloaded or decoded first where this machine has not done so.

    What is decoded is kept for the life of the process, by its content: with `digest`, that of the run's description,
    files are not even looked at again. Nobody may write into these tensors: the next run is given the same ones.
    On the CPU a decoded folder's tensors are mapped files: their pages are shared by all runs of the machine.
    Errors: DataError for data that is missing, damaged, too little or, by `digest`, not what was asked for.
    """
    from kdtune.data.split import measured, relabelled, split

    arrays = _read(_bare(dataset), digest or dataset.digest(data_dir), data_dir)
    splits = {name: _tensors(*pair) for name, pair in arrays.splits.items()}
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
    parts = [_tensors(*pair) for pair in arrays.splits.values()]
    order = torch.tensor([list(class_names).index(each) for each in arrays.class_names])
    labels = order[torch.cat([part.labels for part in parts])]
    return Split(torch.cat([part.images for part in parts]), labels).to(device)


@lru_cache(maxsize=KEPT)
def _read(dataset: Dataset, digest: str, data_dir: Path) -> Arrays:
    arrays = dataset.read(data_dir)
    if (found := dataset.digest(data_dir)) != digest:
        raise DataError(
            f"{dataset.title}: its files have changed since the sweep was planned (digest {found}, "
            f"{digest} was planned); give the command again: runs on other images are other runs"
        )
    return arrays


def _bare(dataset: Dataset) -> Dataset:
    """The set itself, without what is made of it: what is decoded is the same."""
    return dataset.model_copy(update={name: field.default for name, field in dataset.family.model_fields.items()})


def preflight(dataset: Dataset, data_dir: Path) -> None:
    """Download, decode and check the data, once before any run starts. Errors: as `load`."""
    load(dataset, data_dir)


def _tensors(images: Any, labels: Any) -> Split:
    import torch

    return Split(torch.from_numpy(images), torch.from_numpy(labels))
