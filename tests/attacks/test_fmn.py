"""The nearest image that is answered otherwise, against a closed form, against foolbox, and where there is none."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from stand_ins import trained_on
from torch import Tensor, nn

from kdtune.attacks.fmn import distance, nearest
from kdtune.attacks.pgd import margin, pgd, withstood

STEPS = 50


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16).float().view(-1, 1, 8, 8), torch.tensor(labels)


def trained(digits: tuple[Tensor, Tensor], kind: str) -> nn.Module:
    images, labels = (each[:600] for each in digits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten()]
        network = nn.Sequential(*wide, nn.Linear(72, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        return trained_on(network, optimizer, images, labels, 12, adversarial=kind == "robust")


@pytest.fixture(scope="module", params=["plain", "robust"])
def network(request: pytest.FixtureRequest, digits: tuple[Tensor, Tensor]) -> nn.Module:
    return trained(digits, request.param)


def right(network: nn.Module, digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = (each[1000:1150] for each in digits)
    kept = withstood(network, {0: images}, labels)[0]
    assert kept.sum() > 100
    return images[kept], labels[kept]


def found(network: nn.Module, images: Tensor, labels: Tensor, steps: int = STEPS, searches: int = 4) -> Tensor:
    """Distances, after all that is promised of what is returned; 1 where nothing was found."""
    reached, there = nearest(network, images, labels, steps, searches)
    assert reached.dtype == torch.float32 and reached.min() >= 0 and reached.max() <= 1
    assert torch.equal(withstood(network, {0: reached}, labels)[0], ~there), (
        "each is answered otherwise, as it is given"
    )
    assert torch.equal(reached[~there], images[~there])
    return distance(images, reached).where(there, torch.tensor(1.0))


def linear(count: int, seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Five classes of slopes of 0.3 to 2; images that are right, so far inside [0, 1] that no pixel is cut off."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    network[1].weight.data = torch.linspace(0.3, 2, 5)[:, None] * torch.randn(5, 36, generator=generator)
    network[1].bias.data = -0.5 * network[1].weight.sum(1)  # all classes meet at grey
    images = 0.2 + 0.6 * torch.rand(count, 1, 6, 6, generator=generator)
    return network, images, network(images).argmax(1)


def closed_form(network: nn.Sequential, images: Tensor, labels: Tensor) -> Tensor:
    """The smallest, over the classes, of margin over l1 norm of the difference of two rows: Hoelder's inequality."""
    weight, logits = network[1].weight.double(), network.double()(images.double())
    network.float()
    margins = logits.gather(1, labels[:, None]) - logits
    norms = (weight[labels][:, None] - weight).abs().sum(2)
    return (margins / norms).scatter(1, labels[:, None], torch.inf).min(1).values.detach()


def test_of_a_linear_network_the_distance_is_the_closed_form():
    network, images, labels = linear(200)
    expected = closed_form(network, images, labels)
    assert expected.max() < 0.2 and expected.median() > 0.01 and len(labels.unique()) > 2
    by_far = found(network, images, labels)
    assert (by_far.double() - expected).abs().max() < 1e-4
    assert (by_far.double() > expected - 1e-6).all(), "none is nearer than can be"
    first = found(network, images, labels, searches=1)
    assert (by_far <= 1.001 * first).all()
    assert (first > 1.01 * expected).float().mean() > 0.02, "one search stays with a class that is not the nearest"


@pytest.mark.parametrize("steps", [5, STEPS])
def test_nothing_on_the_way_back_to_the_clean_image_is_nearer(steps):
    """However short the search was: a linear network's answer changes once on a line."""
    network, images, labels = linear(100)
    reached, there = nearest(network, images, labels, steps, 2)
    assert there.float().mean() > 0.9
    nearer = images + (1 - 1e-3) * (reached - images)
    assert withstood(network, {0: nearer}, labels)[0].float().mean() > 0.98  # but for rounding at tiny distances


def test_of_two_classes_one_search_is_all_there_is():
    network, images, _ = linear(50)
    network[1].weight.data, network[1].bias.data = network[1].weight[:2], network[1].bias[:2] - network[1].bias[:2]
    labels = network(images).argmax(1)
    expected = closed_form(network, images, labels)
    near = expected < 0.19  # farther ones meet the range [0, 1]
    assert near.sum() > 25
    one, many = (found(network, images, labels, searches=count) for count in (1, 9))
    assert torch.equal(one, many)
    assert (one[near].double() - expected[near]).abs().max() < 1e-4


def test_pixels_at_the_edge_of_the_range_do_not_count():
    """Half of what the answer hangs on can only move away from it: what is left has to go twice as far."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    network[1].weight.data = torch.tensor([[1.0, 1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    network[1].bias.data = torch.tensor([-0.8, 0.0])
    images = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 1.0, 0.1, 0.0], [1.0, 0.9, 1.0, 0.0]]).view(3, 1, 2, 2)
    expected = torch.tensor([0.2 / 4, 0.6 / 4, 0.1 / 3])  # all four move; so do they here; the third is at 1 already
    assert (found(network, images, torch.zeros(3, dtype=torch.long)) - expected).abs().max() < 1e-4


def test_nearly_none_is_farther_than_foolbox_finds(network, digits):
    """foolbox 3.3.4's attack of the same paper. Seen: at most 1.05 times its distance for 99 % of the images or more,
    on these and on others; its median is up to 12 % larger, for it searches once."""
    foolbox = pytest.importorskip("foolbox", reason="foolbox (extra `dev`) is the independent FMN to compare with")
    images, labels = right(network, digits)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, success = foolbox.attacks.LInfFMNAttack(steps=100)(model, images, labels, epsilons=None)
    assert success.float().mean() > 0.97
    other = distance(images, theirs).where(success, torch.tensor(1.0))
    ours = found(network, images, labels)
    assert (ours < 1).all(), "which finds one for every image"
    assert (ours <= 1.05 * other).float().mean() >= 0.97
    assert ours.median() <= other.median()
    alone = found(network, images, labels, searches=1)
    assert (alone <= 1.05 * other).float().mean() >= 0.9 and (other <= 1.05 * alone).float().mean() >= 0.9


def test_what_pgd_breaks_is_no_farther_than_its_radius(network, digits):
    images, labels = right(network, digits)
    ours = found(network, images, labels)
    assert (ours < 1).all()
    generator = torch.Generator().manual_seed(0)
    for eps in (0.02, 0.05, 0.1, 0.15):
        start = images + eps * (2 * torch.rand(images.shape, generator=generator) - 1)
        broken = ~withstood(network, pgd(network, images, labels, start, eps, eps / 10, 100, loss=margin), labels)[100]
        assert broken.any()
        assert (ours[broken] <= eps).float().mean() >= 0.97
        assert (ours[broken] <= 1.1 * eps).all()


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.network(images)


@pytest.mark.parametrize("factor", [1000.0, 1e-4, 1e-30])
def test_the_scale_of_the_logits_does_not_matter(factor, network, digits):
    """Of 1000 the cross-entropy has no gradient left; of 1e-30 the squares of the gradient are 0 in float32."""
    images, labels = right(network, digits)
    torch.testing.assert_close(
        found(Scaled(network, factor), images, labels), found(network, images, labels), rtol=1e-3, atol=1e-5
    )


def test_a_constant_network_is_never_broken():
    network, images, _ = linear(20)
    network[1].weight.data.zero_()
    labels = network(images).argmax(1)
    reached, there = nearest(network, images, labels, 10, 3)
    assert not there.any() and torch.equal(reached, images)


def test_what_is_wrong_already_is_its_own_nearest(network, digits):
    images, labels = right(network, digits)
    other = (labels + 1) % 10
    reached, there = nearest(network, images[:20], other[:20], 5, 2)
    assert there.all() and torch.equal(reached, images[:20])


def test_no_image_sees_another(network, digits):
    images, labels = right(network, digits)
    together = found(network, images, labels)
    alone = torch.cat([found(network, images[i : i + 1], labels[i : i + 1]) for i in range(0, 20)])
    torch.testing.assert_close(alone, together[:20], rtol=1e-3, atol=1e-5)  # sums are taken in another order


def test_it_is_the_same_twice_and_the_network_stays_as_it_was(digits):
    network = trained(digits, "plain").train()
    network[3].eval()
    images, labels = (each[1000:1030] for each in digits)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes, random = [each.training for each in network.modules()], torch.get_rng_state()
    first = nearest(network, images, labels, 10, 2)
    torch.rand(3)
    torch.set_rng_state(random)
    with torch.no_grad():
        second = nearest(network, images, labels, 10, 2)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), random)
    assert [each.training for each in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(each.grad is None for each in network.parameters()) and not first[0].requires_grad


@pytest.mark.parametrize("beyond", [0.0, 0.001])
def test_what_is_not_finite_is_an_error(beyond):
    """Here, and where only perturbed images reach it."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.clean, _ = linear(10)

        def forward(self, images: Tensor) -> Tensor:
            moved = (images - self.clean).abs().flatten(1).amax(1, keepdim=True) >= beyond
            return self.network(images).masked_fill(moved, torch.nan)

    broken, (_, images, _) = Broken(), linear(10)
    with pytest.raises(FloatingPointError, match="not finite on perturbed images"):
        nearest(broken, images, broken.network(images).argmax(1), 10)
