"""What `evaluation:` may say: a list of evaluators, no two of which write the same metrics.

evaluation: [accuracy, shift, {pgd: {eps: [0.031], step: 0.003, images: 200}}]
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from pydantic import AfterValidator

from kdtune.evaluation.evaluator import Evaluator


def _telling_apart(evaluators: tuple[Evaluator, ...]) -> tuple[Evaluator, ...]:
    for writes, count in Counter(evaluator.writes_under for evaluator in evaluators).items():
        if count > 1:
            raise ValueError(f"{count} entries write the metrics {writes!r}; one would hide the other")
    return evaluators


Evaluation = Annotated[tuple[Evaluator, ...], AfterValidator(_telling_apart)]
