"""A data set in memory: one uint8 tensor per split on the training device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.data.error import DataError
from kdtune.data.files import Arrays, decoded
from kdtune.data.listing import Listing

if TYPE_CHECKING:
    import torch

    from kdtune.data.dataset import Dataset

FEWEST = 2  # images for each class
KEPT = 4  # data sets that a process keeps decoded: the sweeps of a machine share one or two


@dataclass(frozen=True)
class Split:
    """Labelled images on one device: uint8 [N, C, H, W] and int64 [N]."""

    images: torch.Tensor
    labels: torch.Tensor
    uncounted: bool = False  # nobody knew beforehand how many there would be

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: torch.Tensor) -> Split:
        return Split(self.images[index], self.labels[index], self.uncounted)

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device), self.uncounted)

    def batches(self, order: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
        """The images, in this order, in batches; the last has what is left. Where that is one image and could not have
        been foreseen, it joins the batch before: BatchNorm takes two."""
        import torch

        found = order.split(size)
        if self.uncounted and len(found) > 1 and len(found[-1]) == 1:
            return (*found[:-2], torch.cat(found[-2:]))
        return found


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


def load(
    dataset: Dataset,
    data_dir: Path,
    device: torch.device | str = "cpu",
    planned: Mapping[str, Any] | None = None,
    answer: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Data:
    """The dataset's images on `device`, downloaded or decoded first where this machine has not done so.

    `answer` gives a teacher's classes, int64 [N] on the CPU, of images; without it, what only a teacher can say is left
    out (`Dataset.untaught`).

    `planned` is what a run's description says of the data's content, its digest and its labels. What is decoded is
    kept for the life of the process, by that digest: files are not even looked at again. Nobody may write into these
    tensors: the next run is given the same ones. On the CPU a decoded folder's tensors are mapped files: their pages
    are shared by all runs of the machine. Errors: DataError for data that is missing, damaged, too little or not what
    was planned.
    """
    from kdtune.data.split import asked_for, measured, relabelled, split

    digest, labels = (planned or {}).get("digest"), (planned or {}).get("labels")
    if labels is not None and (found := dataset.stated_labels()) != labels:
        raise DataError(_changed(f"{dataset.title}: its labels", str(found), str(labels)))
    dataset = dataset if answer is not None else dataset.untaught()
    arrays = _read(_bare(dataset), digest or dataset.digest(data_dir), data_dir)
    splits = {name: _tensors(*pair) for name, pair in arrays.splits.items()}
    train = splits.pop("train")
    if (classes := len(arrays.class_names)) < 2:
        raise DataError(f"{dataset.title}: one class alone, {arrays.class_names[0]!r}; to tell classes apart takes two")
    kept, held_out = split(train.labels, dataset)
    if len(kept) < classes:
        raise DataError(f"{dataset.title}: {len(kept)} training images cannot show its {classes} classes")
    if unseen := [arrays.class_names[each] for each in range(classes) if not (train.labels[kept] == each).any()]:
        held = f"dataset.validation: {dataset.validation} leaves"
        raise DataError(f"{dataset.title}: {held} no image to train on of {', '.join(unseen)}")
    answers = cache(lambda: answer(train.images)) if answer is not None else None
    stages = relabelled(train.labels, dataset, classes, answers)
    _refuse_numerals(dataset, arrays.class_names, stages)
    if (wanted := asked_for(stages, dataset, answers)) is not None:
        kept, held_out = kept[wanted[kept]], held_out[wanted[held_out]]
        _refuse_few(len(kept), dataset, classes)
    given = Split(train.images, stages[-1], uncounted=dataset.only is not None)
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


def load_images(
    listing: Listing, name: str, class_names: Sequence[str], data_dir: Path, device: torch.device | str = "cpu"
) -> Split:
    """A test set from listed files, those of several splits as one set; copied, not mapped. Labels index `class_names`,
    whatever their order; `name` is for errors."""
    import torch

    arrays = decoded(listing, data_dir)
    if set(arrays.class_names) != set(class_names):
        odd = ", ".join(sorted(set(arrays.class_names) ^ set(class_names)))
        raise DataError(f"{name}: {listing.path} must hold the classes of the test set; only one of them has {odd}")
    parts = [_tensors(*pair) for pair in arrays.splits.values()]
    order = torch.tensor([list(class_names).index(each) for each in arrays.class_names])
    labels = order[torch.cat([part.labels for part in parts])]
    return Split(torch.cat([part.images for part in parts]), labels).to(device)


def _refuse_few(count: int, dataset: Dataset, classes: int) -> None:
    """DataError where so few images are left that classes cannot be learned from them. A class may well be lacking: no
    error of the teacher's needs to look like it."""
    if count < FEWEST * classes:
        told = f"leaves {count} images to train on; it takes {FEWEST * classes}, {FEWEST} for each of {classes} classes"
        raise DataError(f"dataset.only: {dataset.only} on {dataset.title} {told}")


def _refuse_numerals(dataset: Dataset, class_names: Sequence[str], stages: Sequence[torch.Tensor]) -> None:
    """DataError where a file of labels means classes by the numbers they are called by: folders go 0, 1, 10, 2."""
    if "file" not in dataset.label_knobs or not all(name.isdecimal() for name in class_names):
        return
    import torch

    given = stages[[*dataset.label_knobs].index("file") + 1]
    called = torch.tensor([int(name) for name in class_names])[stages[0]]
    if (called == given).sum() > (stages[0] == given).sum():
        order = ", ".join(class_names[:4])
        where = f"dataset.labels.file on {dataset.title}"
        raise DataError(f"{where}: its numbers are names of classes, not their places in order of name ({order}, ...)")


@lru_cache(maxsize=KEPT)
def _read(dataset: Dataset, digest: str, data_dir: Path) -> Arrays:
    arrays = dataset.read(data_dir)
    if (found := dataset.digest(data_dir)) != digest:
        raise DataError(_changed(f"{dataset.title}: its files", found, digest))
    return arrays


def _changed(what: str, found: str, planned: str) -> str:
    return (
        f"{what} have changed since the sweep was planned (digest {found}, {planned} was planned); give the command "
        "again: runs on other images or labels are other runs"
    )


def _bare(dataset: Dataset) -> Dataset:
    """The set itself, without what is made of it: what is decoded is the same."""
    return dataset.model_copy(update={name: field.default for name, field in dataset.family.model_fields.items()})


def _tensors(images: Any, labels: Any) -> Split:
    import torch

    return Split(torch.from_numpy(images), torch.from_numpy(labels))
