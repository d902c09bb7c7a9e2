"""Entropy of softened answers, and the smoothing of labels that has as much."""

from __future__ import annotations

from math import log

import pytest
import torch
from evaluation.test_evaluation import small_data, small_network
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stand_ins import subject
from torch import nn

from kdtune.evaluation.softness import Softness, matched_smoothing, smoothing_entropy
from kdtune.noise.target import Smoothing
from kdtune.randomness import draw


@given(st.floats(0, 0.89), st.integers(2, 100))
def test_the_entropy_is_that_of_the_targets_that_the_knob_makes(rate: float, classes: int) -> None:
    targets = Smoothing(rate=rate)(torch.tensor([1]), classes, draw(0, "x"))
    if rate:
        assert smoothing_entropy(rate, classes) == pytest.approx(stats.entropy(targets[0].double().numpy()), abs=1e-5)
    else:
        assert smoothing_entropy(rate, classes) == 0.0


@given(st.floats(0, 1), st.integers(2, 100))
def test_the_rate_has_the_entropy_that_was_asked_for(share: float, classes: int) -> None:
    entropy = share * log(classes)
    rate = matched_smoothing(entropy, classes)
    assert 0 <= rate <= (classes - 1) / classes
    assert smoothing_entropy(rate, classes) == pytest.approx(entropy, abs=1e-6)


def test_an_entropy_that_no_smoothing_has_is_met_as_nearly_as_can_be() -> None:
    assert matched_smoothing(-1.0, 10) == pytest.approx(0.0, abs=1e-12)
    assert matched_smoothing(9.0, 10) == pytest.approx(0.9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_of_the_images_trained_on(temperature: float) -> None:
    network, data = small_network(), small_data()
    found = Softness(temperature=temperature).measured(subject(network, data)).metrics
    with torch.no_grad():
        answers = network.eval()(data.train.images / 255).double()
    wanted = stats.entropy((answers / temperature).softmax(1).numpy(), axis=1).mean()
    assert found["softness/entropy"] == pytest.approx(wanted, rel=1e-5)
    assert smoothing_entropy(found["softness/smoothing"], answers.shape[1]) == pytest.approx(wanted, rel=1e-5)


def test_a_network_that_is_certain_matches_hard_labels() -> None:
    class Certain(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 1e4 * torch.eye(small_data().classes)[torch.zeros(len(images), dtype=torch.int64)]

    found = Softness(temperature=4.0).measured(subject(Certain(), small_data())).metrics
    assert found == {"softness/entropy": 0.0, "softness/smoothing": pytest.approx(0.0, abs=1e-12)}
