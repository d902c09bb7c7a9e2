"""The evaluator `distance`: numbers read off distances, what they cost, what hides from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from stand_ins import subject, trained_on
from stored import unpack
from torch import Tensor, nn
from torch.nn import functional

from kdtune.attacks.fmn import HALVINGS
from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, load
from kdtune.evaluation.distance import MOVING_BACK, Distance
from kdtune.evaluation.evaluator import BATCH, GRADIENT
from kdtune.evaluation.pgd import PGD, balanced

DISTANCE = Distance(steps=20, restarts=3, images=60, eps=0.08)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load(Dataset.model_validate({"digits": {}, "train_size": 400}), tmp_path_factory.mktemp("data"))


def trained(data: Data, adversarial: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        return trained_on(network, optimizer, data.train.images / 255, data.train.labels, 15, adversarial)


@pytest.fixture(scope="module")
def network(digits: Data) -> nn.Module:
    return trained(digits)


def test_numbers_are_read_off_the_distances(network: nn.Module, digits: Data) -> None:
    found = DISTANCE.measure(subject(network, digits))
    places = found.arrays["distance/images"]
    assert np.array_equal(places, balanced(digits.test.labels.numpy(), 60, 0)) and places.dtype == np.int64
    linf = found.arrays["distance/linf"]
    assert linf.dtype == np.float32 and linf.shape == (60,)
    clean = unpack(found.arrays["distance/clean"], 60)
    with torch.no_grad():
        answers = network(digits.test.images[places] / 255).argmax(1)
    assert np.array_equal(clean, (answers == digits.test.labels[places]).numpy())
    assert 0 < (~clean).sum() < 20, "there is something to be conditional on"
    assert (linf[~clean] == 0).all() and (linf[clean] > 0).all() and (linf < 1).all()
    assert not unpack(found.arrays["distance/unbroken"], 60).any()
    assert found.metrics == pytest.approx(
        {
            "distance/clean": 100 * clean.mean(),
            "distance/median": np.median(linf[clean]),
            "distance/median/unconditional": np.median(linf),
            "distance/beyond": 100 * (linf[clean] > 0.08).mean(),
            "distance/beyond/unconditional": 100 * (linf > 0.08).mean(),
            "distance/unbroken": 0.0,
        }
    )
    assert 20 < found.metrics["distance/beyond/unconditional"] < found.metrics["distance/beyond"] < 95


def test_it_agrees_with_pgd_at_its_radius_and_goes_on_where_that_ends(network: nn.Module, digits: Data) -> None:
    """The reason for it: at 0.5 PGD says 0 % of a network and of one trained on its examples."""
    attack = {"steps": 50, "restarts": 3, "images": 60, "loss": "margin", "report": "worst"}
    here = PGD(eps=0.08, step=0.01, **attack).measure(subject(network, digits)).metrics
    found = Distance(steps=50, restarts=4, images=60, eps=0.08).measure(subject(network, digits)).metrics
    assert found["distance/beyond"] == pytest.approx(here["robust/pgd50@margin/worst"], abs=4)

    both = [network, trained(digits, adversarial=True)]
    floor = [PGD(eps=0.5, step=0.05, **attack).measure(subject(each, digits)).metrics for each in both]
    assert [each["robust/pgd50@margin/worst"] for each in floor] == [0, 0]
    medians = [DISTANCE.measure(subject(each, digits)).metrics["distance/median"] for each in both]
    assert medians[1] > 1.1 * medians[0]


def test_a_smaller_set_of_images_lies_within_a_larger_one(network: nn.Module, digits: Data) -> None:
    small, large = (DISTANCE.model_copy(update={"images": count}) for count in (30, 60))
    few, many = (each.measure(subject(network, digits)).arrays for each in (small, large))
    inside = np.isin(many["distance/images"], few["distance/images"])
    assert inside.sum() == 30
    np.testing.assert_allclose(many["distance/linf"][inside], few["distance/linf"], rtol=1e-3)


class Fixed(nn.Module):
    """Answers one class, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        nn.init.zeros_(self.layer.weight)
        self.layer.bias.data = functional.one_hot(torch.tensor(3), 10).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("eps", [0.031, 1.0])
def test_of_a_constant_network_none_is_ever_broken_and_flags_say_why(digits: Data, eps: float) -> None:
    found = DISTANCE.model_copy(update={"eps": eps}).measured(subject(Fixed(), digits)).metrics
    assert found["distance/unbroken"] == found["distance/beyond"] == 100
    assert found["distance/median"] == 1 and found["distance/median/unconditional"] == 0
    assert found["distance/clean"] == found["distance/beyond/unconditional"] == 10
    assert found["flags/collapsed"] == found["flags/near_chance"] == found["flags/zero_gradient"] == 1


class Behind(nn.Module):
    def __init__(self, network: nn.Module, factor: float, levels: int | None = None) -> None:
        super().__init__()
        self.network, self.factor, self.levels = network, factor, levels

    def forward(self, images: Tensor) -> Tensor:
        seen = images if self.levels is None else (images * self.levels).round() / self.levels
        return self.factor * self.network(seen)


@pytest.mark.parametrize("factor", [1000.0, 1e-4])
def test_a_network_that_hides_behind_the_scale_of_its_logits_is_measured_alike(network, digits, factor) -> None:
    honest, hidden = (DISTANCE.measure(subject(each, digits)) for each in (network, Behind(network, factor)))
    np.testing.assert_allclose(hidden.arrays["distance/linf"], honest.arrays["distance/linf"], rtol=1e-3, atol=1e-5)
    assert "flags/zero_gradient" not in hidden.metrics


def test_a_network_without_a_gradient_says_so(network: nn.Module, digits: Data) -> None:
    found = DISTANCE.measured(subject(Behind(network, 1.0, 10), digits)).metrics
    assert found["flags/zero_gradient"] == 1 and found["distance/unbroken"] == 100


def test_where_none_is_right_conditional_numbers_are_absent(digits: Data) -> None:
    wrong = digits.test.labels != 3
    data = dataclasses.replace(digits, test=digits.test[wrong])
    found = DISTANCE.measure(subject(Fixed(), data))
    assert found.metrics.keys() == {
        "distance/clean", "distance/median/unconditional", "distance/beyond/unconditional", "flags/zero_gradient",
    }  # fmt: skip
    assert not any(found.metrics[name] for name in found.metrics if name.startswith("distance/"))
    assert not found.arrays["distance/linf"].any()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_on_perturbed_images_are_an_error(network, digits, broken) -> None:
    clean = digits.test.images / 255

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            known = (images[:, None] == clean[None]).flatten(2).all(2).any(1)
            return network(images).masked_fill(~known[:, None], broken)

    with pytest.raises(FloatingPointError, match="not finite on perturbed images"):
        Distance(steps=10, restarts=1, images=10).measure(subject(Broken(), digits))


def test_it_costs_about_what_is_estimated(network: nn.Module, digits: Data) -> None:
    class Counting(nn.Module):
        spent = 0

        def forward(self, images: Tensor) -> Tensor:
            self.spent += len(images) * (GRADIENT if images.requires_grad else 1)
            return network(images)

    counting, entry = Counting(), Distance(steps=20, restarts=3, images=500)
    found = entry.measure(subject(counting, digits)).metrics
    estimated = entry.passes(len(digits.test), 0)
    assert found["distance/clean"] > 85
    assert 0.8 * estimated < counting.spent <= estimated
    assert HALVINGS < MOVING_BACK
    assert Distance().passes(1000, 100) == 1000 * (GRADIENT * 50 * 4 + MOVING_BACK) + 1100
    assert Distance(images=200).passes(1000, 0) < Distance().passes(1000, 0) / 4


def test_more_images_than_a_batch_are_searched_in_batches(network: nn.Module, digits: Data) -> None:
    sizes = []

    class Watching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return network(images)

    images = digits.test.images[:1].repeat(BATCH + 40, 1, 1, 1)
    data = dataclasses.replace(
        digits, test=dataclasses.replace(digits.test, images=images, labels=digits.test.labels[:1].repeat(BATCH + 40))
    )
    found = Distance(steps=10, restarts=1).measure(subject(Watching(), data)).arrays["distance/linf"]
    assert set(sizes) == {BATCH, 40, 1}, "1: whether there is a gradient at all"
    assert len(found) == BATCH + 40
    np.testing.assert_allclose(found, found[0], rtol=1e-3)
