"""What `evaluation:` may say: a list of evaluators, no two of which write the same metrics; and what they measure.

evaluation: [accuracy, shift, {pgd: {eps: [0.031], step: 0.003, images: 200}}]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, ValidationError

from kdtune.evaluation.evaluator import UNMEASURED, Evaluator
from kdtune.evaluation.flags import DEGENERATE
from kdtune.evaluation.metric import Metric
from kdtune.settings import meant

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset

SHARED = (*DEGENERATE, *UNMEASURED)  # flags of the network, whoever raises them


def _telling_apart(evaluators: tuple[Evaluator, ...]) -> tuple[Evaluator, ...]:
    for writes, count in Counter(evaluator.writes_under for evaluator in evaluators).items():
        if count > 1:
            raise ValueError(
                f"{count} entries write the metrics {writes!r}; one would hide the other: give one of them a `label`, "
                "as in {pgd: {...}, label: strong}"
            )
    return evaluators


Evaluation = Annotated[tuple[Evaluator, ...], AfterValidator(_telling_apart)]


def named(evaluation: Sequence[Evaluator], name: str) -> Evaluator:
    """The entry of this name: its key, or key@label where it has a label. ValueError, with what would do, for none.

    Of the weights that runs end with, and teach with: one `of` others is not meant.
    """
    own = [each for each in evaluation if each.of is None]
    called = {f"{each.key}@{each.label}" if each.label else each.key: each for each in own}
    if name not in called:
        raise ValueError(f"no entry of evaluation is called so; {meant(name, called)}")
    return called[name]


@lru_cache(maxsize=32)
def declared(evaluation: tuple[Evaluator, ...], dataset: Dataset) -> dict[str, tuple[Evaluator, Metric]]:
    """Every metric that the evaluators may measure on this data set, by name, in written order, and which one does."""
    found: dict[str, tuple[Evaluator, Metric]] = {}
    for evaluator in evaluation:
        for name, metric in evaluator.declared(dataset).items():
            found.setdefault(name, (evaluator, metric))
    return found


def watched(evaluation: tuple[Evaluator, ...]) -> tuple[Evaluator, ...]:
    """Those that measure while runs train, too."""
    return tuple(each for each in evaluation if each.every is not None)


def in_the_end(evaluation: tuple[Evaluator, ...]) -> tuple[Evaluator, ...]:
    """All of them, as they measure the finished network."""
    return tuple(each.model_copy(update={"every": None}) for each in evaluation)


def written_twice(evaluation: tuple[Evaluator, ...], dataset: Dataset) -> list[str]:
    """Names that several entries write on this data set. Not those of flags that any of them may raise."""
    names = Counter(name for evaluator in evaluation for name in evaluator.declared(dataset))
    return [name for name, count in names.items() if count > 1 and name.rpartition("/")[2] not in SHARED]


def told_apart(asked: Evaluator, others: Sequence[Evaluator]) -> Evaluator:
    """An evaluator as it may stand beside others: one of these, if it is there already, else with a label, the settings
    in which it differs, where its metrics would have the names of another's: `restarts=1,images=50`.
    """
    alike = [other for other in others if _bare(other).writes_under == asked.writes_under]
    for other in alike:
        if _bare(other) == asked:
            return other
    first = next((other for other in alike if other.label is None), None)
    if first is None:
        return asked
    differing = [name for name in type(asked).model_fields if getattr(asked, name) != getattr(first, name)]
    try:
        label = ",".join(f"{name}={_spelled(getattr(asked, name))}" for name in differing)
        return type(asked)(**dict(asked) | {"label": label})
    except ValidationError:  # what differs cannot be spelled, such as a folder: to be named by hand
        return asked


def _bare(evaluator: Evaluator) -> Evaluator:
    return evaluator.model_copy(update={"label": None})


def _spelled(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "+".join(map(_spelled, value))
    return "null" if value is None else str(value)
