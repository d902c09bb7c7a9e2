"""Adversarial examples that are planted: they are there, and attacks find them where they work, and there alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import subject, trained_on
from stored import unpack
from torch import Tensor, nn

from kdtune.attacks.pgd import pgd, withstood
from kdtune.attacks.planted import Plants, around, fitted, plant
from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, Split, load
from kdtune.evaluation.flags import PLANTED, flags_of, missing
from kdtune.evaluation.masking import start
from kdtune.evaluation.planted import MISSED, Planted
from kdtune.models.model import Model
from kdtune.randomness import draw

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("masked", ROOT / "benchmarks" / "masked.py")
masked = importlib.util.module_from_spec(spec)
spec.loader.exec_module(masked)  # its front-ends serve here too
EPS = 0.12
PLANTS = Planted(eps=EPS, step=0.02, images=30, points=200)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Data:
    return load(Dataset.model_validate({"digits": {}, "train_size": 400}), tmp_path_factory.mktemp("data"))


def trained(data: Data, model: dict, adversarial: bool = False) -> nn.Module:
    """About 95 % right; `adversarial`: trained on examples of PGD (Madry et al. 2018)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Model.model_validate(model).build(data.shape, data.classes)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        return trained_on(network, optimizer, data.train.images / 255, data.train.labels, 12, adversarial)


@pytest.fixture(scope="module")
def cnn(digits) -> nn.Module:
    return trained(digits, {"cnn": {"width": 8}})


@pytest.fixture(scope="module")
def mlp(digits) -> nn.Module:
    return trained(digits, {"mlp": {"hidden": [48]}})


@pytest.fixture(scope="module")
def robust(digits) -> nn.Module:
    return trained(digits, {"mlp": {"hidden": [48]}}, adversarial=True)


def same(images: Tensor) -> Tensor:
    return images


class Behind(nn.Module):
    """A network whose front-end or whose last layer hides its gradient, and that tells its features all the same."""

    def __init__(self, network: nn.Module, front: Callable[[Tensor], Tensor] = same, scale: float = 1.0) -> None:
        super().__init__()
        self.network, self.front, self.scale = network, front, scale

    def features(self, images: Tensor) -> Tensor:
        return self.network.features(self.front(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.network.classifier(self.features(images))


def measured(network: nn.Module, data: Data, **changes) -> dict[str, float]:
    return PLANTS.model_copy(update=changes).measured(subject(network, data)).metrics


def planted(network: nn.Module, data: Data, images: int = 12) -> tuple[Plants, Tensor]:
    x = data.test.images[:images] / 255
    found = plant(network, x, EPS, 200, 5.0, draw(0, "test"))
    return found, x[found.planted]


# The copy


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_examples_are_there_and_hardly_any_other_point_is_of_their_class(kind, digits, cnn, mlp):
    network = {"cnn": cnn, "mlp": mlp}[kind]
    found, images = planted(network, digits)
    assert len(images) == len(found.examples) == found.planted.sum() > 8
    assert (found.examples - images).abs().max() <= EPS + 1e-6
    assert found.examples.min() >= 0 and found.examples.max() <= 1
    with torch.no_grad():
        assert (found.copy(found.examples).argmax(1) == 1).all()
        clean = found.copy(images)
    assert torch.allclose(clean[:, 0] - clean[:, 1], torch.tensor(5.0), atol=1e-3), "as sure as was asked for"
    numbers = draw(1, "other points")
    beyond = 0
    with torch.no_grad():
        for image in images:
            beyond += int(found.copy(around(image, EPS, 100, numbers)).argmax(1).sum())
    assert beyond < 0.01 * 100 * len(images)  # fresh points; those of the fit are below in all


def test_the_copy_asks_each_image_s_own_readout_in_any_order_and_number(digits, cnn):
    found, images = planted(cnn, digits)
    with torch.no_grad():
        whole = found.copy(torch.cat([images, found.examples]))
        places = torch.tensor([5, 2, len(images) + 3, 2])
        part = found.copy(torch.cat([images, found.examples])[places])
    torch.testing.assert_close(part, whole[places], atol=1e-4, rtol=1e-4)


def test_fisher_s_discriminant_by_hand():
    """Two features, uncorrelated: (S + mean variance) w = m, so that w is m / (variance + mean variance)."""
    generator = torch.Generator().manual_seed(0)
    zero = torch.randn(4000, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 3.0])
    zero[0] = 0.0
    near, far = torch.tensor([[0.5, 0.5]]), torch.tensor([[20.0, 30.0]])
    readout, place = fitted(zero, torch.cat([near, far]).double())
    assert place == 1  # the first is amid the points
    expected = far[0].double() / (torch.tensor([1.0, 9.0]) + 5)
    assert torch.allclose(readout.direction / readout.direction[0], expected / expected[0], rtol=0.05)
    scores = (zero - readout.centre) @ readout.direction
    assert scores[0] == 0 and scores.max() < 1 < (far.double() - readout.centre) @ readout.direction
    assert fitted(zero, near.double()) is None
    assert fitted(torch.ones(50, 3).double(), 2 * torch.ones(1, 3).double()) is None, "nothing varies"


def test_balls_that_lie_by_another_s_are_left_out(digits, cnn):
    images = digits.test.images[:2] / 255
    twice = torch.cat([images, (images[:1] + 2 * EPS).clamp(0, 1), images[1:]])
    assert plant(cnn, twice, EPS, 200, 5.0, draw(0, "test")).planted.tolist() == [True, True, False, False]


def test_features_that_are_no_numbers_are_refused(digits, cnn):
    with pytest.raises(FloatingPointError, match="not finite"):
        plant(Behind(cnn, lambda x: x / 0.0), digits.test.images[:2] / 255, EPS, 20, 5.0, draw(0, "test"))


# Attacks on it


@pytest.mark.parametrize("kind", ["cnn", "mlp", "robust"])
def test_every_attack_finds_them_in_honest_networks(kind, digits, cnn, mlp, robust):
    found = measured({"cnn": cnn, "mlp": mlp, "robust": robust}[kind], digits)
    assert found["planted/planted"] == 100 and found["planted/images"] == 30
    assert found["planted/missed"] == found["planted/missed_margin"] == 0
    assert found["planted/missed_smoothed"] <= 5 and found["planted/missed_square"] <= 5  # which have one start
    assert found["flags/planted_missed"] == 0 and flags_of(found) == ()
    assert found["planted/chance"] < 50, "a random search does not"


def test_an_attack_that_goes_nowhere_misses_them(digits, cnn):
    """Without a step it is as good as its starts; with one that is too short hardly better."""
    found, images = planted(cnn, digits, 30)
    zeros = torch.zeros(len(images), dtype=torch.long)
    nowhere = pgd(found.copy, images, zeros, start(images, EPS, 0), EPS, 0.02, 0)
    assert withstood(found.copy, nowhere, zeros)[0].float().mean() > 0.95
    short = measured(cnn, digits, step=0.001, steps=2, restarts=1)
    assert short["planted/missed"] > 80 and short["planted/missed_margin"] > 80
    assert flags_of(short) == ("planted_missed",)


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_logits_that_are_too_large_hide_them_from_the_cross_entropy_alone(kind, digits, cnn, mlp):
    found = measured(Behind({"cnn": cnn, "mlp": mlp}[kind], scale=1000.0), digits)
    assert found["planted/missed"] > 90 and found["planted/missed_margin"] == 0
    assert flags_of(found) == ("planted_missed",)


HIDING = {
    "quantised": lambda x: (x * 8).round() / 8,
    "saturated": masked.stairs,
    "rippled": masked.rippled,
    "astray": masked.Reversing.apply,
    "detached": lambda x: x.detach(),
    "in numpy": lambda x: torch.from_numpy(x.numpy()),
}


@pytest.mark.parametrize("way", HIDING)
def test_front_ends_without_a_gradient_hide_them_and_what_square_finds_clears_nothing(way, digits, cnn):
    found = measured(Behind(cnn, HIDING[way]), digits)
    assert found["planted/missed"] > 90 and found["planted/missed_margin"] > 90
    assert found["planted/missed_square"] < 10
    assert flags_of(found) == ("planted_missed",)


# What is told of it


def test_what_is_kept_image_by_image(digits, cnn):
    found = PLANTS.measure(subject(Behind(cnn, masked.rippled), digits))
    count = int(found.metrics["planted/images"])
    assert len(found.arrays["planted/places"]) == count
    for name in ("chance", *MISSED):
        share = 100 * unpack(found.arrays[f"planted/{name}"], count).mean()
        assert found.metrics[f"planted/{name}"] == pytest.approx(share)


def test_a_network_that_sees_nothing_has_no_example(digits):
    class Blind(nn.Module):
        def features(self, images: Tensor) -> Tensor:
            return 0 * images.flatten(1)

        def forward(self, images: Tensor) -> Tensor:
            return self.features(images)[:, :10] + torch.arange(10.0)

    assert measured(Blind(), digits) == {"planted/planted": 0.0, "planted/images": 0.0}


def test_a_network_that_is_sure_of_nothing_has_none_either(digits, cnn):
    class Undecided(Behind):
        def forward(self, images: Tensor) -> Tensor:
            return 0 * super().forward(images)

    assert measured(Undecided(cnn), digits)["planted/planted"] == 0


def test_images_that_stand_twice_are_left_out_and_said(digits, cnn):
    places = torch.arange(40) // 2
    test = Split(digits.test.images[places], digits.test.labels[places])
    data = Data(digits.title, digits.class_names, digits.shape, digits.train, digits.validation, test, {})
    found = measured(cnn, data, images=40)
    assert found["planted/planted"] == 50 and found["planted/images"] == 20


def test_of_few_images_a_pass_is_not_told_but_a_miss_is(digits, cnn):
    few = measured(cnn, digits, images=10)
    assert few["planted/missed"] == 0 and "flags/planted_missed" not in few
    assert measured(Behind(cnn, scale=1000.0), digits, images=10)["flags/planted_missed"] == 1


@pytest.mark.parametrize(
    ("missed", "of", "up"),
    [
        *((0, 20, False), (1, 20, False), (2, 20, True), (2, 40, False), (3, 50, True)),
        *((0, 19, None), (1, 19, None), (1, 1, None), (2, 2, True), (0, 0, None)),
    ],
)
def test_the_flag_is_two_images_and_more_than_five_percent(missed, of, up):
    assert missing(np.arange(of) < missed) is up


def test_the_flag_bears_on_robust_accuracy_alone():
    row = dict.fromkeys((f"flags/{name}" for name in PLANTED), 1.0)
    assert flags_of(row, "robust/pgd20") == ("planted_missed",)
    assert flags_of(row, "corruption/mca") == flags_of(row, "test/accuracy") == ()
