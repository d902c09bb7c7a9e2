"""The smoothed attack within its bounds, and where an exact gradient leads nowhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdtune.attacks.pgd import LOSSES, pgd, withstood
from kdtune.attacks.smoothed import smoothed
from kdtune.randomness import draw

EPS = 0.1


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 4)).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(1))


class Stairs(nn.Module):
    """Smooth steps, so steep that between them float32 has no slope."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        edges = (torch.arange(16) + 0.5) / 16
        return self.network(torch.stack([torch.sigmoid(6400 * (images - edge)) for edge in edges]).sum(0) / 16)


def attacked(network: nn.Module, images: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    return smoothed(network, images, labels, images, eps, 20, 8, draw(0, "test.smoothed"))


def standing(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    return int(withstood(network, {0: images}, labels)[0].sum())


@pytest.mark.parametrize("eps", [0.0, 0.05, 1.5])
def test_ball_and_range_are_never_left(network, images, eps):
    found = attacked(network, images, network(images).argmax(1), eps)
    assert found.shape == images.shape and found.dtype == images.dtype and not found.requires_grad
    assert found.min() >= 0 and found.max() <= 1 and (found - images).abs().max() <= eps + 1e-6


def test_it_sees_across_steps_that_hide_the_slope(network, images):
    hidden = Stairs(network)
    labels = hidden(images).argmax(1)
    exact = pgd(hidden, images, labels, images, EPS, EPS / 8, 20, loss=LOSSES["margin"])[20]
    assert standing(hidden, exact, labels) > 30
    assert standing(hidden, attacked(hidden, images, labels), labels) < 15


def test_an_honest_network_it_breaks_about_as_often_as_the_exact_gradient(network, images):
    labels = network(images).argmax(1)
    exact = pgd(network, images, labels, images, 0.04, 0.005, 20, loss=LOSSES["margin"])[20]
    ours = attacked(network, images, labels, 0.04)
    assert abs(standing(network, exact, labels) - standing(network, ours, labels)) <= 3


def test_images_do_not_see_each_other_and_the_network_stays_as_it_is(network, images):
    labels = network(images).argmax(1)
    network.train()
    whole = attacked(network, images, labels)
    assert network.training and all(parameter.grad is None for parameter in network.parameters())
    wrong = labels.clone()
    wrong[::2] = (labels[::2] + 1) % 4  # these fall at once
    part = attacked(network, images, wrong)
    torch.testing.assert_close(whole[1::2], part[1::2])
    assert torch.equal(part[::2], images[::2])


def test_a_gradient_that_is_not_finite_is_refused(images):
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.flatten(1)[:, :4] * 0 + 1e-12).sqrt() + (
                images.flatten(1)[:, :4] - images.detach().flatten(1)[:, :4]
            ).sqrt()

    with pytest.raises(FloatingPointError, match="not finite"):
        attacked(Broken(), images, torch.zeros(40, dtype=torch.long))
