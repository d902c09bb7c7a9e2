"""A network that standardises its input first."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from kdtune.models.networks.normalized import Normalized

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]


def test_each_channel_is_standardised_by_its_own_numbers() -> None:
    images = torch.rand(5, 3, 4, 6, dtype=torch.float64)
    expected = np.stack([(images[:, c].numpy() - np.float32(MEAN[c])) / np.float32(STD[c]) for c in range(3)], axis=1)
    seen = Normalized(nn.Identity(), MEAN, STD).double()(images)
    np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-6)


def test_mean_zero_and_deviation_one_change_nothing() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(Normalized(nn.Identity(), [0, 0, 0], [1, 1, 1])(images), images)


def test_the_images_are_not_changed_in_place() -> None:
    images = torch.rand(2, 3, 4, 4)
    before = images.clone()
    Normalized(nn.Identity(), MEAN, STD)(images)
    assert torch.equal(images, before)


def test_its_gradient_is_with_respect_to_pixels() -> None:
    """An attack's step is in pixel units: the deviation divides the gradient."""
    images = torch.rand(1, 3, 2, 2, requires_grad=True)
    Normalized(nn.Identity(), MEAN, STD)(images).sum().backward()
    assert images.grad is not None
    assert torch.allclose(images.grad, (1 / torch.tensor(STD)).view(1, 3, 1, 1).expand_as(images))


def test_mean_and_deviation_are_no_weights() -> None:
    """They stand in the run's description; a file of weights has the network's alone."""
    network = Normalized(nn.Conv2d(3, 2, 1), MEAN, STD)
    assert set(network.state_dict()) == {"network.weight", "network.bias"}
    assert {name for name, _ in network.named_parameters()} == {"network.weight", "network.bias"}


def test_they_go_where_the_network_goes() -> None:
    network = Normalized(nn.Identity(), MEAN, STD).to("meta")
    assert network.mean.device.type == network.std.device.type == "meta"
    assert Normalized(nn.Identity(), MEAN, STD).double().std.dtype == torch.float64


def test_evaluation_mode_reaches_the_network_inside() -> None:
    network = Normalized(nn.Dropout(0.5), [0.0], [1.0]).eval()
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(network(images), images)
