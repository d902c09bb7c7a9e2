"""What a sweep and a run may say, as frozen models; and a run's id.

The models read top to bottom like a sweep file. What they refuse they refuse with a path, so that `sweepfile` can name
the line. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, Strict, field_validator, model_validator

from kdtune.data.dataset import Dataset
from kdtune.evaluation.evaluation import Evaluation
from kdtune.kinds import Several
from kdtune.losses.ce import CE
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.model import Model
from kdtune.noise.input import InputKnob
from kdtune.noise.knob import Knob
from kdtune.noise.target import TargetKnob
from kdtune.noise.teacher import TeacherKnob
from kdtune.recipe import Recipe
from kdtune.settings import PathText, Positive, Real, Settings, Text, Whole

# Hashed into every id. Rises, with a line in CHANGELOG, when the same description should give other numbers.
RECIPE_VERSION = 2


class Noise(Settings):
    """Knobs by injection point; those of one point compose in written order."""

    input: Annotated[tuple[InputKnob, ...], Several(InputKnob)] = ()
    teacher: Annotated[tuple[TeacherKnob, ...], Several(TeacherKnob)] = ()
    target: Annotated[tuple[TargetKnob, ...], Several(TargetKnob)] = ()

    @field_validator("target")
    @classmethod
    def _labels_first(cls, knobs: tuple[TargetKnob, ...]) -> tuple[TargetKnob, ...]:
        for earlier, later in pairwise(knob for knob in knobs if not knob.off):
            if earlier.softens:
                raise ValueError(
                    f"{later.key} stands after {earlier.key}, which makes soft targets of the labels; "
                    f"{later.key} needs labels: write it before {earlier.key}"
                )
        return knobs

    def knobs(self, point: str) -> dict[str, Any]:
        """The knobs of `input`, `teacher` or `target` that are on, by name, in written order."""
        at: tuple[Knob, ...] = getattr(self, point)
        return {knob.key: knob for knob in at if not knob.off}


class Normalization(Settings):
    """Per-channel mean and standard deviation on the [0, 1] scale, applied inside the network. The paper uses none."""

    mean: tuple[Real, ...]
    std: tuple[Positive, ...]

    @model_validator(mode="after")
    def _of_the_same_channels(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} channels and std {len(self.std)}; both have one number a channel"
            )
        return self


class Network(Settings):
    """A network and how it is trained."""

    model: Model
    recipe: Recipe
    noise: Noise = Noise()
    normalization: Normalization | None = None
    loss: Loss | None = None  # None: cross-entropy, or for a student with `distillation` that


class Student(Network):
    """`distillation: {alpha: 0.9, temperature: 4}` is the loss `kd`; `loss` stands in its place."""

    distillation: KD | None = None  # None, and no loss that needs a teacher: the student learns alone

    @property
    def objective(self) -> Loss:
        return self.loss or self.distillation or CE()

    @property
    def asks(self) -> bool:
        """Whether it has a teacher."""
        return self.objective.needs_teacher

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loss is not None and self.distillation is not None:
            raise ValueError(
                f"names the loss {self.loss.key} and distillation, which is the loss kd; exactly one of them"
            )
        if not self.asks and self.noise.knobs("teacher"):
            raise ValueError("noise.teacher is set, but there is no distillation, so no teacher to be noisy")
        return self


class Select(Settings):
    """Which teacher a student learns from: the best of the pool by `metric`, or the one of the student's own seed."""

    rule: Literal["best", "paired"]
    metric: Text | None = None

    @model_validator(mode="after")
    def _best_needs_a_metric(self) -> Self:
        if (self.rule == "best") != (self.metric is not None):
            raise ValueError("rule: best needs a metric, such as val/accuracy; rule: paired has none")
        if self.metric is not None and not self.metric.startswith(("val/", "test/")):
            raise ValueError(f"metric is {self.metric!r}; a teacher is chosen by val/accuracy or another val/* metric")
        return self


def _seeds(value: Any) -> Any:
    """A count n stands for the seeds 0..n-1."""
    return range(value) if isinstance(value, int) and not isinstance(value, bool) else value


Seeds = Annotated[tuple[Whole, ...], Field(min_length=1), BeforeValidator(_seeds)]


class Teacher(Network):
    seeds: Seeds | None = None  # the pool; None: the students' own seeds
    select: Select | None = None
    checkpoint: PathText | None = None  # a teacher of one's own: loaded, evaluated, never trained

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loss is not None and self.loss.needs_teacher:
            raise ValueError(
                f"the loss {self.loss.key} needs a teacher, and a teacher has none: it stands at the student"
            )
        if self.noise.knobs("teacher"):
            raise ValueError("noise.teacher belongs to the student, which is the one that listens to it")
        if self.checkpoint is None and self.select is None:
            raise ValueError("select is missing: write select: {rule: best, metric: val/accuracy} or {rule: paired}")
        if self.checkpoint is not None and (self.select or self.seeds):
            raise ValueError("a teacher with a checkpoint is one network: it has neither seeds nor select")
        return self


class Sweep(Settings):
    """A sweep file at one point of its grid, after profile, overrides and `$names`."""

    @classmethod
    def known_keys(cls) -> list[str]:
        return ["recipe", "grid", "profiles", *cls.model_fields]  # what is gone by now may be meant all the same

    name: Annotated[str, Strict(), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    dataset: Dataset
    seeds: Seeds
    teacher: Teacher | None = None
    student: Student
    evaluation: Evaluation

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.student.asks and not self.teacher:
            part = "distillation" if self.student.distillation else f"loss.{self.student.objective.key}"
            raise ValueError(f"student.{part} is set, but there is no teacher")
        held_out = [evaluator.key for evaluator in self.evaluation if evaluator.on == "val"]
        if held_out and self.dataset.validation is None:
            raise ValueError(f"{held_out[0]} is measured on: val, but nothing is held out: set dataset.validation")
        select = self.teacher.select if self.teacher else None
        if select and select.metric and select.metric.startswith("val/") and self.dataset.validation is None:
            raise ValueError(
                f"teacher.select.metric is {select.metric}, but nothing is held out: set dataset.validation"
            )
        for part, network in {"teacher": self.teacher, "student": self.student}.items():
            if network and network.recipe.keep and self.dataset.validation is None:
                raise ValueError(
                    f"{part}.recipe.keep.best is {network.recipe.keep.best}, but nothing is held out: "
                    "set dataset.validation"
                )
        pool = self.teacher.seeds if self.teacher else None
        if select and select.rule == "paired" and pool and not set(self.seeds) <= set(pool):
            raise ValueError(f"rule: paired teaches student i by teacher i, but {pool} lacks some of {self.seeds}")
        if select and select.metric and "accuracy" not in {evaluator.key for evaluator in self.evaluation}:
            raise ValueError("teacher.select has a metric, but evaluation does not list accuracy, which measures it")
        return self


class Choice(Settings):
    """The runs that one chooses from, and how. Not the winner: that is known only when all of them are done."""

    runs: tuple[Text, ...]
    rule: Literal["best", "paired", "given"]
    metric: Text | None = None
    evaluator: Text | None = None  # hash of the evaluator that measures `metric`


class Run(Settings):
    """Everything one run needs. Its id is made of `description`, which holds no path.

    A run has either a recipe and a seed, or the checkpoint it is loaded from.
    """

    dataset: Dataset
    content: dict[str, Any]  # the data set by name and digest, as it enters the id
    model: Model
    normalization: Normalization | None = None
    checkpoint: Text | None = None
    checkpoint_digest: Text | None = None
    recipe: Recipe | None = None
    seed: Whole | None = None
    noise: Noise = Noise()
    loss: Loss | None = None  # None: cross-entropy
    teacher: Choice | None = None  # whom it learns from
    source: Choice | None = None  # whose images or labels it is trained on

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Ids of the runs that must be done before this one starts: it learns from them, or on what they made."""
        choices = [choice for choice in (self.teacher, self.source) if choice is not None]
        return tuple(dict.fromkeys(id for choice in choices for id in choice.runs))

    @cached_property
    def description(self) -> dict[str, Any]:
        """What decides the numbers of this run. What is off is not written, so an old id survives a new option."""
        stated = self.model_dump(mode="json", exclude_defaults=True, exclude={"dataset", "content", "checkpoint"})
        stated = {key: value for key, value in stated.items() if value not in ({}, None)}
        if self.loss == CE():
            stated.pop("loss")  # what is minimised where no loss is named
        noise = {point: knobs for point, knobs in stated.pop("noise", {}).items() if knobs}
        if isinstance(self.loss, KD):
            stated["distillation"] = stated.pop("loss")["kd"]  # under the name that sweep files have for it
            if "input" not in noise:
                stated["distillation"].pop("teacher_sees", None)  # what is shown is the clean image
        return {
            "recipe_version": RECIPE_VERSION,
            "dataset": self.content,
            **stated,
            **({"noise": noise} if noise else {}),
        }

    @cached_property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the description."""
        return hashlib.sha256(json.dumps(canonical(self.description)).encode()).hexdigest()[:12]


KNOBS = {("noise", "input"), ("noise", "teacher"), ("noise", "target"), ("dataset", "labels")}


def canonical(stated: Any, path: tuple[str, ...] = ()) -> Any:
    """A description without the order of its keys, which no reader sees; but knobs of one point compose in theirs."""
    if not isinstance(stated, dict):
        return stated
    parts = {key: canonical(value, (*path, key)) for key, value in stated.items()}
    return [[key, parts[key]] for key in parts] if path in KNOBS else dict(sorted(parts.items()))
