"""`dataset.robust`: images that hold what the source sees in others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stand_ins import NOWHERE
from torch import Tensor, nn

from kdtune.data.loading import inputs, load
from kdtune.data.robust import Robust
from kdtune.data.sets.generated import Gaussian
from kdtune.data.sets.published import Digits
from kdtune.models.networks.two_layer import TwoLayer
from kdtune.randomness import seeded

ROBUST = {"steps": 50, "step": 0.1}


def source(inputs: int, width: int = 8) -> nn.Module:
    with seeded(0, "source"):
        network = TwoLayer(inputs, width, 3)
        network.from_normal(0.3)
    return network


def points(**said: Any) -> Gaussian:
    told = {"dimension": 12, "rank": 4, "std": 1.5, "classes": 3, "count": 60, "validation": 0.25}
    return Gaussian.model_validate(told | said)


def digits(**said: Any) -> Digits:
    return Digits.model_validate({"train_size": 60, "validation": 0.25} | said)


def answer(images: Tensor) -> Tensor:
    return (inputs(images).flatten(1).sum(1) > 0).long()


def test_a_step_by_hand() -> None:
    """One step of descent on |f(x') - f(x)|^2 along the gradient, at length 0.1, in float64 as equations have it."""
    torch.manual_seed(0)
    network, images = source(5), torch.randn(7, 5, 1, 1)
    (moved,) = (Robust(steps=1, step=0.1)(images, network, 0, None),)
    (begun,) = (Robust(steps=1, step=1e-12)(images, network, 0, None),)
    weight, bias = network.hidden.weight.double(), network.hidden.bias.double()
    start, wanted = begun.flatten(1).double(), images.flatten(1).double()
    nodes = start @ weight.T + bias
    apart = nodes.relu() - (wanted @ weight.T + bias).relu()
    slope = 2 * (apart * (nodes > 0)) @ weight
    expected = start - 0.1 * slope / slope.norm(dim=1, keepdim=True)
    assert torch.allclose(moved.flatten(1).double(), expected, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 501])
def test_no_image_begins_at_itself_and_each_is_begun_from_once(count: int) -> None:
    images = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 1, 1) + 1
    begun = Robust(steps=1, step=1e-12)(images, source(4), 3, None)[:, 0, 0, 0]
    assert (begun != images[:, 0, 0, 0]).all()
    assert sorted(begun.tolist()) == sorted(images[:, 0, 0, 0].tolist())
    other = Robust(steps=1, step=1e-12)(images, source(4), 4, None)[:, 0, 0, 0]
    assert count < 4 or (other != begun).any(), "the seed of the data set draws them"


@pytest.mark.parametrize(("dataset", "size"), [(points, 12), (digits, 64)])
def test_features_come_to_those_of_the_image_wanted(dataset: Any, size: int) -> None:
    network, plain = source(size), load(dataset(), NOWHERE, answer=answer)
    moved = load(dataset(robust=ROBUST), NOWHERE, answer=answer, source=network)
    begun = load(dataset(robust={"steps": 1, "step": 1e-12}), NOWHERE, answer=answer, source=network)
    with torch.no_grad():
        wanted, reached, before = (network.features(inputs(each.train.images)) for each in (plain, moved, begun))
    nearer = (reached - wanted).norm(dim=1) / (before - wanted).norm(dim=1)
    assert nearer.median() < 0.3, "some stay: where a node is off, no gradient turns it on"
    assert torch.equal(moved.train.labels, plain.train.labels), "the label of what it looks like to the source"
    assert not torch.equal(moved.train.images, inputs(plain.train.images))
    away = (moved.train.images - begun.train.images).flatten(1).norm(dim=1)
    assert away.max() <= 50 * 0.1 + 1e-4, "fifty steps of 0.1 at most"
    assert plain.validation is not None and moved.validation is not None
    assert torch.equal(moved.validation.images, plain.validation.images), "held out as they were"
    assert torch.equal(moved.validation.labels, plain.validation.labels)
    assert torch.equal(moved.test.images, plain.test.images)


def test_images_with_bounds_stay_within_them_and_points_leave_them() -> None:
    far = {"steps": 20, "step": 2.0}
    moved = load(digits(robust=far), NOWHERE, source=source(64)).train
    assert moved.images.dtype == torch.float32 and moved.bounds == (0.0, 1.0)
    assert moved.images.min() == 0 and moved.images.max() == 1
    free = load(points(robust=far), NOWHERE, answer=answer, source=source(12)).train
    assert free.bounds is None and free.images.abs().max() > 3


def test_the_source_stays_as_it_was_and_answers_in_eval_mode() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.drop = source(12), nn.Dropout(0.5)

        def features(self, x: Tensor) -> Tensor:
            found: Tensor = self.drop(self.inner.features(x))  # type: ignore[operator]
            return found

    network = Dropping().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(20, 12, 1, 1)
    moved = Robust(steps=5, step=0.1)(images, network, 0, None)
    assert torch.equal(moved, Robust(steps=5, step=0.1)(images, network.inner, 0, None))
    assert network.training and all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_other_steps_and_seeds_are_other_data() -> None:
    told = [
        points(),
        points(robust=ROBUST),
        points(robust=ROBUST | {"steps": 51}),
        points(robust=ROBUST | {"step": 0.2}),
    ]
    assert len({str(each.description(NOWHERE)) for each in told}) == 4
    assert len({each.digest(NOWHERE) for each in told}) == 1, "the set is the same"
    assert digits(robust=ROBUST).floats and digits(robust=ROBUST).bounded and not points(robust=ROBUST).bounded


@pytest.mark.parametrize("said", [{"steps": 0}, {"steps": 1.5}, {"step": 0}, {"step": -1}, {"more": 1}])
def test_what_it_cannot_be(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Robust.model_validate(ROBUST | said)
