"""Noise in the dataset's labels, drawn once and kept: nothing that trains or chooses sees the clean ones again."""

from __future__ import annotations

import hashlib
import os
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from kdtune.noise.knob import Knob
from kdtune.noise.labelfile import CLEAN, SUFFIXES, read_labels
from kdtune.noise.redraw import DrawnFrom, redraw, share_changed
from kdtune.settings import PathText, Rate, Text

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.randomness import Draw


class LabelsKnob(Knob, home="kdtune.noise.labels"):
    """The family of knobs at `labels`."""

    replaces: ClassVar[bool] = False  # every label, whatever it was: nothing before it would have an effect
    asks_teacher: ClassVar[bool] = False  # so that a run with it waits for one

    @abstractmethod
    def __call__(self, labels: Tensor, classes: int, draw: Draw, answers: Callable[[], Tensor] | None) -> Tensor:
        """The labels, int64 [N] in [0, classes), of all training images of a dataset. Test labels stay clean.

        draw is made from the dataset's seed, so that teacher and student are given the same wrong labels.
        answers() are the classes that the run's teacher gives to the same images, int64 [N], computed when first asked
        for; None where there is no teacher to ask.

        Errors: ValueError for labels that the knob is not for.
        """

    def check(self, clean: Tensor) -> None:
        """Raises ValueError where the knob is meant for other images than those of these labels, the dataset's own."""

    def check_names(self, names: Callable[[], Sequence[str] | None]) -> None:
        """Raises ValueError where the knob is meant for images of these names in another order. `names` gives those of
        the training images, CLASS/FILE, in their order; None where images have none."""

    def identity(self) -> dict[str, Any]:
        """What a run's description says of it: what is stated, but of a file its content. ValueError without one."""
        return self.dumped()


class Corruption(LabelsKnob):
    """y' = y with probability 1 - c, else a class drawn uniformly from all K, once for every image: a share
    c (K - 1) / K of the labels is wrong, 0.9 c of ten classes, and that is what is measured (Arani et al., arXiv
    1910.05057, label-noise study, figures 9 and 10; FLC_TS, figures 17 and 18).

    The paper does not say how the class is drawn; this is how the authors' later code does it (papers A.2; papers A.7,
    row 11). With `classes: wrong` it is one of the K - 1 others, and a share c is wrong.
    """

    strength: ClassVar[str] = "rate"
    rate: Rate  # c: probability, for each image, that its label is drawn anew
    classes: DrawnFrom = "any"

    def __call__(self, labels: Tensor, classes: int, draw: Draw, answers: Callable[[], Tensor] | None = None) -> Tensor:
        return redraw(labels, self.rate, classes, self.classes, draw)

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the labels that changed."""
        return share_changed(before, after)


class Teacher(LabelsKnob):
    """The class that the run's teacher answers, argmax over its logits in eval mode for the image as it is, with
    probability `rate` for each image (Wallace, Learning from Incorrectly Labeled Data, 2019; papers B.1).

    `shuffle` takes from the wrong answers what they know of their images, those that are not the label as it came:
    `class` permutes them among the wrong images of each label, which keeps the confusion matrix to the count; `all`
    among all wrong images, which keeps how often each class is answered.
    """

    strength: ClassVar[str] = "rate"
    asks_teacher: ClassVar[bool] = True
    rate: Rate
    shuffle: Literal["class", "all"] | None = None

    def __call__(self, labels: Tensor, classes: int, draw: Draw, answers: Callable[[], Tensor] | None = None) -> Tensor:
        chosen, place = draw.uniform(labels) < self.rate, draw.permutation(len(labels))  # both, whatever is asked for
        if answers is None:
            raise ValueError("there is no teacher to ask for labels")
        given = answers().to(labels)
        if self.shuffle is not None:
            group = labels if self.shuffle == "class" else labels.new_zeros(len(labels))
            wrong = (given != labels).nonzero()[:, 0]
            drawn = wrong[place[wrong].argsort()]
            taken, put = (each[group[each].argsort(stable=True)] for each in (drawn, wrong))
            given = given.index_copy(0, put, given[taken])
        return given.where(chosen, labels)

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the labels that changed: those that the teacher answers otherwise."""
        return share_changed(before, after)


class File(LabelsKnob):
    """Every label as a file has it: labels that people gave, or another network. CIFAR-10N's (Wei et al., arXiv
    2110.12088) are `{path: CIFAR-10_human.pt, key: worse_label}`; `key` names an array or a column.

    The file holds an integer from 0 for each training image, before `train_size`, in the order in which the dataset
    has them: CIFAR's is that of its own files, a folder's goes by class and name. A file with a `clean_label` beside
    it, as CIFAR-10N's, is held against the dataset's labels, a column with the names of a folder's images against their
    order. It stands first in `labels`, for it replaces every label.
    """

    model_config = ConfigDict(serialize_by_alias=True)
    replaces: ClassVar[bool] = True

    path: PathText
    array: Text | None = Field(None, alias="key")  # `key` is what a kind is called

    @field_validator("path")
    @classmethod
    def _is_read(cls, path: str) -> str:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise ValueError(f"labels are read from {', '.join(SUFFIXES)}")
        return path

    @property
    def off(self) -> bool:
        return False  # it has no strength

    def __call__(self, labels: Tensor, classes: int, draw: Draw, answers: Callable[[], Tensor] | None = None) -> Tensor:
        import torch

        given = read_labels(self.path, self.array).labels
        self._refuse_another_length(len(given), len(labels))
        outside = (given < 0) | (given >= classes)
        if outside.any():
            place = int(outside.argmax())
            raise ValueError(
                f"{self.path}: {int(outside.sum())} labels are none of 0 to {classes - 1}, the first {given[place]} "
                f"at place {place} (counted from 0)"
            )
        return torch.from_numpy(given).to(labels)

    def check(self, clean: Tensor) -> None:
        import torch

        if (stated := read_labels(self.path, self.array).clean) is None:
            return
        self._refuse_another_length(len(stated), len(clean))
        if wrong := int((torch.from_numpy(stated) != clean.cpu()).sum()):
            raise ValueError(
                f"{self.path}: its {CLEAN} is not the dataset's label for {wrong} of {len(clean)} images: the file is "
                "of another dataset, or in another order"
            )

    def check_names(self, names: Callable[[], Sequence[str] | None]) -> None:
        texts = read_labels(self.path, self.array).texts
        ours = names() if texts else None
        for column, theirs in texts.items() if ours else ():
            parts = 2 if all(re.search(r"[/\\]", text) for text in theirs) else 1
            here, there = ([_end(name, parts) for name in of] for of in (ours or (), theirs))
            if here != there and sorted(here) == sorted(there):
                place = next(place for place, name in enumerate(here) if name != there[place])
                raise ValueError(
                    f"{self.path}: its rows are not in the order of the images, by class and name: {column!r} has "
                    f"{there[place]} at place {place} (counted from 0), where {here[place]} is"
                )

    def _refuse_another_length(self, came: int, wanted: int) -> None:
        if came != wanted:
            raise ValueError(
                f"{self.path}: holds {came} labels, and there are {wanted} training images; it has one for each, "
                "before train_size and validation"
            )

    def identity(self) -> dict[str, Any]:
        labels = read_labels(self.path, self.array).labels
        return {self.written: {"digest": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:16]}}

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the labels that changed."""
        return share_changed(before, after)


def _end(name: str, parts: int) -> str:
    """The last so many parts of a path, without what it ends in: `a/img2` of `/data/train/a/img2.png`."""
    return os.path.splitext("/".join(re.split(r"[/\\]", name)[-parts:]))[0]
