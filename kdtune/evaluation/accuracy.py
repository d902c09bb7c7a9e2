"""Accuracy and calibration on the test images, and on the held-out ones where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdtune.evaluation.evaluator import Evaluator, Measurement, correct, pack, percent, predict
from kdtune.evaluation.flags import DEGENERATE, degenerate
from kdtune.evaluation.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Split
    from kdtune.evaluation.subject import Subject

BINS = 15  # Guo et al. 2017, section 2


class Accuracy(Evaluator):
    """`test/accuracy` (percent), `test/nll` (nats, mean), `test/ece` (percent points); `val/*` with a hold-out;
    `flags/collapsed` and `flags/near_chance`, 0 or 1, of the test images.

    Arrays: `test/softmax` float32 [N, K] of every test image, `test/correct` its packed bits.
    """

    version: ClassVar[int] = 2
    also_held_out: ClassVar[bool] = False  # it is measured on both already

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        found: list[Metric] = []
        for part in ("test", "val") if dataset.validation else ("test",):
            found += [
                Metric(f"{part}/accuracy", better="higher", headline=part == "test"),
                Metric(f"{part}/nll", "nats", "lower"),
                Metric(f"{part}/ece", "percentage points", "lower"),
            ]
        return (*found, *(Metric(f"flags/{name}", "0 or 1") for name in DEGENERATE))

    def measure(self, subject: Subject) -> Measurement:
        metrics: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        parts = {"test": subject.data.test, "val": subject.data.validation}
        for part, split in parts.items():
            if split is None:
                continue
            logits = predict(subject.network, split.images)
            labels = split.labels.cpu()
            bits, log_softmax = correct(logits, labels), logits.double().log_softmax(1)
            softmax = log_softmax.exp().numpy()
            metrics[f"{part}/accuracy"] = percent(bits)
            metrics[f"{part}/nll"] = negative_log_likelihood(log_softmax, labels)
            metrics[f"{part}/ece"] = expected_calibration_error(softmax.max(1), bits)
            if part == "test":
                arrays = {"test/softmax": softmax.astype(np.float32), "test/correct": pack(bits)}
                flags = degenerate(logits.argmax(1).numpy(), labels.numpy())
                metrics |= {f"flags/{name}": float(up) for name, up in flags.items()}
        return Measurement(metrics, arrays)


def accuracy(network: nn.Module, split: Split) -> float:
    """Accuracy of a network on one split, in percent."""
    return percent(correct(predict(network, split.images), split.labels))


def negative_log_likelihood(log_softmax: Tensor, labels: Tensor) -> float:
    """Mean of -log p(label) in nats. log_softmax: [N, K]; labels: [N]."""
    return float(-log_softmax.gather(1, labels[:, None]).mean())


def expected_calibration_error(confidence: np.ndarray, bits: np.ndarray, bins: int = BINS) -> float:
    """|accuracy - confidence| of equal-width bins ((m - 1) / bins, m / bins], weighted by size, in percent points.

    confidence: the largest softmax value of each image [N]; bits: whether it was right [N]. Guo et al. 2017,
    equation 3.
    """
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=bits - confidence, minlength=bins)  # a bin's size times its gap
    return 100 * float(np.abs(gaps).sum()) / len(bits)
