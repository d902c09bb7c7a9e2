"""What a network was trained on, and how much of it was learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kdtune.evaluation.evaluator import Evaluator, Measurement, correct, pack, percent, predict
from kdtune.evaluation.metric import Metric

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject


class Fit(Evaluator):
    """`fit/images`: how many images there were to train on; `fit/accuracy`: percent of them that the finished network
    gives the label that they were trained with, in eval mode and without augmentation.

    Arrays: `fit/correct` packed bits, in the order of the run's training images.
    """

    version: ClassVar[int] = 1
    also_held_out: ClassVar[bool] = False

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        return Metric("fit/images", "images"), Metric("fit/accuracy", better="higher")

    def measure(self, subject: Subject) -> Measurement:
        train = subject.data.train
        bits = correct(predict(subject.network, train.images), train.labels)
        return Measurement(
            {"fit/images": float(len(train)), "fit/accuracy": percent(bits)}, {"fit/correct": pack(bits)}
        )
