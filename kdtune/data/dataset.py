"""What every data set is: a kind that says what it holds, without torch, and reads its images.

`data_dir` is the machine's data folder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from kdtune.data.error import DataError
from kdtune.data.files import Arrays
from kdtune.data.moments import Moments
from kdtune.data.perturbed import Perturbed
from kdtune.data.robust import Robust
from kdtune.kinds import Kind, Several
from kdtune.noise.labels import LabelsKnob
from kdtune.settings import Count, Fraction, Settings, Whole, refused_at

if TYPE_CHECKING:
    import numpy

LABELS = "labels"  # what a set asks a teacher that has none


def names_a_set(dataset: Mapping[str, Any]) -> bool:
    """Whether a mapping at `dataset` says which set it is; else it is laid over one that does."""
    return any(key not in Dataset.model_fields for key in dataset)


class Dataset(Kind, home="kdtune.data.sets"):
    """The family of labelled sets of images. `seed` draws what defines the data: the same for teacher and student.

    `train_size` keeps that many training images, as equal a number of every class as there are; `validation` then
    holds that share of them out, the same share of every class. `labels` are knobs (`noise.labels`): what they
    make of the training images' labels is what there is to train on and to choose by, for the images held out are as
    wrongly labelled as the others. Only test labels stay clean. An image's wrong label hangs on `seed` alone, and
    which images are kept and held out does not hang on wrong labels. `only` leaves of both the images that the run's
    teacher answers wrongly (rightly), whatever label knobs then write on them, or `clean`, those whose label is true.

    Before a label is looked at, `moments` moves all training images, those held out too, and `perturbed` attacks the
    teacher with them. `test` names another set, of images as large and as many classes, whose test images stand for
    this one's: what is learned here is measured there. `robust` puts in the place of each image that is trained on one
    that the run's source sees the same in. An epoch shows every image `repeat` times.
    """

    shifted: ClassVar[tuple[str, ...]] = ()  # names of the shifted sets that it holds beside train and test
    image_shape: ClassVar[tuple[int, int, int] | None] = None  # where it is known without the files
    shape_is_known: ClassVar[bool] = False  # and so are `shape` and `classes`
    of_floats: ClassVar[bool] = False  # else of 8 bits
    labelled: ClassVar[bool] = True  # else the labels, those of test images too, are the run's teacher's answers

    train_size: Count | None = None
    validation: Fraction | None = None
    seed: Whole = 0
    labels: Annotated[tuple[LabelsKnob, ...], Several(LabelsKnob)] = ()
    only: Literal["errors", "correct", "clean"] | None = None
    moments: Moments | None = None
    perturbed: Perturbed | None = None
    test: Dataset | None = None
    robust: Robust | None = None
    repeat: Count | None = None

    @field_validator("test")
    @classmethod
    def _for_its_test_images(cls, tested: Dataset | None) -> Dataset | None:
        if tested is not None and (beside := (tested.model_fields_set & set(Dataset.model_fields)) - {"seed"}):
            raise ValueError(f"of {tested.title} only the test images are taken; remove {', '.join(sorted(beside))}")
        return tested

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """What needs no file to be seen; else it is found on loading."""
        if (target := self.perturbed and self.perturbed.target) and any(knob.replaces for knob in self.labels):
            raise ValueError(f"perturbed.target: {target} gives labels, and labels.file replaces them all; one of them")
        if target == "next" and self.only == "clean":
            raise ValueError("only: clean leaves no image of perturbed.target: next, none of which keeps its label")
        if (idle := self.asking) and idle != LABELS and not self.labelled and self.perturbed is None:
            raise ValueError(f"{idle} asks for the teacher's answers, and the labels of {self.title} are these already")
        if not self.shape_is_known:
            return self
        if self.moments is not None and len(self.moments.mean) != self.shape()[0]:
            told = f"has {len(self.moments.mean)} channels, and {self.title} has {self.shape()[0]}"
            raise refused_at(("moments",), told, self.moments)
        if (other := self.test) is not None and other.shape_is_known and not self.alike(other):
            raise refused_at(("test",), f"{self.told} and {other.told}; both must be alike", other.key)
        return self

    @field_validator("labels")
    @classmethod
    def _no_effect_is_lost(cls, knobs: tuple[LabelsKnob, ...]) -> tuple[LabelsKnob, ...]:
        for earlier, later in pairwise(knob for knob in knobs if not knob.off):
            if later.replaces:
                raise ValueError(
                    f"{later.key} stands after {earlier.key}, and replaces every label: write it before {earlier.key}"
                )
        return knobs

    @property
    @abstractmethod
    def title(self) -> str:
        """The set's name for people: "CIFAR-10", or a folder's own."""

    @property
    def tested(self) -> Dataset:
        """The set whose test images, and shifted sets, are measured on."""
        return self.test or self

    @property
    def floats(self) -> bool:
        """Whether training images are no bytes: the set's own are not, or they are moved."""
        return self.of_floats or any(moved is not None for moved in (self.moments, self.perturbed, self.robust))

    @property
    def bounded(self) -> bool:
        """Whether training images are in [0, 1], as pixels are; else they may be any numbers."""
        return not self.of_floats and self.moments is None

    @property
    def heading(self) -> str:
        """The title, and where it is only trained on, what is tested on first."""
        elsewhere = self.test is not None and self.test.bare != self.bare
        return f"{self.tested.title} (trained on {self.title})" if elsewhere else self.title

    @property
    def told(self) -> str:
        """Its shape in words."""
        return f"{self.title} has {' x '.join(map(str, self.shape()))} in {self.classes()} classes"

    def alike(self, other: Dataset) -> bool:
        """Whether a network for this set can be shown the other's images."""
        return (self.shape(), self.classes()) == (other.shape(), other.classes())

    @property
    def bare(self) -> Self:
        """The set itself, without what is made of it: what is decoded is the same."""
        return self.model_copy(update={name: field.default for name, field in self.family.model_fields.items()})

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
    def low_rank(self) -> bool:
        """Whether its inputs fill a known subspace that is less than the whole space."""
        return False

    def subspace(self) -> numpy.ndarray | None:
        """Orthonormal columns, [D, rank], of the subspace that its inputs fill; None: nothing is known of it."""
        return None

    def file_names(self) -> list[str] | None:
        """The names of the training images, CLASS/FILE, in their order; None where they are no files of their own."""
        return None

    @property
    def tested_within(self) -> bool:
        """Whether test inputs fill the same subspace, where that of training inputs is known."""
        if self.test is None or (own := self.subspace()) is None:
            return True
        theirs = self.test.subspace()
        return theirs is not None and own.shape == theirs.shape and bool((own == theirs).all())

    def read_test(self, data_dir: Path) -> Arrays:
        """`read`, or as much of it as the test images need."""
        return self.read(data_dir)

    @property
    def asking(self) -> str | None:
        """The first of what asks a run's teacher what there is to train on; None: nothing does."""
        for name, knob in self.label_knobs.items():
            if knob.asks_teacher:
                return f"labels.{name}"
        if self.perturbed is not None:
            return "perturbed"
        if self.only in ("errors", "correct"):
            return f"only: {self.only}"
        return None if self.labelled and self.tested.labelled else LABELS

    @property
    def asks(self) -> bool:
        return self.asking is not None

    def untaught(self) -> Self:
        """The set without what only a teacher can say: every image, with the labels that it has otherwise."""
        labels = tuple(knob for knob in self.labels if not knob.asks_teacher)
        only = "clean" if self.only == "clean" else None
        return self.model_copy(update={"labels": labels, "only": only, "perturbed": None})

    @property
    def held_out_as(self) -> Self:
        """The set without what images held out and their labels do not hang on."""
        return self.model_copy(update={"repeat": None, "robust": None, "test": None})

    @property
    def relabels(self) -> bool:
        """Whether labels may be others than the set's own."""
        return bool(self.label_knobs) or (self.perturbed is not None and self.perturbed.target is not None)

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
        known = {"name": self.known_as, "digest": self.digest(data_dir), "seed": self.seed}
        asked: dict[str, Any] = {"train_size": self.train_size, "validation": self.validation}
        asked["only"] = self.only if self.only != "clean" or self.relabels else None
        asked["repeat"] = self.repeat if self.repeat != 1 else None
        asked["labels"] = self.stated_labels() or None
        for name in ("moments", "perturbed", "robust"):
            stated: Settings | None = getattr(self, name)
            asked[name] = stated and stated.model_dump(mode="json", exclude_defaults=True)
        if self.test is not None:
            tested = {"name": self.test.known_as, "digest": self.test.digest(data_dir)}
            asked["test"] = tested if tested["digest"] != known["digest"] else None
        return known | {key: value for key, value in asked.items() if value is not None}

    def stated_labels(self) -> dict[str, Any]:
        """What the description says of `labels`, in written order: of a file its digest. DataError without it."""
        stated: dict[str, Any] = {}
        for name, knob in self.label_knobs.items():
            try:
                stated |= knob.identity()
            except ValueError as error:
                raise DataError(f"dataset.labels.{name}: {error}") from error
        return stated
