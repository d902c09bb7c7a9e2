"""What a sweep says of its networks, as frozen models: students, their teacher, and how it is chosen.
Nothing here loads torch.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from kdtune.data.dataset import Dataset
from kdtune.data.moments import Moments
from kdtune.losses.ce import CE
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.model import Model
from kdtune.models.naming import Renaming
from kdtune.noise.noise import Noise
from kdtune.recipe import Recipe
from kdtune.settings import Count, Flag, PathText, Seeds, Settings, Text


class Normalization(Moments):
    """Applied inside the network: inputs lose this mean and are divided by this deviation. The paper uses none."""


class Network(Settings):
    """A network and how it is trained."""

    model: Model
    recipe: Recipe
    dataset: Dataset | None = None  # None: the sweep's
    noise: Noise = Noise()
    normalization: Normalization | None = None
    loss: Loss | None = None  # None: cross-entropy, or for a student with `distillation` that

    @property
    def trained(self) -> bool:
        return True


class Student(Network):
    """`distillation: {alpha: 0.9, temperature: 4}` is the loss `kd`; `loss` stands in its place."""

    distillation: KD | None = None  # None, and no loss that needs a teacher: the student learns alone

    @property
    def objective(self) -> Loss:
        return (self.loss or self.distillation or CE()).under(moved=bool(self.noise.knobs("input")))

    @property
    def asks(self) -> bool:
        """Whether it has a teacher."""
        return self.objective.asks

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loss is not None and self.distillation is not None:
            raise ValueError(
                f"names the loss {self.loss.key} and distillation, which is the loss kd; exactly one of them"
            )
        knobs = self.noise.knobs("teacher")
        if knobs and not self.objective.needs_teacher:
            raise ValueError("noise.teacher is set, but there is no distillation, so no teacher to be noisy")
        if knobs and self.objective.stored:
            told = f"responses: {self.objective.kept_as} are one answer to each view"
            raise ValueError(f"{told}; noise.teacher.{next(iter(knobs))} needs more")
        if not self.objective.sees_targets and (blurred := self.noise.knobs("target")):
            told = f"noise.target.{next(iter(blurred))} changes labels, and the loss {self.objective.key} sees none"
            raise ValueError(f"{told}; remove it")
        if self.objective.shuffled and not self.objective.stored:
            raise ValueError("shuffle looks up what the teacher answered to other images; write responses: stored")
        if self.objective.stored and getattr(self.objective, "teacher_sees", "clean") == "shown":
            told = f"responses: {self.objective.kept_as} are of clean images"
            raise ValueError(f"{told}, and teacher_sees: shown is not; one of them")
        return self


class Select(Settings):
    """Which teacher a student learns from: the best of the pool by `metric`, the one of the student's own seed, or the
    whole pool, by the mean of its logits (`training.ensemble`). A paired one may have that seed and `offset`: a student
    of its teacher's model and seed would begin with its teacher's initial weights, and see images in its order."""

    rule: Literal["best", "paired", "average"]
    metric: Text | None = None
    offset: Count | None = None

    @field_validator("metric")
    @classmethod
    def _of_held_out_images(cls, metric: str | None) -> str | None:
        if metric is not None and not metric.startswith(("val/", "test/")):
            raise ValueError("a teacher is chosen by val/accuracy or another val/* metric")
        return metric

    @model_validator(mode="after")
    def _best_needs_a_metric(self) -> Self:
        if (self.rule == "best") != (self.metric is not None):
            raise ValueError("rule: best needs a metric, such as val/accuracy; rule: paired and average have none")
        if self.rule != "paired" and self.offset is not None:
            raise ValueError(f"offset is how far apart paired seeds lie, and the rule is {self.rule}; remove it")
        return self

    def paired_with(self, seed: int) -> int:
        """The seed of the teacher of a student of this seed, where they are paired."""
        return seed + (self.offset or 0)


class Teacher(Network):
    seeds: Seeds | None = None  # the pool; None: the students' own seeds, or those that they are paired with
    select: Select | None = None
    checkpoint: PathText | None = None  # a teacher of one's own: loaded, evaluated, never trained
    untrained: Flag = False  # it stays as its seed initialises it: an oracle, whose answers are what is right
    rename: Renaming = ()  # theirs: ours; a name or its beginning up to a dot, * for any part

    @property
    def trained(self) -> bool:
        return self.checkpoint is None and not self.untrained

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
        if self.rename and self.checkpoint is None:
            raise ValueError("rename is about the names in a checkpoint, and there is no checkpoint")
        if self.checkpoint is not None and (self.select or self.seeds):
            raise ValueError("a teacher with a checkpoint is one network: it has neither seeds nor select")
        if self.checkpoint is not None and self.untrained:
            raise ValueError("a teacher with a checkpoint has the weights that stand there; remove untrained")
        noisy = [point for point in ("input", "target") if self.noise.knobs(point)]
        if not self.trained and (noisy or self.loss):
            what = f"noise.{noisy[0]}" if noisy else "loss"
            which = "an untrained one" if self.untrained else "one with a checkpoint"
            raise ValueError(f"{what} is how a teacher is trained, and {which} is not trained; remove it")
        return self
