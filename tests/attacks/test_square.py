"""The Square Attack against every corner of small balls, against the authors' own, and within its bounds."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdtune.attacks.pgd import withstood
from kdtune.attacks.square import _side, square
from kdtune.randomness import draw

EPS = 0.1


def linear(seed: int, pixels: int, classes: int = 2) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()


def images_and_labels(count: int, side: int, classes: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, side, side, generator=generator, dtype=torch.float64)
    return images, torch.randint(classes, (count,), generator=generator)


def attacked(network: nn.Module, images: Tensor, labels: Tensor, eps: float = EPS, queries: int = 300) -> Tensor:
    return square(network, images, labels, eps, queries, draw(0, "test.square"))


def leads(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The right logit minus the largest wrong one, image by image."""
    with torch.no_grad():
        logits = network(images)
    rows = [
        logits[i, label] - max(logits[i, k] for k in range(logits.shape[1]) if k != label)
        for i, label in enumerate(labels)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("seed", range(4))
def test_what_a_corner_of_the_ball_can_break_is_broken_and_nothing_else(seed):
    """Two classes and a linear network: the worst point of a ball is one of its corners, all 512 of which are tried."""
    network = linear(seed, 9)
    images, labels = images_and_labels(60, 3, seed=seed)
    labels = torch.where(torch.arange(60) < 50, network(images).argmax(1), labels)  # most are right when clean
    corners = []
    for signs in itertools.product((-1, 1), repeat=9):
        step = EPS * torch.tensor(signs, dtype=torch.float64).view(1, 3, 3)
        corners.append(leads(network, (images + step).clamp(0, 1), labels))
    lowest = torch.stack(corners).min(0).values
    found = attacked(network, images, labels)
    reached = leads(network, found, labels)
    assert torch.equal(reached > 0, lowest > 0)
    assert 5 < (lowest > 0).sum() < 55
    standing = lowest > 0  # where it searched to the end, it came to the very corner
    torch.testing.assert_close(reached[standing], lowest[standing])


@settings(max_examples=30, deadline=None)
@given(
    eps=st.floats(0, 1.5),
    queries=st.integers(1, 30),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_ball_and_range_are_never_left(eps, queries, height, width, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(5, channels, height, width, generator=generator)
    labels = torch.randint(3, (5,), generator=generator)
    network = linear(seed, channels * height * width, classes=3).float()
    found = attacked(network, images, labels, eps, queries)
    assert found.shape == images.shape and found.dtype == images.dtype
    assert found.min() >= 0 and found.max() <= 1
    assert (found - images).abs().max() <= eps + 1e-6


def test_more_queries_are_never_worse_and_images_do_not_see_each_other():
    network = linear(0, 36, classes=4)
    images, labels = images_and_labels(20, 6, 4)
    labels = network(images).argmax(1)
    few, many = (leads(network, attacked(network, images, labels, 0.02, queries), labels) for queries in (2, 400))
    assert (many <= few).all() and (many < few).any()
    # Others that fall at once change nothing for those that stand.
    half = labels.clone()
    half[::2] = (labels[::2] + 1) % 4
    whole, part = attacked(network, images, labels, 0.02), attacked(network, images, half, 0.02)
    assert torch.equal(whole[1::2], part[1::2])


def test_what_is_broken_is_asked_about_no_more():
    network = linear(0, 36, classes=4)
    images, labels = images_and_labels(20, 6, 4)
    shown = []
    network.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    wrong = (network(images).argmax(1) + 1) % 4
    shown.clear()
    attacked(network, images, wrong, eps=0.0)
    assert shown == [20]
    shown.clear()
    attacked(network, images, labels, eps=0.0, queries=7)
    right = int((network(images).argmax(1) == labels).sum())
    assert shown[:7] == [20] + 6 * [right] and 0 < right < 20


def test_it_needs_no_gradient_and_leaves_the_network_alone():
    class Steps(nn.Module):
        """A staircase: flat almost everywhere."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = linear(0, 36, classes=4)
            self.dropout = nn.Dropout(0.5)

        def forward(self, images: Tensor) -> Tensor:
            return self.dropout(self.inner((images * 40).round() / 40))

    network = Steps().train()
    images, _ = images_and_labels(40, 6, 4)
    labels = network.inner((images * 40).round() / 40).argmax(1)
    found = attacked(network, images, labels)
    assert network.training and network.dropout.training
    assert torch.equal(found, attacked(network, images, labels))  # nor is dropout on
    assert all(parameter.grad is None for parameter in network.parameters())
    assert withstood(network, {0: images}, labels)[0].all()
    assert withstood(network, {0: found}, labels)[0].sum() < 20


def test_squares_shrink_as_in_the_paper():
    assert [_side(spent, 32, 32) for spent in (0, 0.001, 0.002, 0.01, 0.04, 0.9)] == [29, 29, 20, 14, 10, 1]
    assert _side(0, 2, 28) == 2 and _side(1, 1, 1) == 1


def test_it_is_as_strong_as_the_authors_own():
    theirs = pytest.importorskip("pyautoattack.square", reason="the extra `autoattack`: the attack to compare with")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(400, 1, 8, 8, generator=generator)
        labels = network(images).argmax(1)
        attack = theirs.SquareAttack(network, n_queries=100, eps=0.06, seed=0, device="cpu", resc_schedule=True)
        other = attack.perturb(images, labels)
    ours = square(network, images, labels, 0.06, 100, draw(0, "test.square"))
    stand = [int(withstood(network, {0: found}, labels)[0].sum()) for found in (ours, other)]
    assert min(stand) > 100 and max(stand) < 300
    assert stand[0] < stand[1] + 14  # a standard error of the difference of two independent counts
