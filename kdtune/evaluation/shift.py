"""Accuracy on shifted sets: the same classes, photographed, drawn or written elsewhere."""

from __future__ import annotations

import logging
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from kdtune.data.cinic import imagenet_part
from kdtune.data.error import DataError
from kdtune.data.files import digest
from kdtune.data.listing import Listing, list_images
from kdtune.evaluation.evaluator import Evaluator, Measurement, correct, pack, percent, predict
from kdtune.evaluation.metric import Metric
from kdtune.settings import Count, PathText, PlaceName, Settings, Whole

if TYPE_CHECKING:
    import torch

    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Data, Split
    from kdtune.evaluation.subject import Context, Subject

logger = logging.getLogger(__name__)


class Folder(Settings):
    """Images as CLASS/FILE, with the dataset's class names, in whatever order, and of its size."""

    path: PathText
    name: PlaceName  # the metric is `shift/<name>`

    def identity(self) -> dict[str, str]:
        """What the folder is, wherever it lies. Raises DataError where it is missing or damaged."""
        return {"name": self.name, "digest": _digest(self)}

    def listing(self) -> Listing:
        return list_images(Path(self.path), ("",))


class Cinic(Settings):
    """The ImageNet part of CINIC-10, as its folder holds it: path/{train,valid,test}/CLASS/*.png.

    Files named `cifar10-...` are CIFAR-10's own images and are passed over. `part`: the test part (7,000 a class) or
    all three (21,000 a class). `per_class` keeps that many of every class, drawn from `seed`.
    """

    path: PathText
    part: Literal["test", "all"] = "test"
    per_class: Count | None = None
    seed: Whole = 0

    name: ClassVar[str] = "cinic"

    def identity(self) -> dict[str, str]:
        """The images that are taken, by content. Raises DataError where there are not enough, or damaged ones."""
        return {"name": self.name, "digest": _digest(self)}

    def listing(self) -> Listing:
        return imagenet_part(Path(self.path), self.part, self.per_class, self.seed)


class Shift(Evaluator):
    """`shift/<name>`: accuracy in percent on a folder of images; `shift/cinic`: on CINIC-10's images from ImageNet;
    where neither is named, on every shifted set of the dataset.

    Arrays: `shift/<name>/correct`, packed bits, and `shift/<name>/images`, how many they are. A dataset without shifted
    sets gives no metric.
    """

    folder: Folder | None = None
    cinic: Cinic | None = None

    version: ClassVar[int] = 2
    also_held_out: ClassVar[bool] = False  # its images are its own

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.folder and self.cinic:
            raise ValueError("names folder and cinic; each is an entry of its own")
        return self

    @property
    def named(self) -> Folder | Cinic | None:
        return self.folder or self.cinic

    @property
    def writes(self) -> str:
        return f"shift/{self.named.name}" if self.named else "shift"

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        names = (self.named.name,) if self.named else dataset.tested.shifted
        return tuple(Metric(f"shift/{name}", better="higher", headline=True) for name in names)

    def preflight(self, data: Data, context: Context) -> None:
        super().preflight(data, context)
        if self.named:
            read(self.named, data, context.data_dir)

    def measure(self, subject: Subject) -> Measurement:
        data = subject.data
        sets = {self.named.name: read(self.named, data, subject.context.data_dir)} if self.named else data.shifted
        if not sets:
            logger.warning("shift: %s has no shifted set, so nothing is measured; name one as `folder`", data.title)
        metrics: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, split in sets.items():
            bits = correct(predict(subject.network, split.images), split.labels)
            metrics[f"shift/{name}"] = percent(bits)
            arrays |= {f"shift/{name}/correct": pack(bits), f"shift/{name}/images": np.array(len(bits))}
        return Measurement(metrics, arrays)


def read(source: Folder | Cinic, data: Data, data_dir: Path) -> Split:
    """The source's images, labelled in the dataset's numbering, on its device. Raises DataError where they are missing
    or damaged, and where classes or size are not the dataset's.
    """
    split = _load(source, tuple(data.class_names), data_dir, data.test.images.device)
    if split.images.shape[1:] != data.test.images.shape[1:]:
        came, wanted = (list(images.shape[1:]) for images in (split.images, data.test.images))
        raise DataError(f"{source.name}: {source.path} has images of {came} (C, H, W), {data.title} of {wanted}")
    return split


# Settings know no data folder, so the digest is kept in memory, once per process, instead of on the disk.
@lru_cache(maxsize=8)
def _digest(source: Folder | Cinic) -> str:
    with tempfile.TemporaryDirectory() as aside:
        return digest(source.listing(), Path(aside))


@lru_cache(maxsize=8)
def _load(source: Folder | Cinic, class_names: tuple[str, ...], data_dir: Path, device: torch.device) -> Split:
    from kdtune.data.loading import load_images

    return load_images(source.listing(), source.name, class_names, data_dir, device)
