"""What a sweep and a run may say, as frozen models; and a run's id.

The models read top to bottom like a sweep file. What they refuse they refuse with a path, so that `sweepfile` can name
the line. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, Strict, model_validator

from kdtune.data.datasets import Dataset
from kdtune.evaluation import Evaluation
from kdtune.models import Model
from kdtune.noise.point import InputNoise, TargetNoise, TeacherNoise
from kdtune.recipe import Recipe
from kdtune.settings import PathText, Positive, Rate, Real, Settings, Text, Whole

# Hashed into every id. Rises, with a line in CHANGELOG, when the same description should give other numbers.
RECIPE_VERSION = 1


class Distillation(Settings):
    """(1 - alpha) CE + alpha temperature^2 KL, batch mean (Hinton et al. 2015; Arani et al. 2019, section 3).

    `divergence: forward` is KL(teacher || student), Hinton's and the default of common code; `reverse` is
    KL(student || teacher), as the paper's equations are printed (protocols A.7, row 14).
    """

    alpha: Rate
    temperature: Positive
    divergence: Literal["forward", "reverse"] = "forward"


class Noise(Settings):
    """Knobs by injection point."""

    input: InputNoise = InputNoise()
    teacher: TeacherNoise = TeacherNoise()
    target: TargetNoise = TargetNoise()

    def knobs(self, point: str) -> dict[str, Any]:
        """The knobs of `input`, `teacher` or `target` that are on, by name, in written order."""
        return getattr(self, point).knobs


class Normalization(Settings):
    """Per-channel mean and standard deviation on the [0, 1] scale, applied inside the network. The paper uses none."""

    mean: tuple[Real, ...]
    std: tuple[Positive, ...]


class Network(Settings):
    """A network and how it is trained."""

    model: Model
    recipe: Recipe
    noise: Noise = Noise()
    normalization: Normalization | None = None


class Student(Network):
    distillation: Distillation | None = None  # None: the student learns alone

    @model_validator(mode="after")
    def _teacher_noise_needs_a_teacher(self) -> Self:
        if self.distillation is None and self.noise.knobs("teacher"):
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
        if self.noise.knobs("teacher"):
            raise ValueError("noise.teacher belongs to the student, which is the one that listens to it")
        if self.checkpoint is None and self.select is None:
            raise ValueError("select is missing: write select: {rule: best, metric: val/accuracy} or {rule: paired}")
        if self.checkpoint is not None and (self.select or self.seeds):
            raise ValueError("a teacher with a checkpoint is one network: it has neither seeds nor select")
        return self


class Sweep(Settings):
    """A sweep file at one point of its grid, after profile, overrides and `$names`."""

    name: Annotated[str, Strict(), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    dataset: Dataset
    seeds: Seeds
    teacher: Teacher | None = None
    student: Student
    evaluation: Evaluation

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.student.distillation and not self.teacher:
            raise ValueError("student.distillation is set, but there is no teacher")
        select = self.teacher.select if self.teacher else None
        if select and select.metric and select.metric.startswith("val/") and self.dataset.validation is None:
            raise ValueError(
                f"teacher.select.metric is {select.metric}, but nothing is held out: set dataset.validation"
            )
        pool = self.teacher.seeds if self.teacher else None
        if select and select.rule == "paired" and pool and not set(self.seeds) <= set(pool):
            raise ValueError(f"rule: paired teaches student i by teacher i, but {pool} lacks some of {self.seeds}")
        if select and select.metric and "accuracy" not in {evaluator.name for evaluator in self.evaluation}:
            raise ValueError("teacher.select has a metric, but evaluation does not list accuracy, which measures it")
        return self


class Choice(Settings):
    """The teachers a student chooses from, and how. Not the winner: that is known only when all of them are done."""

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
    distillation: Distillation | None = None
    teacher: Choice | None = None

    @cached_property
    def description(self) -> dict[str, Any]:
        """What decides the numbers of this run. What is off is not written, so an old id survives a new option."""
        stated = self.model_dump(mode="json", exclude_defaults=True, exclude={"dataset", "content", "checkpoint"})
        stated = {key: value for key, value in stated.items() if value not in ({}, None)}
        noise = {point: knobs for point, knobs in stated.pop("noise", {}).items() if knobs}
        return {
            "recipe_version": RECIPE_VERSION,
            "dataset": self.content,
            **stated,
            **({"noise": noise} if noise else {}),
        }

    @cached_property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the description. Key order counts: knobs of one point compose in order."""
        return hashlib.sha256(json.dumps(self.description).encode()).hexdigest()[:12]
