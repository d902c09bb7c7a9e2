"""What a network of two inputs says all over the plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from kdtune.data.dataset import Dataset
from kdtune.data.loading import load
from kdtune.data.sets.published import Digits
from kdtune.evaluation.evaluator import EvaluationError
from kdtune.evaluation.plane import REACH, Plane
from kdtune.evaluation.subject import Context, Subject


class Above(nn.Module):
    """Class 1 where the second input is above 0.5: rows of the grid, not columns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = x[:, 1, 0, 0] - 0.5
        return torch.stack([-side, side], 1)


def test_rows_go_along_the_second_input(tmp_path: Path) -> None:
    points = TypeAdapter(Dataset).validate_python({"points": {"count": 12, "dimension": 2, "classes": 2}})
    data = load(points, tmp_path)
    found = Plane(resolution=31).measured(Subject(Above(), data, Context(tmp_path)))
    assert found.metrics == {}
    along = np.linspace(*REACH, 31)
    assert (found.arrays["plane/answers"] == (along > 0.5)[:, None]).all()
    assert np.array_equal(found.arrays["plane/test"], data.test.images.flatten(1).numpy())
    assert np.array_equal(found.arrays["plane/train_labels"], data.train.labels.numpy())


def test_images_are_no_points(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="inputs of two numbers"):
        Plane().preflight(load(Digits(), tmp_path), Context(tmp_path))
