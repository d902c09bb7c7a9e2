"""The temperature and the weight of a teacher's answers, held against other reckonings of the same likelihood."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.test_evaluation import small_data, small_network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from stand_ins import NOWHERE, subject
from torch import Tensor, nn

from kdtune.data.loading import Data, Split, inputs
from kdtune.evaluation.calibration import (
    LEAST,
    TEMPERATURES,
    WEIGHTS,
    Calibration,
    accuracies,
    least,
    likelihoods,
)
from kdtune.evaluation.evaluator import EvaluationError, Evaluator
from kdtune.evaluation.subject import Context, Subject

STEP = float(TEMPERATURES[1] / TEMPERATURES[0])  # of the grid, as a factor
QUICK = Calibration(eps=0.1, step=0.05, steps=3)


def drawn(seed: int, count: int, classes: int, scale: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, K] that differ from image to image, and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits.log_softmax(1), torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def direct(best: Tensor, last: Tensor, labels: Tensor, temperature: float, weight: float) -> float:
    """The formula as it is printed, image by image, in float64."""
    total = 0.0
    for z, other, label in zip(best.double(), last.double(), labels, strict=True):
        p, q = ((each / temperature).softmax(0)[label] for each in (z, other))
        total -= float(np.log(weight * float(p) + (1 - weight) * float(q)))
    return total / len(labels)


def kept(network: nn.Module, last: nn.Module, data: Data) -> Subject:
    return Subject(network, data, Context(NOWHERE), ask_weights=lambda which: {"last": last}[which])


# The surface


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.1, 10))
def test_the_surface_is_what_a_loop_gives(seed: int, classes: int, scale: float) -> None:
    best, labels = drawn(seed, 9, classes, scale)
    last, _ = drawn(seed + 1, 9, classes, scale)
    found = likelihoods(best.float(), last.float(), labels)
    assert found.shape == (100, 100) and found.dtype == np.float64
    for row, column in ((0, 0), (0, 99), (37, 61), (99, 0), (99, 99)):
        wanted = direct(best.float(), last.float(), labels, float(TEMPERATURES[row]), float(WEIGHTS[column]))
        assert found[row, column] == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.1, 10))
def test_what_keeps_its_label_is_what_a_loop_gives(seed: int, classes: int, scale: float) -> None:
    logits, _ = drawn(seed, 9, classes, scale)
    labels = torch.randint(classes, (9,), generator=torch.Generator().manual_seed(seed))
    found = accuracies(logits, labels)
    for row, column in ((0, 0), (0, 99), (37, 61), (50, 55), (99, 0), (99, 99)):
        softened = (logits / TEMPERATURES[row]).softmax(1)
        mixed = WEIGHTS[column] * softened + (1 - WEIGHTS[column]) * nn.functional.one_hot(labels, classes)
        assert found[row, column] == pytest.approx(float((mixed.argmax(1) == labels).double().mean()))


def test_the_grid_is_the_authors() -> None:
    assert (TEMPERATURES[[0, -1]].tolist(), WEIGHTS[[0, -1]].tolist()) == (
        [pytest.approx(0.2), pytest.approx(16)],
        [0.01, 1],
    )
    assert np.allclose(np.diff(np.log(TEMPERATURES)), np.log(STEP)) and np.allclose(np.diff(WEIGHTS), 0.01)
    assert len(TEMPERATURES) == len(WEIGHTS) == 100


def test_some_pair_is_always_allowed() -> None:
    """Beside a weight below one half the label is the largest share, whatever a network says: also one that is wrong
    about every image, and sure of it."""
    labels = torch.arange(20) % 4
    sure = 1e4 * nn.functional.one_hot((labels + 1) % 4, 4).double()
    assert (accuracies(sure, labels)[:, WEIGHTS < 0.499] == 1).all()
    assert (accuracies(sure, labels)[0, WEIGHTS > 0.501] == 0).all()


# The choice


@pytest.mark.parametrize("temperature", [0.6, 1.7, 4.0])
def test_a_temperature_that_was_put_in_is_found_again(temperature: float) -> None:
    """Logits T log p and labels drawn from p, the last epoch without a word to say."""
    log_p, labels = drawn(3, 10_000, 10, 1.5)
    nll = likelihoods(temperature * log_p, torch.zeros_like(log_p), labels)
    row, column = least(nll, np.ones_like(nll, dtype=bool))
    assert temperature / STEP <= TEMPERATURES[row] <= temperature * STEP
    assert WEIGHTS[column] > 0.97


def test_a_weight_that_was_put_in_is_found_again() -> None:
    """Labels of which a share is drawn from the last epoch's answers."""
    log_p, labels = drawn(3, 10_000, 10, 2.0)
    log_q, others = drawn(4, 10_000, 10, 2.0)
    mixed = torch.where(torch.rand(10_000, generator=torch.Generator().manual_seed(0)) < 0.7, labels, others)
    nll = likelihoods(log_p, log_q, mixed)
    row, column = least(nll, np.ones_like(nll, dtype=bool))
    assert 1 / STEP <= TEMPERATURES[row] <= STEP and abs(WEIGHTS[column] - 0.7) < 0.021


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_minimum_that_scipy_finds(seed: int) -> None:
    log_p, labels = drawn(seed, 500, 6, 2.0)
    best, last = 2.3 * log_p, 4 * drawn(seed + 100, 500, 6, 1.0)[0] + 1.5 * log_p
    nll = likelihoods(best, last, labels)
    row, column = least(nll, np.ones_like(nll, dtype=bool))

    def at(of: Any) -> float:
        p, q = ((z / np.exp(of[0])).softmax(1).gather(1, labels[:, None])[:, 0] for z in (best, last))
        return -float((of[1] * p + (1 - of[1]) * q).log().mean())

    bounds = [(np.log(0.2), np.log(16)), (0.01, 1)]
    starts = [(np.log(2), 0.5), (np.log(1), 0.9), (np.log(4), 0.2)]
    found = min((minimize(at, start, bounds=bounds) for start in starts), key=lambda each: each.fun)
    assert abs(np.log(TEMPERATURES[row]) - found.x[0]) <= np.log(STEP)
    assert abs(WEIGHTS[column] - found.x[1]) <= 0.0101
    assert found.fun - 1e-9 <= nll[row, column] <= found.fun + 1e-3
    alone = minimize_scalar(lambda log_t: at((log_t, 1.0)), bounds=bounds[0], method="bounded").x
    assert abs(np.log(TEMPERATURES[nll[:, -1].argmin()]) - alone) <= np.log(STEP)


def test_only_what_is_allowed_is_chosen_and_of_equals_the_largest_weight() -> None:
    nll, every = np.full((100, 100), 2.0), np.ones((100, 100), dtype=bool)
    nll[10, 20] = 1.0
    assert least(nll, every) == (10, 20)
    assert least(nll, every & (nll > 1)) == (0, 99)
    nll[10] = 1.0 + 1e-15 * np.arange(100)[::-1]
    nll[11] = nll[10]
    assert least(nll, every) == (10, 99)


def test_where_the_last_epoch_is_the_one_kept_the_weight_is_the_largest_allowed() -> None:
    """Both halves of the mixture are one then, and the likelihood says nothing of the weight."""
    network, data = small_network(), small_data()
    found = QUICK.measured(subject(network, data))
    allowed, nll = found.arrays["val/calibration/allowed"], found.arrays["val/calibration/nll"]
    row = int(np.flatnonzero(np.isclose(TEMPERATURES, found.metrics["val/calibration/temperature"]))[0])
    assert found.metrics["val/calibration/weight"] == WEIGHTS[np.flatnonzero(allowed[row])[-1]]
    assert np.allclose(nll, nll[:, :1], atol=1e-9)


# What it is measured on


def reckoned(network: nn.Module, last: nn.Module, data: Data, entry: Calibration) -> dict[str, float]:
    """The metrics by a loop over the cells, with an attack written out here."""
    from kdtune.randomness import draw

    def logits(of: nn.Module, split: Split, stream: str) -> Tensor:
        x = inputs(split.images)
        offsets = draw(0, f"evaluation.calibration.{stream}").uniform(torch.empty(x.shape)) * 2 - 1
        low, high = (x - entry.eps).clamp(min=0), (x + entry.eps).clamp(max=1)
        moved = (x + entry.eps * offsets).clamp(low, high)
        for _ in range(entry.steps):
            moved = moved.detach().requires_grad_()
            loss = nn.functional.cross_entropy(of.eval()(moved), split.labels)
            (slope,) = torch.autograd.grad(loss, moved)
            moved = (moved + entry.step * slope.sign()).clamp(low, high)
        with torch.no_grad():
            return of(moved.detach()).double()

    assert data.validation is not None
    best, other = (logits(each, data.validation, "fitted") for each in (network, last))
    train, labels = logits(network, data.train, "train"), data.train.labels
    found = (np.inf, 0.0, 0.0, 0.0)
    for temperature in TEMPERATURES:
        p, q = ((z / temperature).softmax(1).gather(1, data.validation.labels[:, None])[:, 0] for z in (best, other))
        for weight in WEIGHTS:
            targets = weight * (train / temperature).softmax(1) + (1 - weight) * nn.functional.one_hot(labels, 4)
            share = float((targets.argmax(1) == labels).double().mean())
            nll = -float((weight * p + (1 - weight) * q).log().mean())
            if share >= LEAST and nll < found[0]:
                found = (nll, float(temperature), float(weight), 100 * share)
    return dict(zip(("nll", "temperature", "weight", "accuracy"), found, strict=True))


@pytest.mark.parametrize("seeds", [(0, 1), (2, 5)])
def test_all_of_it_beside_an_attack_and_a_loop_written_out(seeds: tuple[int, int]) -> None:
    network, last = (small_network(seed) for seed in seeds)
    data = small_data()
    found = QUICK.measured(kept(network, last, data)).metrics
    wanted = reckoned(network, last, data, QUICK)
    assert found == {f"val/calibration/{name}": pytest.approx(value, rel=1e-4) for name, value in wanted.items()}


def scrambled(split: Split) -> Split:
    return replace(split, images=255 - split.images, labels=(split.labels + 1) % 4)


@pytest.mark.parametrize(
    ("part", "entry", "counts"),
    [
        ("test", QUICK, False),
        ("validation", QUICK, True),
        ("train", QUICK, True),
        ("test", QUICK.model_copy(update={"fitted_on": "test"}), True),
        ("validation", QUICK.model_copy(update={"fitted_on": "test"}), False),
    ],
)
def test_what_it_looks_at(part: str, entry: Calibration, counts: bool) -> None:
    """Garbage among the test images changes nothing; among those that it is fitted to it changes the numbers."""
    network, last, data = small_network(), small_network(1), small_data()
    other = replace(data, **{part: scrambled(getattr(data, part))})
    found, again = (entry.measured(kept(network, last, each)) for each in (data, other))
    same = found.metrics == again.metrics and all(
        np.array_equal(array, again.arrays[name]) for name, array in found.arrays.items()
    )
    assert same != counts
    assert {name.split("/")[0] for name in found.metrics} == {"test" if entry.fitted_on else "val"}


def test_fitted_on_test_images_it_gives_what_the_same_images_held_out_give() -> None:
    network, last, data = small_network(), small_network(1), small_data()
    swapped = replace(data, validation=data.test)

    on_test = QUICK.model_copy(update={"fitted_on": "test"}).measured(kept(network, last, data)).metrics
    held_out = QUICK.measured(kept(network, last, swapped)).metrics
    assert on_test == {name.replace("val/", "test/"): value for name, value in held_out.items()}


def test_so_many_training_images_balanced_by_class() -> None:
    network, last, data = small_network(), small_network(1), small_data()
    few = QUICK.model_copy(update={"images": 4}).measured(kept(network, last, data)).metrics
    assert few["val/calibration/accuracy"] == 100, "of 4 images at least 90 % are all"
    every, more = (
        QUICK.model_copy(update={"images": count}).measured(kept(network, last, data)).metrics for count in (20, 5000)
    )
    assert every == more


# Where there is nothing to say


def test_of_a_run_that_kept_no_last_weights_there_is_nothing() -> None:
    found = QUICK.measured(Subject(small_network(), small_data(), Context(NOWHERE)))
    assert not found.metrics and not found.arrays


def test_nothing_held_out_is_refused_before_a_run() -> None:
    data = replace(small_data(), validation=None)
    with pytest.raises(
        EvaluationError, match=r"evaluation\.calibration: .* nothing is held out: set dataset\.validation"
    ):
        QUICK.preflight(data, Context(NOWHERE))
    QUICK.model_copy(update={"fitted_on": "test"}).preflight(data, Context(NOWHERE))


def test_it_alone_needs_the_last_epoch() -> None:
    assert [key for key, kind in Evaluator.kinds().items() if kind.needs_last] == ["calibration"]


def test_a_label_stands_in_its_names() -> None:
    found = QUICK.model_copy(update={"label": "wide"}).measured(subject(small_network(), small_data())).metrics
    assert set(found) == {f"val/calibration@wide/{name}" for name in ("temperature", "weight", "nll", "accuracy")}


def test_of_a_network_that_answers_one_class_the_grid_has_an_answer() -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    nn.init.zeros_(constant[1].weight)
    nn.init.zeros_(constant[1].bias)
    found = QUICK.measured(subject(constant, small_data())).metrics
    assert found["val/calibration/nll"] == pytest.approx(np.log(4))
    assert found["val/calibration/weight"] == 0.99, "alone it keeps no label"
    assert found["flags/zero_gradient"] == 1
