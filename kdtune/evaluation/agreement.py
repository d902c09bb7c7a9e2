"""How often a network answers as the one that it learned from does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdtune.evaluation.evaluator import Evaluator, Measurement, pack, percent, predict
from kdtune.evaluation.metric import Metric

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject


class Agreement(Evaluator):
    """`teacher/agreement`: percent of the test images to which it gives the teacher's class, right or wrong (argmax of
    both, in eval mode); absent where a run has no teacher. What an image's label is does not enter.

    Arrays: `teacher/agreement` packed bits.
    """

    version: ClassVar[int] = 1

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        return (Metric("teacher/agreement", better="higher", always=False),)

    def measure(self, subject: Subject) -> Measurement:
        answers = predict(subject.network, subject.split.images).argmax(1)
        if subject.teacher is None:
            return Measurement({})
        alike = np.asarray(answers == predict(subject.teacher, subject.split.images).argmax(1))
        return Measurement({"teacher/agreement": percent(alike)}, {"teacher/agreement": pack(alike)})
