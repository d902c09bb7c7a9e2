"""What a sweep may say, as frozen models.

The models read top to bottom like a sweep file. What they refuse they refuse with a path, so that `sweepfile` can name
the line. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from kdtune.data.dataset import Dataset
from kdtune.data.moments import Moments
from kdtune.evaluation.evaluation import Evaluation, declared, watched, written_twice
from kdtune.losses.ce import CE
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.model import Model
from kdtune.models.naming import Renaming
from kdtune.noise.noise import Noise
from kdtune.recipe import Recipe
from kdtune.settings import PathText, PlaceName, Seeds, Settings, Text, meant, refused_at


class Normalization(Moments):
    """Applied inside the network: inputs lose this mean and are divided by this deviation. The paper uses none."""


def names_a_set(dataset: Mapping[str, Any]) -> bool:
    """Whether a mapping at `dataset` says which set it is; else it is laid over one that does."""
    return any(key not in Dataset.model_fields for key in dataset)


class Network(Settings):
    """A network and how it is trained."""

    model: Model
    recipe: Recipe
    dataset: Dataset | None = None  # None: the sweep's
    noise: Noise = Noise()
    normalization: Normalization | None = None
    loss: Loss | None = None  # None: cross-entropy, or for a student with `distillation` that


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
        if self.objective.shuffled and not self.objective.stored:
            raise ValueError("shuffle looks up what the teacher answered to other images; write responses: stored")
        if self.objective.stored and getattr(self.objective, "teacher_sees", "clean") == "shown":
            told = f"responses: {self.objective.kept_as} are of clean images"
            raise ValueError(f"{told}, and teacher_sees: shown is not; one of them")
        return self


class Select(Settings):
    """Which teacher a student learns from: the best of the pool by `metric`, the one of the student's own seed, or the
    whole pool, by the mean of its logits (`training.ensemble`)."""

    rule: Literal["best", "paired", "average"]
    metric: Text | None = None

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
        return self


class Teacher(Network):
    seeds: Seeds | None = None  # the pool; None: the students' own seeds
    select: Select | None = None
    checkpoint: PathText | None = None  # a teacher of one's own: loaded, evaluated, never trained
    rename: Renaming = ()  # its names -> ours, where `models.naming` does not know them

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
        noisy = [point for point in ("input", "target") if self.noise.knobs(point)]
        if self.checkpoint is not None and (noisy or self.loss):
            what = f"noise.{noisy[0]}" if noisy else "loss"
            raise ValueError(f"{what} is how a teacher is trained, and one with a checkpoint is not trained; remove it")
        return self


class Sweep(Settings):
    """A sweep file at one point of its grid, after profile, overrides and `$names`."""

    elsewhere: ClassVar[Mapping[str, str]] = {"recipe": "a recipe is a mapping, such as {optimizer: ..., epochs: 200}"}

    @classmethod
    def known_keys(cls) -> list[str]:
        return ["recipe", "grid", "search", "profiles", *cls.model_fields]  # what is gone by now may be meant

    name: PlaceName
    dataset: Dataset
    seeds: Seeds
    teacher: Teacher | None = None
    student: Student
    evaluation: Evaluation

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.asks and not self.teacher:
            part = "distillation" if self.student.distillation else f"loss.{self.student.objective.key}"
            part = part if self.student.asks else f"dataset.{self.dataset_of(self.student).asking}"
            raise ValueError(f"student.{part} is set, but there is no teacher")
        if self.teacher and (asking := self.dataset_of(self.teacher).asking):
            told = f"dataset.{asking} asks a teacher, and a teacher has none: write it below student.dataset"
            raise refused_at(("teacher", "dataset") if self.teacher.dataset else ("dataset",), told, asking)
        if self.student.objective.stored and self.dataset_of(self.student).floats:
            kept_as = self.student.objective.kept_as
            told = f"responses: {kept_as} are of images of 8 bits; those of this data set are moved or drawn"
            raise refused_at(("student",), told, self.student.objective.key)
        networks = {"teacher": self.teacher, "student": self.student}
        for part, network in networks.items():
            if network is not None:
                self._refuse_what_is_not_measured(part, network)
                self._refuse_weights_that_are_not_kept(part, network)
                comparing = network.loss.key if network.loss is not None and network.loss.compares else None
                asks = network is self.student and self.student.asks
                if why := network.noise.refusal(comparing, asks, self.dataset_of(network).bounded):
                    raise refused_at((part, "noise", "input"), why, comparing)
        select = self.teacher.select if self.teacher else None
        if self.teacher and select and select.metric:
            self._refuse_metric(select.metric, self.dataset_of(self.teacher))
        pool = self.teacher.seeds if self.teacher else None
        if select and select.rule == "average" and self.student.objective.needs_features:
            told = f"the loss {self.student.objective.key} needs features, and rule: average has logits alone"
            raise refused_at(("teacher", "select", "rule"), told, select.rule)
        if select and select.rule == "paired" and pool and not set(self.seeds) <= set(pool):
            raise ValueError(f"rule: paired teaches student i by teacher i, but {pool} lacks some of {self.seeds}")
        return self

    @property
    def asks(self) -> bool:
        """Whether its students have a teacher: for their loss, or for what they are trained on."""
        return self.student.asks or self.dataset_of(self.student).asks

    def dataset_of(self, network: Network) -> Dataset:
        """What a network of this sweep is trained and tested on."""
        return network.dataset or self.dataset

    def _refuse_what_is_not_measured(self, part: str, network: Network) -> None:
        """Raises ValueError where something is asked of images that nobody holds out, or two entries write one name."""
        dataset = self.dataset_of(network)
        lacking = f"set {'dataset' if network.dataset is None else f'{part}.dataset'}.validation"
        held_out = [evaluator.key for evaluator in self.evaluation if evaluator.looks_at_held_out]
        if held_out and dataset.validation is None:
            raise ValueError(f"{held_out[0]} is measured on: val, but nothing is held out: {lacking}")
        if network.recipe.keep and dataset.validation is None:
            raise ValueError(
                f"{part}.recipe.keep.best is {network.recipe.keep.best}, but nothing is held out: {lacking}"
            )
        if dataset.floats and (lost := [each.key for each in self.evaluation if each.on and each.needs_pixels]):
            told = f"those held out of {part}s are moved or drawn"
            raise ValueError(f"{lost[0]} on: val is of images of 8 bits, and {told}")
        if twice := written_twice(self.evaluation, dataset):
            told = f"two entries write the metric {twice[0]}; one would hide the other: give one of them a `label`"
            raise refused_at(("evaluation",), told, self.evaluation)

    def _refuse_weights_that_are_not_kept(self, part: str, network: Network) -> None:
        """Raises ValueError where the best epoch is asked for by what nobody measures, or evaluators look at weights
        that a network does not keep."""
        recipe, dataset = network.recipe, self.dataset_of(network)
        if recipe.keep and recipe.keep.best != "val/accuracy":
            best, measured = recipe.keep.best, declared(watched(self.evaluation), dataset)
            seen = [name for name, (_, metric) in measured.items() if metric.better and name.startswith("val/")]
            if best not in seen:
                known = ", ".join(sorted(seen)) or "none so far"
                told = "is measured by no entry of evaluation with on: val and every"
                raise ValueError(f"{part}.recipe.keep.best is {best}, which {told}; these are: val/accuracy, {known}")
        trained = not (isinstance(network, Teacher) and network.checkpoint)
        kept_by = {"last": ("keep", recipe.keep), "average": ("average", recipe.average)}
        for evaluator in self.evaluation:
            for which in sorted(evaluator.weights):
                key, asked = kept_by[which]
                if not (trained and asked):
                    what = f"{part}.recipe.{key} is not set" if trained else f"a {part} from a file has none such"
                    raise ValueError(f"evaluation.{evaluator.key} looks at the {which} weights, but {what}")

    def _refuse_metric(self, name: str, dataset: Dataset) -> None:
        """Raises ValidationError, at its place, where no teacher can be chosen by a metric of this name."""
        measured = {one: metric for one, (_, metric) in declared(self.evaluation, dataset).items()}
        if name in measured and measured[name].better is not None:
            return
        if name.startswith("val/") and dataset.validation is None:
            told = "nothing is held out: set dataset.validation"
        elif name in measured:
            told = "neither more nor less of it is better; val/accuracy or another that ranks would do"
        else:
            part = f"{name.split('/')[0]}/"
            known = [one for one, metric in measured.items() if metric.better and one.startswith(part)]
            hint = meant(name, known) if known else f"accuracy, listed there, measures {part}accuracy"
            told = f"no entry of evaluation measures it; {hint}"
        raise refused_at(("teacher", "select", "metric"), f"came {name!r}; {told}", name)
