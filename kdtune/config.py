"""What a sweep may say, as frozen models.

The models read top to bottom like a sweep file. What they refuse they refuse with a path, so that `sweepfile` can name
the line. Nothing here loads torch.
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from kdtune.data.dataset import LABELS, Dataset
from kdtune.evaluation.evaluation import Evaluation, declared, watched, written_twice
from kdtune.evaluation.evaluator import Evaluator
from kdtune.networks import Network, Student, Teacher
from kdtune.settings import PlaceName, Seeds, Settings, meant, refused_at


class Sweep(Settings):
    """A sweep file at one point of its grid, after profile, overrides and `$names`."""

    elsewhere: ClassVar[dict[str, str]] = {"recipe": "a recipe is a mapping, such as {optimizer: ..., epochs: 200}"}

    @classmethod
    def known_keys(cls) -> list[str]:
        return ["recipe", "grid", "search", "profiles", *cls.model_fields]  # four are gone by now, and may be meant

    name: PlaceName
    dataset: Dataset
    seeds: Seeds
    teacher: Teacher | None = None
    source: Student | None = None  # what students with dataset.robust have their images from; it learns as they do
    student: Student
    evaluation: Evaluation

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for part, learner in self.learners.items():
            self._refuse_what_is_not_there(part, learner)
        if self.teacher and (asking := self.dataset_of(self.teacher).asking):
            self._refuse_asking(self.teacher, asking)
        self._refuse_images_of_a_source()
        for part, network in self.networks.items():
            self._refuse_what_is_not_measured(part, network)
            self._refuse_weights_that_are_not_kept(part, network)
            comparing = network.loss.key if network.loss is not None and network.loss.compares else None
            asks, dataset = isinstance(network, Student) and network.asks, self.dataset_of(network)
            if why := network.noise.refusal(comparing, asks, dataset.bounded, dataset.low_rank):
                raise refused_at((part, "noise", "input"), why, comparing)
        select = self.teacher.select if self.teacher else None
        if self.teacher and select and select.metric:
            self._refuse_metric(select.metric, self.dataset_of(self.teacher))
        for learner in self.learners.values():
            if select and select.rule == "average" and learner.objective.needs_features:
                told = f"the loss {learner.objective.key} needs features, and rule: average has logits alone"
                raise refused_at(("teacher", "select", "rule"), told, select.rule)
        pool, seeds = self.pool, [select.paired_with(seed) for seed in self.seeds] if select else []
        if select and select.rule == "paired" and not set(seeds) <= set(pool):
            who = f"teacher i + {select.offset}" if select.offset else "teacher i"
            raise ValueError(f"rule: paired teaches student i by {who}, but {pool} lacks some of {tuple(seeds)}")
        return self

    @property
    def pool(self) -> tuple[int, ...]:
        """The seeds of its teachers."""
        select = self.teacher.select if self.teacher else None
        own = self.teacher.seeds if self.teacher else None
        return own or tuple(select.paired_with(seed) if select else seed for seed in self.seeds)

    @property
    def networks(self) -> dict[str, Network]:
        """Those that runs of this point are of, by the part of the file that they stand in."""
        return {**({"teacher": self.teacher} if self.teacher else {}), **self.learners}

    @property
    def learners(self) -> dict[str, Student]:
        """The student, and before it the source of its images, where it has one."""
        has_source = self.source is not None and self.dataset_of(self.student).robust is not None
        return {**({"source": self.source} if self.source and has_source else {}), "student": self.student}

    @property
    def asks(self) -> bool:
        """Whether anybody has a teacher."""
        return any(self.asks_teacher(learner) for learner in self.learners.values())

    def asks_teacher(self, learner: Student) -> bool:
        """Whether it has a teacher: for its loss, or for what it is trained on."""
        return learner.asks or self.dataset_of(learner).asks

    def dataset_of(self, network: Network) -> Dataset:
        """What a network of this sweep is trained and tested on."""
        return network.dataset or self.dataset

    def _refuse_what_is_not_there(self, part: str, learner: Student) -> None:
        """Raises ValueError where a student, or a source, would ask a teacher that is not there, or look up answers to
        images that change."""
        dataset, loss = self.dataset_of(learner), learner.objective
        if self.asks_teacher(learner) and not self.teacher:
            asking = "distillation" if learner.distillation else f"loss.{loss.key}"
            told = f"{part}.{asking if learner.asks else f'dataset.{dataset.asking}'} is set, but there is no teacher"
            if not learner.asks and dataset.asking == LABELS:
                told = f"{dataset.title} have the labels that a teacher gives them, and there is no teacher"
            raise ValueError(told)
        if loss.stored and dataset.floats:
            told = f"responses: {loss.kept_as} are of images of 8 bits; those of this data set are moved or drawn"
            raise refused_at((part,), told, loss.key)

    def _refuse_images_of_a_source(self) -> None:
        """Raises ValidationError where `dataset.robust` stands where nobody is to ask, or there is no source."""
        beside: dict[str, Network | None] = {"teacher": self.teacher, "source": self.source}
        for part, network in beside.items():
            if network is not None and self.dataset_of(network).robust is not None:
                told = (
                    f"dataset.robust takes images from a source, and a {part} has none: write it below student.dataset"
                )
                raise refused_at((part, "dataset") if network.dataset else ("dataset",), told, "robust")
        if self.source is None and self.dataset_of(self.student).robust is not None:
            told = "robust takes images from a source, and there is none: write source:, a network as student: has it"
            raise refused_at(("student", "dataset") if self.student.dataset else ("dataset",), told, "robust")

    def _refuse_asking(self, teacher: Teacher, asking: str) -> None:
        """Raises ValidationError where a teacher would need a teacher. One that is not trained labels images itself."""
        if asking == LABELS and not teacher.trained:
            return
        told = f"dataset.{asking} asks a teacher, and a teacher has none: write it below student.dataset"
        if asking == LABELS:
            told = f"{self.dataset_of(teacher).title} have the labels that a teacher gives them, and this one would be"
            told += " trained on them: untrained: true or a checkpoint below teacher would do"
        raise refused_at(("teacher", "dataset") if teacher.dataset else ("dataset",), told, asking)

    def _refuse_what_is_not_measured(self, part: str, network: Network) -> None:
        """Raises ValueError where something is asked of images that nobody holds out, or two entries write one name."""
        dataset = self.dataset_of(network)
        lacking = f"set {'dataset' if network.dataset is None else f'{part}.dataset'}.validation"
        held_out = [evaluator.key for evaluator in self.evaluation if evaluator.looks_at_held_out]
        if held_out and dataset.validation is None:
            raise ValueError(f"{held_out[0]} is measured on: val, but nothing is held out: {lacking}")
        if network.trained and network.recipe.keep and dataset.validation is None:
            raise ValueError(
                f"{part}.recipe.keep.best is {network.recipe.keep.best}, but nothing is held out: {lacking}"
            )
        moved = dataset.model_copy(update={"robust": None}).floats  # that puts no image in a held-out one's place
        if moved and (lost := [each.key for each in self.evaluation if each.on and each.needs_pixels]):
            told = f"those held out of {part}s are moved or drawn"
            raise ValueError(f"{lost[0]} on: val is of images of 8 bits, and {told}")
        of_subspace = [
            each for each in self.evaluation if getattr(each, "subspace", None) == "data" and each.on is None
        ]
        if of_subspace and not dataset.tested_within:
            told = f"subspace: data is that of {part}s' training inputs, and test inputs lie off it"
            raise ValueError(f"evaluation.{of_subspace[0].key}: {told}; {{pca: K}}, or on: val would do")
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
            taught = isinstance(network, Student) and self.asks_teacher(network)
            if network.trained and not taught and _compares(best, measured[best][0]):
                told = f"compares a network with its teacher, and a {part} here has none: no epoch would be the best"
                raise ValueError(f"{part}.recipe.keep.best is {best}, which {told}; val/accuracy would do")
        kept_by = {"last": ("keep", recipe.keep), "average": ("average", recipe.average)}
        for evaluator in self.evaluation:
            for which in sorted(evaluator.weights):
                key, asked = kept_by[which]
                if not (network.trained and asked):
                    lacks = f"a {part} that is not trained here has none such"
                    what = f"{part}.recipe.{key} is not set" if network.trained else lacks
                    raise ValueError(f"evaluation.{evaluator.key} looks at the {which} weights, but {what}")

    def _refuse_metric(self, name: str, dataset: Dataset) -> None:
        """Raises ValidationError, at its place, where no teacher can be chosen by a metric of this name."""
        found = declared(self.evaluation, dataset)
        measured = {one: metric for one, (_, metric) in found.items()}
        of = found[name][0].of if name in found else None
        alone = name in found and _compares(name, found[name][0])
        if name in measured and measured[name].better is not None and of is None and not alone:
            return
        if alone:
            told = "it compares a network with its teacher, and a teacher has none; val/accuracy would do"
        elif of is not None:
            told = f"it is of the {of} weights, and a teacher teaches with those that its run ends with"
        elif name.startswith("val/") and dataset.validation is None:
            told = "nothing is held out: set dataset.validation"
        elif name in measured:
            told = "neither more nor less of it is better; val/accuracy or another that ranks would do"
        else:
            part = f"{name.split('/')[0]}/"
            known = [one for one, metric in measured.items() if metric.better and one.startswith(part)]
            hint = meant(name, known) if known else f"accuracy, listed there, measures {part}accuracy"
            told = f"no entry of evaluation measures it; {hint}"
        raise refused_at(("teacher", "select", "metric"), f"came {name!r}; {told}", name)


def _compares(metric: str, evaluator: Evaluator) -> bool:
    """Whether a metric is absent where a network learned alone."""
    return evaluator.needs_teacher or "teacher/" in metric
