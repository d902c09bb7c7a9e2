"""What AutoAttack is given and how its answer is judged, by a stand-in for the package; and the package itself."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from stand_ins import subject
from stored import unpack
from torch import nn

from kdtune.data.loading import Data, Split
from kdtune.evaluation import autoattack
from kdtune.evaluation.autoattack import Autoattack
from kdtune.evaluation.evaluator import EvaluationError
from kdtune.evaluation.pgd import PGD, balanced


def data(classes: int = 4, count: int = 40) -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(40, 216, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    parts = Split(images, torch.arange(count) % classes)
    return Data("Blots", tuple(map(str, range(classes))), (1, 6, 6), parts, None, parts, {})


def fitted(seen: Data) -> nn.Module:
    """Right on about three images in four."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, seen.classes)
        )
    labels = seen.test.labels.clone()
    labels[::4] = (labels[::4] + 1) % seen.classes
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    network.eval()
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(seen.test.images / 255), labels).backward()
        optimizer.step()
    network.zero_grad(set_to_none=True)
    return network


@pytest.fixture
def stand_in(monkeypatch):
    """The package's interface with an attack that adds a fixed image; remembers what it was given."""
    given = SimpleNamespace(made=[], run=[], change=0.0)

    class AutoAttack:
        def __init__(self, model, *, norm, eps, seed, version, device):
            given.made.append({"norm": norm, "eps": eps, "seed": seed, "version": version, "device": str(device)})
            self.apgd_targeted, self.fab = SimpleNamespace(n_target_classes=9), SimpleNamespace(n_target_classes=9)
            self.model = model

        def run_standard_evaluation(self, images, labels, /, *, batch_size):
            sys.settrace(None)  # as the package does
            torch.manual_seed(1)
            targets = self.apgd_targeted.n_target_classes, self.fab.n_target_classes
            modes = any(module.training for module in self.model.modules())
            given.run.append((images, labels, batch_size, targets, modes))
            asked = images.clone().requires_grad_()
            self.model(asked).sum().backward()  # as FAB does
            return images + given.change * asked.grad.sign(), labels

    package = ModuleType("pyautoattack")
    package.AutoAttack = AutoAttack
    package.__spec__ = SimpleNamespace(name="pyautoattack")
    monkeypatch.setitem(sys.modules, "pyautoattack", package)
    return given


def test_what_the_package_is_given(stand_in):
    seen = data()
    network = fitted(seen).train()
    Autoattack(eps=(0.1, 0.2), images=30).measure(subject(network, seen, seed=7))
    each = {"norm": "Linf", "seed": 7, "version": "standard", "device": "cpu"}
    assert stand_in.made == [{"eps": 0.1, **each}, {"eps": 0.2, **each}]
    images, labels, batch_size, targets, training = stand_in.run[0]
    places = balanced(seen.test.labels.numpy(), 30, 7)
    assert torch.equal(images, seen.test.images[places] / 255) and torch.equal(labels, seen.test.labels[places])
    assert batch_size == 500 and not training
    assert targets == (3, 3)  # no more than there are other classes
    Autoattack(images=30).measure(subject(fitted(data(12)), data(12)))
    assert stand_in.run[-1][3] == (9, 9)


def test_its_answer_is_put_into_the_ball_and_judged_anew(stand_in):
    seen = data()
    network = fitted(seen)
    stand_in.change = 3.0  # far out of the ball of 0.05, and of the range
    found = Autoattack(eps=(0.05,), images=40).measure(subject(network, seen))
    images, labels = seen.test.images / 255, seen.test.labels
    asked = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(asked).sum(), asked)
    with torch.no_grad():
        clean = (network(images).argmax(1) == labels).numpy()
        robust = clean & (network((images + 0.05 * gradient.sign()).clamp(0, 1)).argmax(1) == labels).numpy()
    assert 0 < robust.sum() < clean.sum() < 40
    assert found.metrics == pytest.approx(
        {
            "robust/autoattack/clean": 100 * clean.mean(),
            "robust/autoattack/unconditional": 100 * robust.mean(),
            "robust/autoattack": 100 * robust.sum() / clean.sum(),
        }
    )
    assert np.array_equal(unpack(found.arrays["robust/autoattack"], 40), robust)
    assert np.array_equal(unpack(found.arrays["robust/autoattack/clean"], 40), clean)
    assert np.array_equal(found.arrays["robust/autoattack/images"], np.arange(40))


def test_names_for_several_radii_and_where_nothing_is_right(stand_in):
    seen = data()
    network = fitted(seen)
    found = Autoattack(eps=(0.031, 0.06), images=40).measure(subject(network, seen))
    heads = ["robust/autoattack", "robust/autoattack@0.06"]
    assert set(found.metrics) == {"robust/autoattack/clean", *heads, *(f"{head}/unconditional" for head in heads)}
    with torch.no_grad():
        wrong = (network(seen.test.images / 255).argmax(1) + 1) % 4
    seen = Data("Blots", seen.class_names, seen.shape, seen.train, None, Split(seen.test.images, wrong), {})
    metrics = Autoattack(images=40).measure(subject(network, seen)).metrics
    assert metrics == {"robust/autoattack/clean": 0.0, "robust/autoattack/unconditional": 0.0}


def test_the_network_and_the_process_stay_as_they_were(stand_in):
    seen = data()
    network = fitted(seen).train()
    network[1].bias.requires_grad_(False)

    def trace(*given: object) -> None:
        return None

    random, before = torch.get_rng_state(), sys.gettrace()
    sys.settrace(trace)
    try:
        Autoattack(images=20).measure(subject(network, seen))
        kept = sys.gettrace()
    finally:
        sys.settrace(before)
    assert kept is trace
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training and network[3].training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [True, False, True, True]


def test_too_few_classes_are_refused(stand_in):
    seen = data(3)
    with pytest.raises(EvaluationError, match="needs 4 classes; Blots has 3"):
        Autoattack().measure(subject(fitted(seen), seen))


def test_a_missing_package_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setattr(autoattack, "PACKAGE", "no_such_package")
    given = subject(nn.Identity(), data())
    for refused in (
        lambda: Autoattack().preflight(given.data, given.context),
        lambda: Autoattack().measure(given),
    ):
        with pytest.raises(
            EvaluationError, match=r"needs the package no_such_package.*pip install 'kdtune\[autoattack\]'"
        ):
            refused()
    PGD().preflight(given.data, given.context)  # others need nothing


def test_what_it_costs():
    assert Autoattack(images=1000).passes(10_000, 0) == 1000 * (300 + 1040) + 10_000
    assert Autoattack(images=1000, eps=(0.1, 0.2)).passes(100, 50) == 2 * 100 * 1340 + 150


# The package itself


def test_it_breaks_what_pgd_breaks_and_is_the_same_twice():
    pytest.importorskip("pyautoattack", reason="the extra `autoattack` is not installed")
    seen = data()
    network = fitted(seen)
    evaluator = Autoattack(eps=(0.02,), images=12)
    first, again = (evaluator.measure(subject(network, seen)) for _ in range(2))
    pgd = PGD(eps=(0.02,), step=0.004, steps=(20,), restarts=3, images=12).measure(subject(network, seen))
    robust = unpack(first.arrays["robust/autoattack"], 12)
    weaker = unpack(pgd.arrays["robust/pgd20"], 12).all(0)
    assert not (robust & ~weaker).any()
    assert 0 < robust.sum() < unpack(first.arrays["robust/autoattack/clean"], 12).sum()
    assert all(np.array_equal(first.arrays[name], again.arrays[name]) for name in first.arrays)


def test_planted_examples_are_found():
    """A linear network whose margins are less than what eps can move, and the same with margins beyond it."""
    pytest.importorskip("pyautoattack", reason="the extra `autoattack` is not installed")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 36, generator=generator)
    seen = data()
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 4, bias=False))
    network[1].weight.data = weight
    images = seen.test.images / 255
    logits = network(images).detach()
    labels = logits.argmax(1)
    seen = Data("Blots", seen.class_names, seen.shape, seen.train, None, Split(seen.test.images, labels), {})
    gaps = (logits.max(1).values[:, None] - logits) / (weight[labels][:, None] - weight[None]).abs().sum(2)
    gaps[torch.arange(40), labels] = torch.inf
    needed = gaps.min(1).values  # the radius at which an image can fall; no pixel meets the end of its range there
    eps = float(needed.median())
    assert eps < 40 / 255
    found = Autoattack(eps=(eps,), images=40).measure(subject(network, seen))
    expected = needed.numpy() > eps
    close = np.abs(needed.numpy() - eps) < 1e-4
    assert np.array_equal(unpack(found.arrays["robust/autoattack"], 40)[~close], expected[~close])
    assert 10 < expected.sum() < 30
