"""A data set in memory: one tensor per split on the training device, of bytes for images that are as they were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.attacks.space import Space
from kdtune.data.error import DataError
from kdtune.data.files import Arrays, decoded
from kdtune.data.listing import Listing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kdtune.attacks.pgd import Bounds
    from kdtune.data.dataset import Dataset
    from kdtune.data.perturbed import Moved

FEWEST = 2  # images for each class
KEPT = 4  # data sets that a process keeps decoded: the sweeps of a machine share one or two


@dataclass(frozen=True)
class Split:
    """Labelled images on one device, [N, C, H, W] and int64 [N]: uint8, or float32 as networks take them (`inputs`).

    A point of a space of D dimensions is an image [D, 1, 1].
    """

    images: torch.Tensor
    labels: torch.Tensor
    uncounted: bool = False  # nobody knew beforehand how many there would be
    bounds: Bounds = (0.0, 1.0)  # what inputs can be; None: any numbers
    repeat: int = 1  # how often an epoch shows each of them
    answers: torch.Tensor | None = None  # a teacher's logits for each view of each image, [N, views, K], where stored
    places: torch.Tensor | None = None  # which of all training images these are, int64 [N]; None: all, in their order

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: torch.Tensor) -> Split:
        import torch

        answers = None if self.answers is None else self.answers[index]
        own = torch.arange(len(self)) if self.places is None else self.places  # on the CPU, wherever the images are
        found = replace(self, images=self.images[index], labels=self.labels[index], answers=answers)
        return replace(found, places=own[index.cpu()])

    def to(self, device: torch.device | str) -> Split:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batches(self, order: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
        """The images, in this order, in batches; the last has what is left. Where that is one image and could not have
        been foreseen, it joins the batch before: BatchNorm takes two."""
        import torch

        found = order.split(size)
        if self.uncounted and len(found) > 1 and len(found[-1]) == 1:
            return (*found[:-2], torch.cat(found[-2:]))
        return found


def inputs(images: torch.Tensor) -> torch.Tensor:
    """A split's images as float32, as networks take them: bytes go to [0, 1], floats stay as they are."""
    return images if images.is_floating_point() else images.float() / 255


@dataclass(frozen=True)
class Data:
    """A dataset in memory. `shifted` holds further test sets, by name, whose images come from elsewhere.

    Where labels were corrupted, `corrupted` says which of `train` are wrong (bool [N], on the CPU), and `noise` holds
    the measured strength of each knob in `train`, by path: {"labels.corruption": 0.09}. `subspace` is that which inputs
    fill, where it is known (`Space.subspace`).
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
    subspace: torch.Tensor | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def space(self) -> Space:
        """Where training inputs lie."""
        return Space(self.train.bounds, self.subspace)


def load(
    dataset: Dataset,
    data_dir: Path,
    device: torch.device | str = "cpu",
    planned: Mapping[str, Any] | None = None,
    answer: Callable[[torch.Tensor], torch.Tensor] | None = None,
    teacher: nn.Module | None = None,
    source: nn.Module | None = None,
) -> Data:
    """The dataset's images on `device`, downloaded or decoded first where this machine has not done so.

    `answer` gives a teacher's classes, int64 [N] on the CPU, of images; `teacher` is the network that answers so, for
    `perturbed` to attack. Without an answer, what only a teacher can say is left out (`Dataset.untaught`), and without
    `source` what `robust` makes of images.

    `planned` is what a run's description says of the data's content, its digest and its labels. What is decoded is
    kept for the life of the process, by that digest: files are not even looked at again. Nobody may write into these
    tensors: the next run is given the same ones. On the CPU a decoded folder's tensors are mapped files: their pages
    are shared by all runs of the machine. Errors: DataError for data that is missing, damaged, too little or not what
    was planned.
    """
    import torch

    from kdtune.data.split import asked_for, measured, relabelled

    known = planned or {}
    if known.get("labels") is not None and (found := dataset.stated_labels()) != known["labels"]:
        raise DataError(_changed(f"{dataset.title}: its labels", str(found), str(known["labels"])))
    dataset = dataset if answer is not None else dataset.untaught()
    arrays = _read(dataset.bare, known.get("digest") or dataset.digest(data_dir), data_dir)
    splits = {name: _tensors(*pair) for name, pair in arrays.splits.items()}
    clean = splits.pop("train")
    classes = len(arrays.class_names)
    kept, held_out = _parts(clean, dataset, arrays.class_names)
    clean = _answered(_stretched(clean, dataset), dataset, answer)
    given, moved = _moved(clean, torch.cat([kept, held_out]), classes, dataset, teacher)
    answers = cache(lambda: answer(moved.attacked if moved else given.images)) if answer is not None else None
    stages = relabelled(given.labels, clean.labels, dataset, classes, answers)
    _refuse_numerals(dataset, arrays.class_names, clean.labels, stages)
    if (wanted := asked_for(clean.labels, stages[-1], dataset, answers)) is not None:
        kept, held_out = kept[wanted[kept]], held_out[wanted[held_out]]
        _refuse_few(len(kept), dataset, classes)
        if dataset.validation and not len(held_out):
            told = f"dataset.only: {dataset.only} on {dataset.title} leaves nothing of what is held out"
            raise DataError(f"{told}; hold out more: dataset.validation: {dataset.validation}")
    given = replace(given, labels=stages[-1], uncounted=dataset.only is not None, repeat=dataset.repeat or 1)
    if dataset.test is not None:
        arrays = _tested(dataset, dataset.test, arrays, known.get("test", {}).get("digest"), data_dir)
        splits = {name: _tensors(*pair) for name, pair in arrays.splits.items() if name != "train"}
    splits = {name: _answered(split, dataset.tested, answer) for name, split in splits.items()}
    subspace = dataset.subspace()
    _, channels, height, width = given.images.shape
    return Data(
        title=dataset.heading,
        class_names=arrays.class_names,
        shape=(channels, height, width),
        train=_as_seen_by(source, dataset, given if len(kept) == len(given) else given[kept]).to(device),
        validation=given[held_out].to(device) if len(held_out) else None,
        test=splits.pop("test").to(device),
        shifted={name: split.to(device) for name, split in splits.items()},
        corrupted=(stages[-1] != clean.labels)[kept] if dataset.relabels else None,
        noise=measured([labels[kept] for labels in stages], dataset)
        | ({"perturbed": float(moved.distance[kept].mean())} if moved else {}),
        subspace=None if subspace is None else torch.tensor(subspace, dtype=torch.float32, device=device),
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


def _parts(clean: Split, dataset: Dataset, class_names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The images to train on and those held out, as `split`. DataError where classes cannot be learned from them."""
    from kdtune.data.split import split

    if (classes := len(class_names)) < 2:
        raise DataError(f"{dataset.title}: one class alone, {class_names[0]!r}; to tell classes apart takes two")
    kept, held_out = split(clean.labels, dataset)
    if len(kept) < classes:
        raise DataError(f"{dataset.title}: {len(kept)} training images cannot show its {classes} classes")
    if unseen := [class_names[each] for each in range(classes) if not (clean.labels[kept] == each).any()]:
        held = f"dataset.validation: {dataset.validation} leaves" if dataset.validation else "there is"
        raise DataError(f"{dataset.title}: {held} no image to train on of {', '.join(unseen)}")
    return kept, held_out


def _as_seen_by(source: nn.Module | None, dataset: Dataset, split: Split) -> Split:
    """Those trained on as `robust` leaves them. Whatever is not moved is no copy: it may be a mapped file."""
    if dataset.robust is None or source is None:
        return split
    return replace(split, images=dataset.robust(inputs(split.images), source, dataset.seed, split.bounds))


def _answered(split: Split, dataset: Dataset, answer: Callable[[torch.Tensor], torch.Tensor] | None) -> Split:
    """The images of a set that has no labels of its own with those that the teacher gives."""
    return split if dataset.labelled or answer is None else replace(split, labels=answer(split.images))


def _stretched(split: Split, dataset: Dataset) -> Split:
    """The training images as `moments` leaves them."""
    from kdtune.data.moments import moved_to

    if dataset.moments is None:
        return split
    return replace(split, images=moved_to(dataset.moments, inputs(split.images)), bounds=None)


def _moved(
    clean: Split, places: torch.Tensor, classes: int, dataset: Dataset, teacher: nn.Module | None
) -> tuple[Split, Moved | None]:
    """The training images as `perturbed` leaves those at `places`, with the labels that an attack aims at; and how it
    moved them."""
    if dataset.perturbed is None:
        return clean, None
    if teacher is None:
        raise DataError(f"dataset.perturbed on {dataset.title}: there is no teacher to attack")
    images = inputs(clean.images)
    moved = dataset.perturbed(images, clean.labels, places, classes, teacher, dataset.seed, clean.bounds)
    return replace(clean, images=moved.images, labels=moved.labels), moved


def _tested(dataset: Dataset, test: Dataset, trained: Arrays, digest: str | None, data_dir: Path) -> Arrays:
    """What `test` holds. DataError where its images could not be trained on."""
    found = _read(test.bare, digest or test.digest(data_dir), data_dir, test_alone=True)
    own, theirs = trained.splits["train"][0].shape[1:], found.splits["test"][0].shape[1:]
    if (own, len(trained.class_names)) != (theirs, len(found.class_names)):
        raise DataError(f"dataset.test: {dataset.told} and {test.told}; both must be alike")
    return found


def _refuse_numerals(
    dataset: Dataset, class_names: Sequence[str], clean: torch.Tensor, stages: Sequence[torch.Tensor]
) -> None:
    """DataError where a file of labels means classes by the numbers they are called by: folders go 0, 1, 10, 2."""
    if "file" not in dataset.label_knobs or not all(name.isdecimal() for name in class_names):
        return
    import torch

    given = stages[[*dataset.label_knobs].index("file") + 1]
    called = torch.tensor([int(name) for name in class_names])[clean]
    if (called == given).sum() > (clean == given).sum():
        order = ", ".join(class_names[:4])
        where = f"dataset.labels.file on {dataset.title}"
        raise DataError(f"{where}: its numbers are names of classes, not their places in order of name ({order}, ...)")


@lru_cache(maxsize=KEPT)
def _read(dataset: Dataset, digest: str, data_dir: Path, test_alone: bool = False) -> Arrays:
    arrays = dataset.read_test(data_dir) if test_alone else dataset.read(data_dir)
    if (found := dataset.digest(data_dir)) != digest:
        raise DataError(_changed(f"{dataset.title}: its files", found, digest))
    return arrays


def _changed(what: str, found: str, planned: str) -> str:
    return (
        f"{what} have changed since the sweep was planned (digest {found}, {planned} was planned); give the command "
        "again: runs on other images or labels are other runs"
    )


def _tensors(images: Any, labels: Any) -> Split:
    import torch

    return Split(
        torch.from_numpy(images), torch.from_numpy(labels), bounds=None if images.dtype.kind == "f" else (0.0, 1.0)
    )
