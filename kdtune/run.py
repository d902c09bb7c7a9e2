"""Everything that one run needs, as a frozen model; and its id. Nothing here loads torch."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from kdtune.data.dataset import Dataset
from kdtune.evaluation.evaluation import declared
from kdtune.evaluation.evaluator import Evaluator
from kdtune.extensions import codes_of
from kdtune.identity import id_of
from kdtune.losses.ce import CE
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.model import Model
from kdtune.models.naming import Entries
from kdtune.networks import Normalization
from kdtune.noise.noise import Noise
from kdtune.recipe import Recipe
from kdtune.settings import Settings, Text, Whole

# Hashed into every id. Rises, with a line in CHANGELOG, when the same description should give other numbers.
RECIPE_VERSION = 3
BFLOAT16_VERSION = 1  # hashed into the ids of runs in bfloat16; of those without it every step used its first weights


class Choice(Settings):
    """The runs that one chooses from, and how. Not the winner: that is known only when all of them are done."""

    runs: tuple[Text, ...]
    rule: Literal["best", "paired", "average", "given"]
    metric: Text | None = None
    evaluator: Text | None = None  # hash of the evaluator that measures `metric`
    better: Literal["lower"] | None = None  # None: the highest `metric` is the best


# Of a run: paths, and what stands elsewhere.
NOT_STATED = {"dataset", "content", "checkpoint", "answers_digest", "watch"}


class Run(Settings):
    """Everything one run needs. Its id is made of `description`, which holds no path.

    A run has a recipe and a seed, or a seed alone, which then initialises it and that is all, or the checkpoint that it
    is loaded from.
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
    watch: tuple[Evaluator, ...] = ()  # what is measured while it trains

    @property
    def keeps_lowest(self) -> bool:
        """Whether the epoch with the lowest number of what `recipe.keep` names is the best, and not the highest."""
        keep = self.recipe.keep if self.recipe else None
        metric = declared(self.watch, self.dataset).get(keep.best) if keep else None
        return metric is not None and metric[1].better == "lower"

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Ids of the runs that must be done before this one starts: it learns from them, or on what they made."""
        choices = [choice for choice in (self.teacher, self.source) if choice is not None]
        return tuple(dict.fromkeys(id for choice in choices for id in choice.runs))

    @property
    def deaf(self) -> bool:
        """Whether target knobs are on and its loss looks at no target: it ends with the weights of a run without."""
        return self.loss is not None and not self.loss.weighs_targets and bool(self.noise.knobs("target"))

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
            **({"watch": {each.hash: each.every for each in self.watch}} if self.watch else {}),
            **({"bfloat16_version": BFLOAT16_VERSION} if self.recipe and self.recipe.precision == "bfloat16" else {}),
            **({"extensions": codes} if (codes := codes_of(self)) else {}),
        }

    @cached_property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the description."""
        return id_of(self.description)
