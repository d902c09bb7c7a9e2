"""What a sweep and a run may say, as frozen models; and a run's id.

The models read top to bottom like a sweep file. What they refuse they refuse with a path, so that `sweepfile` can name
the line. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from kdtune.data.dataset import Dataset
from kdtune.data.moments import Moments
from kdtune.evaluation.evaluation import Evaluation, declared, written_twice
from kdtune.extensions import codes_of
from kdtune.identity import id_of
from kdtune.losses.ce import CE
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.model import Model
from kdtune.models.naming import Entries, Renaming
from kdtune.noise.noise import Noise
from kdtune.recipe import Recipe
from kdtune.settings import PathText, PlaceName, Seeds, Settings, Text, Whole, meant, refused_at

# Hashed into every id. Rises, with a line in CHANGELOG, when the same description should give other numbers.
RECIPE_VERSION = 3
BFLOAT16_VERSION = 1  # hashed into the ids of runs in bfloat16; of those without it every step used its first weights


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
        return self.loss or self.distillation or CE()

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
        return ["recipe", "grid", "profiles", *cls.model_fields]  # what is gone by now may be meant all the same

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
        held_out = [evaluator.key for evaluator in self.evaluation if evaluator.on == "val"]
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


class Choice(Settings):
    """The runs that one chooses from, and how. Not the winner: that is known only when all of them are done."""

    runs: tuple[Text, ...]
    rule: Literal["best", "paired", "average", "given"]
    metric: Text | None = None
    evaluator: Text | None = None  # hash of the evaluator that measures `metric`
    better: Literal["lower"] | None = None  # None: the highest `metric` is the best


NOT_STATED = {"dataset", "content", "checkpoint", "answers_digest"}  # of a run: paths, and what stands elsewhere


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
    rename: Entries = ()  # of the checkpoint's tensors: it decides which weight is which
    recipe: Recipe | None = None
    seed: Whole | None = None
    noise: Noise = Noise()
    loss: Loss | None = None  # None: cross-entropy
    answers_digest: Text | None = None  # of the file that its loss has a teacher's answers from
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
        stated = self.model_dump(mode="json", exclude_defaults=True, exclude=NOT_STATED)
        stated = {key: value for key, value in stated.items() if value not in ({}, None)}
        if self.loss == CE():
            stated.pop("loss")  # what is minimised where no loss is named
        if self.loss is not None and self.loss.given:
            stated["loss"][self.loss.key]["responses"] = {"file": self.answers_digest}
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
            **({"bfloat16_version": BFLOAT16_VERSION} if self.recipe and self.recipe.precision == "bfloat16" else {}),
            **({"extensions": codes} if (codes := codes_of(self)) else {}),
        }

    @cached_property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the description."""
        return id_of(self.description)
