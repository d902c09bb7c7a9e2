"""Networks built to raise each flag, and honest ones that raise none."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import subject, trained_on
from stored import unpack
from torch import Tensor, nn

from kdtune.attacks import pgd as attack
from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, load
from kdtune.evaluation import masking
from kdtune.evaluation.evaluator import EvaluationError, Measurement, randomised
from kdtune.evaluation.flags import MASKED, flags_of
from kdtune.evaluation.masking import STEPS, Masking, differentiates, probabilities

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("masked", ROOT / "benchmarks" / "masked.py")
masked = importlib.util.module_from_spec(spec)
spec.loader.exec_module(masked)  # its front-ends serve here too
MASKING = Masking(eps=0.12, step=0.02, images=60, queries=100)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Data:
    return load(Dataset.model_validate({"digits": {}, "train_size": 400}), tmp_path_factory.mktemp("data"))


def trained(data: Data, seed: int, adversarial: bool = False) -> nn.Module:
    """A two-layer network, about 95 % right; `adversarial`: trained on examples of PGD (Madry et al. 2018)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        return trained_on(network, optimizer, data.train.images / 255, data.train.labels, 15, adversarial)


@pytest.fixture(scope="module")
def plain(digits) -> nn.Module:
    return trained(digits, 0)


@pytest.fixture(scope="module")
def robust(digits) -> nn.Module:
    return trained(digits, 1, adversarial=True)


def measured(network: nn.Module, data: Data, teacher: nn.Module | None = None) -> tuple[Measurement, set[str]]:
    found = MASKING.measure(subject(network, data, teacher=teacher))
    up = set(flags_of(found.metrics) or ())
    assert found.metrics["flags/raised"] == len(up)
    return found, up


class Around(nn.Module):
    """A network behind something that hides what it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


# Honest networks


@pytest.mark.parametrize("kind", ["plain", "robust"])
def test_honest_networks_raise_nothing(kind, digits, plain, robust):
    network, teacher = {"plain": (plain, robust), "robust": (robust, plain)}[kind]
    found, up = measured(network, digits, teacher)
    assert up == set()
    assert {f"flags/{name}" for name in MASKED} < set(found.metrics)  # all were looked for
    metrics = found.metrics
    assert metrics["masking/clean"] > 85 and metrics["masking/images"] > 50
    assert metrics["masking/white_box"] <= metrics["masking/pgd100"] <= metrics["masking/pgd10"]
    every = ("white_box", "smoothed", "square", "transfer")
    stood = [unpack(found.arrays[f"masking/{name}"], int(metrics["masking/images"])) for name in every]
    assert metrics["masking/worst"] == pytest.approx(100 * np.logical_and.reduce(stood).mean())
    assert 5 < metrics["masking/white_box"] < 90  # there was something to find, and something left
    assert metrics["masking/floor"] == metrics["masking/zero_gradient"] == metrics["masking/zero_gradient_margin"] == 0


def test_numbers_are_those_of_separate_attacks(digits, plain, robust):
    found, _ = measured(plain, digits, robust)
    places = found.arrays["masking/places"]
    count = len(places)
    images, labels = digits.test.images[places] / 255, digits.test.labels[places]
    assert found.metrics["masking/images"] == count
    assert attack.withstood(plain, {0: images}, labels)[0].all()
    begin = masking.start(images, 0.12, 0)
    assert (begin - images).abs().max() <= 0.12 + 1e-6 and begin.min() >= 0 and begin.max() <= 1
    expected = {}
    for steps, loss in [*((steps, "cross_entropy") for steps in STEPS), (20, "margin"), (20, "scaled")]:
        name = f"pgd{steps}" if loss == "cross_entropy" else f"{loss}{steps}"
        reached = attack.pgd(plain, images, labels, begin, 0.12, 0.02, steps, loss=attack.LOSSES[loss])
        expected[name] = attack.withstood(plain, reached, labels)[steps].numpy()
    theirs = attack.pgd(robust, images, labels, begin, 0.12, 0.02, 20)
    expected["transfer"] = attack.withstood(plain, theirs, labels)[20].numpy()
    for name, bits in expected.items():
        assert np.array_equal(unpack(found.arrays[f"masking/{name}"], count), bits), name
        assert found.metrics[f"masking/{name}"] == pytest.approx(100 * bits.mean())
    assert len({tuple(bits) for bits in expected.values()}) > 3  # and they are not all alike
    assert MASKING.radii == pytest.approx((0.03, 0.06, 0.12, 0.24, 0.48, 1.0))
    ladder = found.arrays["masking/ladder/eps/standing"]
    assert ladder.shape == (6,) and (np.diff(ladder) <= 0).all() and ladder[0] > 80
    steps = found.arrays["masking/ladder/steps/standing"]
    assert steps.tolist() == pytest.approx([found.metrics[f"masking/pgd{count}"] for count in STEPS])


def test_without_a_teacher_there_is_no_transfer(digits, plain):
    found, _ = measured(plain, digits)
    assert not [name for name in [*found.metrics, *found.arrays] if "transfer" in name]


def test_the_teacher_stays_as_it_was(digits, plain, robust):
    teacher = nn.Sequential(robust, nn.Dropout(0.5)).train()  # as a fickle teacher is left by training
    found, _ = measured(plain, digits, teacher)
    assert teacher.training and teacher[1].training
    assert found.metrics == measured(plain, digits, robust)[0].metrics  # its dropout was off meanwhile


def test_where_nothing_is_right_no_attack_is_judged(digits, plain):
    class Wrong(Around):
        def forward(self, images: Tensor) -> Tensor:
            return -self.network(images)

    found, up = measured(Wrong(plain), digits, plain)
    assert up == set()
    assert found.metrics["masking/clean"] == found.metrics["masking/images"] == 0
    assert not [name for name in found.metrics if "pgd" in name]
    assert len(found.arrays["masking/places"]) == 0


# Networks that hide something


def test_a_network_with_noise_in_it(digits, plain):
    class Noisy(Around):
        def forward(self, images: Tensor) -> Tensor:
            return self.network(images) + 0.01 * torch.randn(len(images), 10)

    with torch.random.fork_rng():
        assert "randomised" in measured(Noisy(plain), digits)[1]


def test_how_much_passes_may_differ():
    logits = torch.tensor([[3.0, 4.0], [300.0, 400.0]])
    assert not randomised(torch.stack([logits, logits + 3e-4]))  # AutoAttack's bound is on logits of length 1
    assert randomised(torch.stack([logits, logits, logits + torch.tensor([[1e-3, 0.0]])]))
    assert not randomised(torch.zeros(5, 3, 2))


def test_a_network_that_answers_with_probabilities(digits, plain):
    assert "softmax_output" in measured(nn.Sequential(plain, nn.Softmax(1)), digits)[1]
    assert "softmax_output" not in measured(nn.Sequential(plain, nn.LogSoftmax(1)), digits)[1]
    assert not probabilities(torch.tensor([[0.5, 0.6]])) and not probabilities(torch.tensor([[1.5, -0.5]]))


class Purifying(Around):
    """Descends a loss of its own in the pixels before it answers."""

    def __init__(self, network: nn.Module, way: str) -> None:
        super().__init__(network)
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            return self.network(x).logsumexp(1).sum()

        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            if self.way == "grad":
                (gradient,) = torch.autograd.grad(loss(leaf), leaf)
            elif self.way == "backward":
                loss(leaf).backward(inputs=[leaf])
                gradient = leaf.grad
            else:
                gradient = torch.func.grad(loss)(images.detach())
        return self.network(images - 0.01 * gradient.sign())


@pytest.mark.parametrize("way", ["grad", "backward", "func"])
def test_a_network_that_computes_gradients_itself(way, digits, plain):
    network = Purifying(plain, way)
    assert "dynamic" in measured(network, digits)[1]
    with torch.no_grad():  # and where the caller wants none
        assert differentiates(network, digits.test.images[:1] / 255)


def test_a_profiler_is_put_back(plain, digits):
    def profile(*given: object) -> None:
        pass

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        assert not differentiates(plain, digits.test.images[:1] / 255)
        assert sys.getprofile() is profile

        class Broken(Around):
            def forward(self, images: Tensor) -> Tensor:
                raise KeyError

        with pytest.raises(KeyError):
            differentiates(Broken(plain), digits.test.images[:1] / 255)
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(before)


class Stairs(Around):
    """Rounds its pixels to eleven levels: the gradient is 0 everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 10).round() / 10)


def test_who_profiles_goes_on_profiling(digits):
    """cProfile's own profiler is no function that sys.setprofile would take back."""
    import cProfile

    profiler = cProfile.Profile()
    profiler.enable()
    try:
        differentiates(nn.Flatten(), digits.test.images[:1] / 255)
        sorted([3, 1, 2])
    finally:
        profiler.disable()
    assert any("sorted" in str(entry.code) for entry in profiler.getstats())


def test_a_network_without_a_gradient(digits, plain):
    found, up = measured(Stairs(plain), digits, plain)
    assert up == {"zero_gradient", "floor_not_reached", "square_wins", "transfer_wins"}
    assert found.metrics["masking/zero_gradient"] == found.metrics["masking/zero_gradient_margin"] == 100
    # The counts are those of images that five more starts of the white box did not break either.
    count = int(found.metrics["masking/images"])
    kept = {name: unpack(found.arrays[f"masking/{name}"], count) for name in ("white_box", "square", "transfer")}
    for attacker in ("square", "transfer"):
        only = (kept["white_box"] & ~kept[attacker]).sum()
        assert found.metrics[f"masking/{attacker}_only"] == only > 5


def test_a_network_that_is_too_sure(digits, plain):
    """As defensive distillation makes them: the cross-entropy has no gradient left in float32."""

    class Sure(Around):
        def forward(self, images: Tensor) -> Tensor:
            return 100 * self.network(images)

    found, up = measured(Sure(plain), digits, plain)
    assert {"zero_gradient", "other_loss_wins"} <= up
    assert found.metrics["masking/pgd100"] > found.metrics["masking/margin20"] + 20
    assert found.metrics["masking/zero_gradient"] > 50 and found.metrics["masking/zero_gradient_margin"] == 0
    honest, _ = measured(plain, digits, plain)
    assert found.metrics["masking/scaled20"] == pytest.approx(honest.metrics["masking/scaled20"], abs=4)


def test_a_gradient_that_leads_astray(digits, plain):
    class Astray(Around):
        def forward(self, images: Tensor) -> Tensor:
            return self.network(masked.Reversing.apply(images))

    found, up = measured(Astray(plain), digits, plain)
    assert up == {"floor_not_reached", "square_wins", "transfer_wins"}
    assert found.metrics["masking/floor"] > 50 and found.metrics["masking/zero_gradient"] == 0


class Behind(Around):
    """A network that sees what a front-end makes of the images, and whose answer goes through something, too."""

    def __init__(self, network: nn.Module, front: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network)
        self.front, self.back = front, back

    def forward(self, images: Tensor) -> Tensor:
        return self.back(self.network(self.front(images)))


def same(x: Tensor) -> Tensor:
    return x


HIDING = {
    "steep": (masked.stairs, same),
    "rippled": (masked.rippled, same),
    "quantised": (lambda x: (x * 8).round() / 8, same),
    "in numpy": (lambda x: torch.from_numpy(x.numpy()), same),
    "detached": (lambda x: x.detach(), same),
    "large": (same, lambda logits: 1e4 * logits),
    "small": (same, lambda logits: 1e-6 * logits),  # all wrong classes weigh alike: the cross-entropy goes for none
    "tiny": (same, lambda logits: 1e-30 * logits),
    "saturated": (same, lambda logits: 10 * torch.tanh(10 * logits)),
    "rounded": (same, lambda logits: logits.round()),
    "ranked": (same, lambda logits: logits.argsort(1).argsort(1).float()),
}


@pytest.mark.parametrize("way", HIDING)
def test_networks_that_hide_their_gradient_raise_a_flag(way, digits, plain):
    front, back = HIDING[way]
    found, up = measured(Behind(plain, front, back), digits)
    assert up - {"collapsed", "near_chance"}, found.metrics


@pytest.mark.parametrize("kind", ["plain", "robust"])
def test_honest_networks_raise_nothing_at_the_default_number_of_queries(kind, digits, plain, robust):
    many = MASKING.model_copy(update={"queries": Masking().queries})
    found = many.measure(subject({"plain": plain, "robust": robust}[kind], digits)).metrics
    assert flags_of(found) == () and found["masking/queries"] == 1000


@pytest.mark.soak
def test_masked_networks_on_mnist(shared_data, tmp_path):
    """Row A9. What benchmarks/masked.py prints: what the default finds, on images of 28 x 28."""
    shutil.copytree(shared_data / "mnist", tmp_path / "data")
    data = load(Dataset.model_validate({"mnist": {}, "train_size": 20_000}), tmp_path / "data")
    for name, network in masked.zoo(data).items():
        found = Masking(eps=masked.EPS, step=masked.STEP, images=60).measure(subject(network, data)).metrics
        assert bool(flags_of(found)) == (name in masked.MASKED), (name, flags_of(found))


def test_the_white_box_is_tried_again_before_another_attack_has_won(digits, plain, monkeypatch):
    """One start may have been unlucky; what further ones break is no proof of anything."""

    class Late(Around):
        """Without a gradient for as many passes as the first attacks have."""

        asked = 0

        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                self.asked += 1
                if self.asked <= 1 + max(STEPS) + 2 * 20:  # the first: whether there is a gradient
                    images = (images * 10).round() / 10
            return self.network(images)

    found, up = measured(Late(plain), digits, plain)
    assert up == set()
    assert found.metrics["masking/white_box"] < found.metrics["masking/pgd100"] - 10
    monkeypatch.setattr(masking, "RETRIES", 0)
    assert measured(Late(plain), digits, plain)[1] == {"smoothed_wins", "square_wins", "transfer_wins"}


def test_steps_that_make_it_worse(digits, plain):
    class Tiring(Around):
        """Its gradient turns round after as many passes with a gradient as 15 steps have, and one before."""

        asked = 0

        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                self.asked += 1
                if self.asked > 16:
                    images = masked.Reversing.apply(images)
            return self.network(images)

    found, up = measured(Tiring(plain), digits)
    assert "steps_do_not_help" in up
    assert found.metrics["masking/pgd100"] > found.metrics["masking/pgd10"] + 10


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_network_without_finite_logits_is_refused(broken, digits, plain):
    class Broken(Around):
        def forward(self, images: Tensor) -> Tensor:
            return self.network(images) * broken

    with pytest.raises(EvaluationError, match="not finite for 60 of 60"):
        MASKING.measure(subject(Broken(plain), digits))
