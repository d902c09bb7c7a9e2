"""Accuracy on shifted sets: the same classes, photographed, drawn or written elsewhere."""

from __future__ import annotations

import logging
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from kdtune.data.files import DataError, digest, list_images
from kdtune.evaluation.evaluator import CLOSED, Evaluator, Measurement, correct, pack, percent, predict
from kdtune.settings import PathText, Settings, Text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from kdtune.data.datasets import Data, Split

logger = logging.getLogger(__name__)


class Folder(Settings):
    """Images as CLASS/FILE, with the dataset's class names, in whatever order, and of its size."""

    path: PathText
    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # the metric is `shift/<name>`

    def identity(self) -> dict[str, str]:
        """What the folder is, wherever it lies. Raises DataError where it is missing or damaged."""
        return {"name": self.name, "digest": _digest(self.path)}

    def read(self, data: Data) -> Split:
        """The folder's images, labelled in the dataset's numbering, on its device. Raises DataError as above, and where
        classes or size are not the dataset's.
        """
        split = _load(self.path, self.name, tuple(data.class_names), data.test.images.device)
        if split.images.shape[1:] != data.test.images.shape[1:]:
            came, wanted = (list(images.shape[1:]) for images in (split.images, data.test.images))
            raise DataError(f"{self.name}: {self.path} has images of {came} (C, H, W), {data.title} of {wanted}")
        return split


@dataclass(frozen=True, config=CLOSED)
class Shift(Evaluator):
    """`shift/<name>`: accuracy in percent on a folder of images, or, without one, on every shifted set of the dataset.

    Arrays: `shift/<name>/correct`, packed bits, and `shift/<name>/images`, how many they are. A dataset without shifted
    sets gives no metric.
    """

    folder: Folder | None = None

    version: ClassVar[int] = 1

    @property
    def writes(self) -> str:
        return f"shift/{self.folder.name}" if self.folder else "shift"

    def measure(self, network: nn.Module, data: Data, seed: int = 0, teacher: nn.Module | None = None) -> Measurement:
        sets = {self.folder.name: self.folder.read(data)} if self.folder else data.shifted
        if not sets:
            logger.warning("shift: %s has no shifted set, so nothing is measured; name one as `folder`", data.title)
        metrics: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, split in sets.items():
            bits = correct(predict(network, split.images), split.labels)
            metrics[f"shift/{name}"] = percent(bits)
            arrays |= {f"shift/{name}/correct": pack(bits), f"shift/{name}/images": np.array(len(bits))}
        return Measurement(metrics, arrays)


# Settings know no data folder, so what is decoded is kept in memory, once per process, instead of on the disk.
@lru_cache(maxsize=8)
def _digest(path: str) -> str:
    with tempfile.TemporaryDirectory() as aside:
        return digest(list_images(Path(path), ("",)), Path(aside))


@lru_cache(maxsize=8)
def _load(path: str, name: str, class_names: tuple[str, ...], device: torch.device) -> Split:
    from kdtune.data.datasets import Split, load_folder

    with tempfile.TemporaryDirectory() as aside:
        split = load_folder(Path(path), name, class_names, Path(aside), device)
        return Split(split.images.clone(), split.labels)  # cloned: a mapped file ends with its folder
