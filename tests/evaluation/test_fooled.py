"""Whether a student's adversarial examples fool its teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import subject, trained_on
from stored import unpack
from torch import Tensor, nn

from kdtune.attacks.pgd import pgd
from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, inputs, load
from kdtune.evaluation.fooled import Fooled
from kdtune.evaluation.masking import start
from kdtune.evaluation.pgd import balanced
from kdtune.settings import Settings

ATTACK = {"eps": 0.2, "step": 0.05, "steps": 8}


class Set(Settings):
    dataset: Dataset


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(Set.model_validate({"dataset": {"digits": {}, "train_size": 400}}).dataset, Path("/dev/null/data"))


def network(digits: Data, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
        return trained_on(made, optimizer, inputs(digits.train.images), digits.train.labels, 10)


class Always(nn.Module):
    """Right of every test image, as it was and within the ball: it looks the nearest one up."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", inputs(images).flatten(1))
        self.register_buffer("labels", labels)

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images.flatten(1), self.known).argmin(1)
        return nn.functional.one_hot(self.labels[nearest], 10).float()


def test_a_teacher_that_is_the_student_is_fooled_by_all(digits):
    student = network(digits, 0)
    found = Fooled(**ATTACK).measured(subject(student, digits, teacher=student)).metrics
    assert found["teacher/fooled"] == 100 and found["teacher/fooled/images"] > 50


def test_a_teacher_that_is_always_right_is_fooled_by_none(digits):
    student = network(digits, 0)
    teacher = Always(digits.test.images, digits.test.labels)
    found = Fooled(**ATTACK).measured(subject(student, digits, teacher=teacher)).metrics
    assert found["teacher/fooled"] == 0 and found["teacher/fooled/images"] > 50


def test_it_counts_images_that_both_answer_rightly_and_the_student_no_more(digits):
    """By hand: the same start for every image that both answer rightly, in the same order."""
    student, teacher = network(digits, 0), network(digits, 1)
    found = Fooled(**ATTACK, images=200).measured(subject(student, digits, teacher=teacher))
    places, metrics = found.arrays["teacher/fooled/places"], found.metrics
    x, y = inputs(digits.test.images), digits.test.labels
    chosen = torch.from_numpy(balanced(y.numpy(), 200, 0))
    both = chosen[((student(x).argmax(1) == y) & (teacher(x).argmax(1) == y))[chosen]]
    moved = pgd(student, x[both], y[both], start(x[both], 0.2, 0), 0.2, 0.05, 8)[8]
    changed = (student(moved).argmax(1) != y[both]).numpy()
    assert np.array_equal(both.numpy()[changed], places)
    assert 0 < len(places) == metrics["teacher/fooled/images"] < 200
    fooled = (teacher(moved).argmax(1) != y[both]).numpy()[changed]
    assert np.array_equal(unpack(found.arrays["teacher/fooled"], len(places)), fooled)
    assert metrics["teacher/fooled"] == pytest.approx(100 * fooled.mean()) and 0 < fooled.mean() < 1


def test_without_a_teacher_there_is_nothing_to_say(digits):
    assert Fooled(**ATTACK).measured(subject(network(digits, 0), digits)).metrics == {}
