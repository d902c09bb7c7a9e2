"""PGD against a hand-derived gradient, against foolbox, and against networks that it must bring down to 0 %."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from kdtune.attacks.pgd import LOSSES, cross_entropy, evaluating, margin, pgd, scaled, withstood

EPS, STEP = 0.1, 0.01  # 20 steps just cross the ball


def small_network(seed: int = 0, classes: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(0.5), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(6 * 16, classes))


def images_and_labels(count: int = 12, seed: int = 1, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 6, 6, generator=generator), torch.randint(classes, (count,), generator=generator)


def random_start(images: Tensor, eps: float = EPS, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return images + eps * (2 * torch.rand(images.shape, generator=generator, dtype=images.dtype) - 1)


class TwoLayers(nn.Module):
    """softmax(V tanh(U x)): small enough to differentiate by hand."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.u = nn.Parameter(torch.randn(7, 36, generator=generator, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(4, 7, generator=generator, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) @ self.u.T) @ self.v.T


def by_hand(network: TwoLayers, x: np.ndarray, y: np.ndarray, start: np.ndarray, steps: int) -> list[np.ndarray]:
    """All iterates, float64, one image after another; d(-log p_y)/dx = U' ((1 - h^2) * V'(p - onehot))."""
    u, v = network.u.detach().numpy(), network.v.detach().numpy()
    iterates = [np.empty_like(x) for _ in range(steps + 1)]
    for i in range(len(x)):
        clean = x[i].ravel()
        now = np.minimum(np.maximum(start[i].ravel(), np.maximum(clean - EPS, 0)), np.minimum(clean + EPS, 1))
        for count in range(steps + 1):
            iterates[count][i] = now.reshape(x[i].shape)
            hidden = np.tanh(u @ now)
            logits = v @ hidden
            p = np.exp(logits - logits.max())
            p /= p.sum()
            p[y[i]] -= 1
            now = now + STEP * np.sign(u.T @ ((1 - hidden**2) * (v.T @ p)))
            now = np.minimum(np.maximum(now, np.maximum(clean - EPS, 0)), np.minimum(clean + EPS, 1))
    return iterates


@pytest.mark.parametrize("seed", range(3))
def test_every_iterate_is_the_one_derived_by_hand(seed):
    network = TwoLayers(seed)
    images, labels = images_and_labels(seed=seed)
    images = images.double()
    start = random_start(images)
    expected = by_hand(network, images.numpy(), labels.numpy(), start.numpy(), 20)
    found = pgd(network, images, labels, start, EPS, STEP, 20, at=range(21))
    for count in range(21):
        np.testing.assert_allclose(found[count].numpy(), expected[count], atol=1e-12)
    assert not np.allclose(expected[20], expected[10])  # the attack still moves between them


def as_foolbox_has_it(name: str, model, labels):
    """The loss of an attack as a function of its inputs, in the operations of foolbox's own library."""

    def loss(inputs):
        logits = model(inputs)
        if name == "scaled":
            spread = (logits - logits.mean(axis=1, keepdims=True)).square().mean(axis=1, keepdims=True).sqrt()
            return type(logits)(logits.raw / spread.raw.detach()).crossentropy(labels).sum()
        right = logits.onehot_like(labels)
        return ((logits - 1e9 * right).max(axis=-1) - (logits * right).sum(axis=-1)).sum()

    return loss


@pytest.mark.parametrize("steps", [1, 10, 20])
@pytest.mark.parametrize("loss", LOSSES)
def test_iterates_are_those_of_foolbox(steps, loss):
    foolbox = pytest.importorskip("foolbox", reason="foolbox (extra `dev`) is the independent PGD to compare with")
    network = small_network().double().eval()
    images, labels = images_and_labels()
    images = images.double()
    start = random_start(images).clamp(0, 1)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")

    class FromOurStart(foolbox.attacks.LinfProjectedGradientDescentAttack):
        def get_random_start(self, x0, epsilon):
            import eagerpy

            return eagerpy.astensor(start)

        def get_loss_fn(self, model, labels):
            own = super().get_loss_fn(model, labels)
            return own if loss == "cross_entropy" else as_foolbox_has_it(loss, model, labels)

    attack = FromOurStart(abs_stepsize=STEP, steps=steps, random_start=True)
    reached, _, _ = attack(model, images, labels, epsilons=EPS)
    # float64, so that the two ways to project do not differ enough to turn a gradient's sign
    found = pgd(network, images, labels, start, EPS, STEP, steps, loss=LOSSES[loss])
    torch.testing.assert_close(found[steps], reached)


def test_one_pass_serves_all_step_counts_exactly():
    network = small_network()
    images, labels = images_and_labels()
    start = random_start(images)
    together = pgd(network, images, labels, start, EPS, STEP, 20, at=(10, 15, 20))
    assert list(together) == [10, 15, 20]
    for count in (10, 15, 20):
        alone = pgd(network, images, labels, start, EPS, STEP, count)
        assert list(alone) == [count]
        assert torch.equal(alone[count], together[count])
    assert not torch.equal(together[10], together[20])


def test_a_linear_classifier_with_a_margin_below_its_dual_norm_falls_to_zero():
    """Every image has an adversarial example: its margin is less than what EPS can move, EPS times |w|_1."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(36, generator=generator).sign() * (0.5 + torch.rand(36, generator=generator))
    images = 0.4 + 0.2 * torch.rand(50, 1, 6, 6, generator=generator)  # the range [0, 1] is never in the way
    side = torch.where(torch.arange(50) % 2 == 0, 1.0, -1.0)
    margin = 0.95 * EPS * weight.abs().sum()
    score = images.flatten(1) @ weight
    offset = (side * margin - score)[:, None] * (weight / weight.square().sum())
    images = images + offset.view(-1, 1, 6, 6)
    assert images.min() > EPS and images.max() < 1 - EPS
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False))
    network[1].weight.data = torch.stack([-weight, weight]) / 2
    labels = (side > 0).long()
    assert withstood(network, {0: images}, labels)[0].all()
    start = random_start(images)
    assert not withstood(network, pgd(network, images, labels, start, EPS, STEP, 20), labels)[20].any()
    # and what no attack can do, PGD does not do
    far = images + (side * 0.1 * margin)[:, None].mul(weight / weight.square().sum()).view(-1, 1, 6, 6)
    assert withstood(network, pgd(network, far, labels, random_start(far), EPS, STEP, 20), labels)[20].all()


@pytest.mark.parametrize("loss", LOSSES)
def test_planted_examples_are_found(loss):
    """Zimmermann et al. 2022: a readout is fitted so that an image's ball holds one region of the other class.

    Below 60 % of the radius no point is of it; the planted corner is. An attack that works finds it for every image.
    """
    features = small_network(classes=64).eval()
    images, _ = images_and_labels(10)
    images = 0.2 + 0.6 * images
    generator = torch.Generator().manual_seed(5)
    for image in images:
        inner = image + 0.6 * EPS * (2 * torch.rand(200, 1, 6, 6, generator=generator) - 1)
        planted = image + EPS * torch.randn(1, 6, 6, generator=generator).sign()
        points = torch.cat([image[None], inner, planted[None]])
        sides = np.array([0] * 201 + [1])
        with torch.no_grad():
            known = features(points).double().numpy()
        scale = known.std(0)
        readout = LogisticRegression(C=1e8, max_iter=2000, tol=1e-10).fit(known / scale, sides)
        linear = nn.Linear(64, 2)
        direction = torch.tensor(readout.coef_[0] / scale).float()
        linear.weight.data = torch.stack([torch.zeros(64), direction])
        linear.bias.data = torch.tensor([0.0, float(readout.intercept_[0])])
        network = nn.Sequential(features, linear)
        with torch.no_grad():
            assert (network(points).argmax(1).numpy() == sides).all()  # the plant stands
        one, label = image[None], torch.tensor([0])
        reached = pgd(network, one, label, random_start(one), EPS, STEP, 20, loss=LOSSES[loss])
        assert not withstood(network, reached, label)[20].any()


def test_the_network_and_torch_stay_as_they_were():
    network = small_network().train()
    network[3].eval()  # a mixture of modes, as a teacher with its dropout on has
    images, labels = images_and_labels()
    network[5].bias.requires_grad_(False)
    network(images).sum().backward()  # gradients that are somebody else's
    frozen = torch.nn.Parameter(torch.ones(1))
    network.register_parameter("unused", frozen)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    modes, asks = [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]
    random, switches = torch.get_rng_state(), _switches()
    with torch.no_grad():  # evaluation's own setting must not switch the attack's gradients off
        iterates = pgd(network, images, labels, random_start(images), EPS, STEP, 3)
        withstood(network, iterates, labels)
    assert not iterates[3].requires_grad and not images.requires_grad
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == asks
    for before, parameter in zip(gradients, network.parameters(), strict=True):
        assert (parameter.grad is None) if before is None else torch.equal(parameter.grad, before)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(torch.get_rng_state(), random)
    assert _switches() == switches


def test_modes_come_back_after_an_error():
    network, switches = small_network().train(), _switches()
    with pytest.raises(KeyError), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise KeyError
    assert all(module.training for module in network.modules())
    assert _switches() == switches


def _switches() -> tuple[bool, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32


def test_networks_are_measured_in_float32():
    network = small_network()
    images, _ = images_and_labels()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert network(images).dtype == torch.bfloat16
        with evaluating(network):
            assert network(images).dtype == torch.float32
            assert _switches() == (False, False, True, False)


def test_dropout_is_off():
    network = small_network().train()
    images, labels = images_and_labels()
    runs = [pgd(network, images, labels, images, EPS, STEP, 5)[5] for _ in range(2)]
    assert torch.equal(*runs)


def test_radius_zero_leaves_clean_accuracy():
    network = small_network()
    images, labels = images_and_labels(40)
    reached = pgd(network, images, labels, random_start(images), 0.0, STEP, 5)
    assert torch.equal(reached[5], images)
    clean = network.eval()(images).argmax(1) == labels
    assert 0 < clean.sum() < 40
    assert torch.equal(withstood(network, reached, labels)[5], clean)


@settings(max_examples=40, deadline=None)
@given(
    eps=st.floats(0, 1.5),
    step=st.floats(1e-4, 2),
    steps=st.integers(0, 4),
    seed=st.integers(0, 99),
    stray=st.floats(0, 3),
    dark=st.floats(0, 1),
)
def test_ball_and_range_are_never_left(eps, step, steps, seed, stray, dark):
    network = small_network(seed)
    images, labels = images_and_labels(4, seed)
    images = (images > dark).float() if seed % 2 else images  # pixels on the edge of the range
    start = random_start(images, stray, seed)  # wherever it lies
    for iterate in pgd(network, images, labels, start, eps, step, steps, at=range(steps + 1)).values():
        assert iterate.min() >= 0 and iterate.max() <= 1
        assert (iterate - images).abs().max() <= eps + 1e-6  # float32 near 1
        assert iterate.dtype == torch.float32


def test_every_image_may_have_a_radius_and_a_step_of_its_own():
    network = small_network().double()
    images, labels = images_and_labels(6)
    images = images.double()
    radii = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.2, 0.4], dtype=torch.float64)
    strides = torch.tensor([0.01, 0.02, 0.01, 0.05, 0.03, 0.01], dtype=torch.float64)
    start = random_start(images, 0.5)
    together = pgd(network, images, labels, start, radii, strides, 8)[8]
    for i, (eps, step) in enumerate(zip(radii.tolist(), strides.tolist(), strict=True)):
        one = slice(i, i + 1)
        alone = pgd(network, images[one], labels[one], start[one], eps, step, 8)[8]
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-12)  # nor does one image see another


@pytest.mark.parametrize("loss", LOSSES.values())
def test_the_loss_is_climbed(loss):
    network = small_network().eval()
    images, labels = images_and_labels(30)
    reached = pgd(network, images, labels, images, EPS, STEP, 10, loss=loss)[10]
    before, after = loss(network(images), labels), loss(network(reached), labels)
    assert after > before + 1
    down = pgd(network, images, labels, images, EPS, STEP, 10, loss=lambda *given: -loss(*given))[10]
    assert loss(network(down), labels) < before - 1
    if loss is not cross_entropy:
        assert not torch.equal(reached, pgd(network, images, labels, images, EPS, STEP, 10)[10])


def random_logits(count: int = 5, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (count,), generator=generator)


def differences(of, logits: Tensor, size: float = 1e-6) -> Tensor:
    """The gradient of a function of logits by central differences."""
    slopes = torch.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        change = torch.zeros_like(logits)
        change[place] = size
        slopes[place] = (of(logits + change) - of(logits - change)) / (2 * size)
    return slopes


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_have_the_gradients_of_what_they_say(loss, classes):
    logits, labels = random_logits(classes=classes)
    scale = logits.numpy().std(1, keepdims=True)  # measured at the point, and not climbed
    rows = range(len(labels))

    def by_hand(changed: Tensor) -> float:
        z = changed.numpy() / (scale if loss == "scaled" else 1)
        right = z[rows, labels]
        if loss == "margin":
            return sum(max(z[i][k] for k in range(classes) if k != labels[i]) - right[i] for i in rows)
        return (np.log(np.exp(z).sum(1)) - right).sum()

    asked = logits.clone().requires_grad_()
    value = LOSSES[loss](asked, labels)
    assert value.item() == pytest.approx(by_hand(logits))
    (gradient,) = torch.autograd.grad(value, asked)
    torch.testing.assert_close(gradient, differences(by_hand, logits), atol=1e-7, rtol=1e-6)
    assert gradient.abs().max() > 0.01


def test_no_logits_are_too_large_for_the_further_losses():
    """A network that is sure beyond float32 has no gradient of the cross-entropy, and its own of the other two."""
    logits, _ = random_logits(40)
    logits = logits.float()
    labels = logits.argmax(1)

    def gradient(loss, factor):
        asked = (logits * factor).requires_grad_()
        return torch.autograd.grad(loss(asked, labels), asked)[0]

    assert (gradient(cross_entropy, 1e6) == 0).all()
    torch.testing.assert_close(gradient(scaled, 1e6) * 1e6, gradient(scaled, 1.0), rtol=1e-4, atol=1e-6)
    assert torch.equal(gradient(margin, 1e6), gradient(margin, 1.0))
    equal = torch.full((3, 4), 2.0).requires_grad_()  # no deviation to divide by
    for loss in LOSSES.values():
        (flat,) = torch.autograd.grad(loss(equal, labels[:3]), equal)
        assert flat.isfinite().all()


def test_small_gradients_do_not_vanish_in_a_large_batch():
    """A confident network's gradient is about exp(-100), near the least float32: a mean over 64 would make it 0."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    network[1].weight.data = torch.stack([torch.ones(36), -torch.ones(36)])
    network[1].bias.data = torch.tensor([50.0, -50.0])
    images, labels = torch.full((64, 1, 6, 6), 0.01), torch.zeros(64, dtype=torch.long)
    assert torch.equal(pgd(network, images, labels, images, EPS, 0.005, 1)[1], torch.full_like(images, 0.005))


@pytest.mark.parametrize("at", [(21,), (-1, 5), ()])
def test_iterates_that_the_attack_does_not_reach_are_refused(at):
    images, labels = images_and_labels()
    with pytest.raises(ValueError, match=r"each must lie in 0\.\.20"):
        pgd(small_network(), images, labels, images, EPS, STEP, 20, at=at)


def test_a_broken_gradient_is_an_error_and_not_robustness():
    class Kink(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :4] + (images.flatten(1)[:, :4] * 0).sqrt()  # finite; its gradient is not

    images, labels = images_and_labels()
    with pytest.raises(FloatingPointError, match="gradients that are not finite"):
        pgd(Kink(), images, labels, images, EPS, STEP, 3)


def test_logits_that_are_not_finite_are_an_error():
    network = small_network()
    network[5].bias.data[2] = torch.nan
    images, labels = images_and_labels()
    with pytest.raises(FloatingPointError, match="after 7 steps"):
        withstood(network, {7: images}, labels)
