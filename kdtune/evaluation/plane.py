"""What a network of two inputs says all over the plane, to be drawn later."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdtune.evaluation.evaluator import EvaluationError, Evaluator, Measurement, predict
from kdtune.settings import Count

if TYPE_CHECKING:
    from kdtune.data.loading import Data
    from kdtune.evaluation.subject import Context, Subject

REACH = (-0.25, 1.25)  # of the grid, in both directions: points lie in [0, 1], and an attack may move them out


class Plane(Evaluator):
    """No metric. Arrays: `plane/answers`, the classes that the network gives to a grid over REACH, uint8 [resolution,
    resolution], rows along the second input; `plane/train` float32 [N, 2] and `plane/train_labels` int64 [N], what it
    was trained on, and `plane/test`, `plane/test_labels`.
    """

    resolution: Count = 101  # grid points along each input

    version: ClassVar[int] = 1
    also_held_out: ClassVar[bool] = False

    def preflight(self, data: Data, context: Context) -> None:
        super().preflight(data, context)
        if data.shape != (2, 1, 1):
            raise EvaluationError(f"evaluation.plane: it is for inputs of two numbers; {data.title} has {data.shape}")

    def measure(self, subject: Subject) -> Measurement:
        import torch

        data = subject.data
        along = torch.linspace(*REACH, self.resolution)
        second, first = torch.meshgrid(along, along, indexing="ij")
        grid = torch.stack([first, second], 2).view(-1, 2, 1, 1).to(data.test.images)
        answers = predict(subject.network, grid).argmax(1).view(self.resolution, self.resolution)
        arrays = {"plane/answers": answers.numpy().astype(np.uint8)}
        for part, split in {"train": data.train, "test": data.test}.items():
            arrays[f"plane/{part}"] = split.images.flatten(1).cpu().numpy()
            arrays[f"plane/{part}_labels"] = split.labels.cpu().numpy()
        return Measurement({}, arrays)
