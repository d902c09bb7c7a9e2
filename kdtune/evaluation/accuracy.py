"""Accuracy and calibration on the test images, and on the held-out ones where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdtune.evaluation.evaluator import Evaluator, Measurement, correct, pack, percent, predict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.data.loading import Split
    from kdtune.evaluation.subject import Subject

BINS = 15  # Guo et al. 2017, section 2


class Accuracy(Evaluator):
    """`test/accuracy` (percent), `test/nll` (nats, mean), `test/ece` (percent points); `val/*` with a hold-out.

    Arrays: `test/softmax` float32 [N, K] of every test image, `test/correct` its packed bits.
    """

    version: ClassVar[int] = 1
    also_held_out: ClassVar[bool] = False  # it is measured on both already

    def measure(self, subject: Subject) -> Measurement:
        metrics, arrays = {}, {}
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
