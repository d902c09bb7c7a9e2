"""How soft a network's answers to its own training images are, and the label smoothing that is as soft."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, ClassVar

from kdtune.evaluation.evaluator import Evaluator, Measurement, predict
from kdtune.evaluation.metric import Metric
from kdtune.settings import Temperature

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject

HALVINGS = 60  # of an interval of 1: to the last bit


class Softness(Evaluator):
    """`softness/entropy`: mean entropy, in nats, of softmax(z / temperature) over the images that the network was
    trained on, as they are. `softness/smoothing`: the rate r of the target knob `smoothing` whose targets have that
    entropy: - (1 - r) ln(1 - r) - r ln(r / (K - 1)) for K classes. Of a teacher: what its student is told, without what
    it is told of the single image.
    """

    version: ClassVar[int] = 1
    also_held_out: ClassVar[bool] = False

    temperature: Temperature = 4.0

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        return Metric("softness/entropy", "nats"), Metric("softness/smoothing", "probability")

    def measure(self, subject: Subject) -> Measurement:
        logits = predict(subject.network, subject.data.train.images).double() / self.temperature
        log_p = logits.log_softmax(dim=1)
        entropy = float(-(log_p.exp() * log_p).sum(dim=1).mean())
        smoothing = matched_smoothing(entropy, logits.shape[1])
        return Measurement({"softness/entropy": entropy, "softness/smoothing": smoothing})


def smoothing_entropy(rate: float, classes: int) -> float:
    """The entropy, in nats, of 1 - rate on one class and rate / (classes - 1) on each other."""
    parts = (1 - rate, *[rate / (classes - 1)] * (classes - 1))
    return -sum(part * log(part) for part in parts if part > 0)


def matched_smoothing(entropy: float, classes: int) -> float:
    """The rate in [0, (classes - 1) / classes], where all classes are alike, at which `smoothing_entropy` is `entropy`,
    in nats; the nearer end for an entropy that none has."""
    low, high = 0.0, (classes - 1) / classes
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothing_entropy(middle, classes) < entropy else (low, middle)
    return (low + high) / 2
