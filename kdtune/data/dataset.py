"""What every data set is: a kind that says what it holds, without torch, and reads its images.

`data_dir` is the machine's data folder.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any

from kdtune.data.files import Arrays, DataError
from kdtune.kinds import Kind, Several
from kdtune.noise.labels import LabelsKnob
from kdtune.settings import Count, Fraction, Whole


class Dataset(Kind, home="kdtune.data.sets"):
    """The family of labelled sets of images. `seed` draws what defines the data: the same for teacher and student.

    `train_size` keeps that many training images, as equal a number of every class as there are; `validation` then
    holds that share of them out, the same share of every class. `labels` are knobs (`noise.labels`): what they
    make of the training images' labels is what there is to train on and to choose by, for the images held out are as
    wrongly labelled as the others. Only test labels stay clean. An image's wrong label hangs on `seed` alone, and
    which images are kept and held out does not hang on wrong labels.
    """

    train_size: Count | None = None
    validation: Fraction | None = None
    seed: Whole = 0
    labels: Annotated[tuple[LabelsKnob, ...], Several(LabelsKnob)] = ()

    @property
    @abstractmethod
    def title(self) -> str:
        """The set's name for people: "CIFAR-10", or a folder's own."""

    @property
    def known_as(self) -> str:
        """The set's name in a run's description."""
        return self.key

    @abstractmethod
    def digest(self, data_dir: Path) -> str:
        """Digest of the set's content: a constant, or for a folder that of its files (DataError without them)."""

    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""

    @abstractmethod
    def classes(self) -> int: ...

    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """Training images and test images, before `train_size` and `validation`."""

    @abstractmethod
    def read(self, data_dir: Path) -> Arrays:
        """Splits `train`, `test` and, under names of their own, shifted ones. Errors: DataError where files are missing
        and cannot be had, or are damaged."""

    @property
    def label_knobs(self) -> dict[str, LabelsKnob]:
        """The knobs of `labels` that are on, by name, in written order."""
        return {knob.key: knob for knob in self.labels if not knob.off}

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
        known = {"name": self.known_as, "digest": self.digest(data_dir), "seed": self.seed}
        noise = {"labels": self.model_dump(mode="json", include={"labels"})["labels"]} if self.label_knobs else {}
        return known | {key: value for key, value in asked.items() if value is not None} | noise
