"""Noise in the teacher's response beyond the contract: its formulas, against plain Python; what a fickle teacher is."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from scipy.special import softmax
from torch import Tensor, nn

from kdtune.losses.kd import KD, kd_loss
from kdtune.models.model import Model
from kdtune.noise.noise import Noise
from kdtune.noise.teacher import Dropout, SignalNoise, Swap
from kdtune.randomness import Draw, draw, seeded
from kdtune.training.lesson import Lesson

CLASSES = 10


def logits(count: int = 64, classes: int = CLASSES, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(count))


class Loaded(Draw):
    """A draw whose uniform numbers are given."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def uniform(self, like: Tensor) -> Tensor:
        assert like.shape == self.numbers.shape
        return torch.tensor(self.numbers, dtype=like.dtype)


# teacher.signal_noise


@pytest.mark.parametrize("per", ["logit", "sample"])
def test_signal_noise_is_one_plus_delta_times_the_logit(per: Any) -> None:
    before = logits(5000)
    after = SignalNoise(sigma=0.3, per=per)(before, draw(0, "x"))
    delta = (after.double() / before.double() - 1).numpy()
    assert stats.kstest((delta if per == "logit" else delta[:, 0]).flatten() / 0.3, "norm").pvalue > 1e-3
    spread = delta.std(axis=1)
    assert spread.min() > 0.05 if per == "logit" else spread.max() < 1e-5
    between = np.corrcoef(delta[:, 0], delta[:, 1])[0, 1]
    assert abs(between) < 5 / 5000**0.5 if per == "logit" else between > 0.999


def test_signal_noise_keeps_zero_and_grows_with_the_signal() -> None:
    before = torch.tensor([[0.0, 0.5, 5.0]]).repeat(4000, 1)
    after = SignalNoise(sigma=0.2)(before, draw(0, "x"))
    assert (after[:, 0] == 0).all()
    assert float(after[:, 2].std() / after[:, 1].std()) == pytest.approx(10, rel=0.1)
    assert SignalNoise(sigma=0.2).measure(before, after) == pytest.approx(0.2, rel=0.05)
    assert math.isnan(SignalNoise(sigma=0.2).measure(torch.zeros(2, 3), torch.zeros(2, 3)))


def test_signal_noise_per_sample_is_a_random_temperature() -> None:
    before = logits()
    after = SignalNoise(sigma=0.3, per="sample")(before, draw(0, "x"))
    factor = (after[:, :1] / before[:, :1]).abs()
    torch.testing.assert_close(after.abs() / factor, before.abs())


# teacher.swap


def slowly(before: np.ndarray, numbers: np.ndarray, knob: Swap) -> tuple[np.ndarray, int]:
    """One sample, pair by pair as the docstring says; the second is how many pairs were swapped."""
    order = sorted(range(len(before)), key=lambda i: -before[i])
    outputs = softmax(before / knob.temperature) if knob.on == "probabilities" else before
    values, came, swaps = [before[i] for i in order], [outputs[i] for i in order], 0
    for place in range(1 if knob.pairs == "top2" else len(before) - 1):
        a, b = came[place], came[place + 1]
        apart = abs(a - b) / max(abs(a), abs(b), 1e-300) if knob.difference == "relative" else abs(a - b)
        if apart < knob.threshold and numbers[place] < knob.rate:
            values[place], values[place + 1] = values[place + 1], values[place]
            swaps += 1
    after = np.empty_like(before)
    after[order] = values
    return after, swaps


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10**6),
    st.integers(2, 12),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.sampled_from(["top2", "all"]),
    st.sampled_from(["relative", "absolute"]),
    st.sampled_from(["probabilities", "logits"]),
)
def test_swaps_are_those_made_pair_by_pair(
    seed: int, classes: int, rate: float, threshold: float, pairs: Any, difference: Any, on: Any
) -> None:
    numbers = np.random.default_rng(seed)
    before = numbers.normal(size=(9, classes)) * numbers.choice([0.3, 3.0])
    uniform = numbers.random((9, 1 if pairs == "top2" else classes - 1))
    temperature = 4.0 if on == "probabilities" else None
    knob = Swap(rate=rate, pairs=pairs, threshold=threshold, difference=difference, on=on, temperature=temperature)
    after = knob(torch.tensor(before), Loaded(uniform))
    expected, swaps = zip(*(slowly(*each, knob) for each in zip(before, uniform, strict=True)), strict=True)
    np.testing.assert_array_equal(after.numpy(), np.stack(expected))
    eligible = int(knob.near(torch.tensor(before).sort(1, descending=True).values).sum())
    measured = knob.measure(torch.tensor(before), after)
    assert measured == pytest.approx(sum(swaps) / eligible) if eligible else math.isnan(measured)


def test_swapping_logits_is_swapping_softened_probabilities() -> None:
    """softmax of the permuted logits is the permuted softmax, at any temperature, bit for bit as a set of values."""
    before = logits().double()
    after = Swap(rate=0.5, pairs="all", threshold=1.0, temperature=4)(before, draw(0, "x"))
    assert not torch.equal(after, before)
    place = (before[:, None, :] == after[:, :, None]).double().argmax(2)  # where each value came from; all differ
    for temperature in (1.0, 4.0, 20.0):
        softened = (before / temperature).softmax(1)
        torch.testing.assert_close((after / temperature).softmax(1), softened.gather(1, place), rtol=1e-13, atol=0)


def test_top2_exchanges_the_two_largest_and_nothing_else() -> None:
    before = logits()
    after = Swap(rate=1.0, pairs="top2", threshold=1.0, temperature=4)(before, draw(0, "x"))
    top = before.topk(2).indices
    expected = before.clone().scatter_(1, top, before.gather(1, top.flip(1)))
    assert torch.equal(after, expected)


def test_all_at_rate_one_walks_the_largest_to_the_last_place() -> None:
    before = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    after = Swap(rate=1.0, pairs="all", threshold=10.0, difference="absolute", on="logits")(before, draw(0, "x"))
    assert after.tolist() == [[0.0, 2.0, 1.0, 3.0]]


def test_only_differences_below_the_threshold_are_swapped() -> None:
    before = torch.tensor([[2.0, 1.5, 0.0]])

    def swaps(threshold: float, difference: Any, on: Any, temperature: float | None = None) -> bool:
        how = {"difference": difference, "on": on, "temperature": temperature}
        knob = Swap(rate=1.0, pairs="top2", threshold=threshold, **how)
        return not torch.equal(knob(before, draw(0, "x")), before)

    high, low = (float(value) for value in softmax(before.numpy()[0] / 4)[:2])
    for apart, kind in (
        (high - low, ("absolute", "probabilities", 4)),
        (1 - low / high, ("relative", "probabilities", 4)),
        (0.5, ("absolute", "logits")),
        (0.25, ("relative", "logits")),
    ):
        assert swaps(apart + 1e-5, *kind) and not swaps(apart - 1e-5, *kind)


def test_relative_differences_of_softened_outputs_depend_on_the_temperature() -> None:
    before = torch.tensor([[2.0, 0.0]])
    soft, hard = (Swap(rate=1.0, pairs="top2", threshold=0.5, temperature=temperature) for temperature in (4, 1))
    assert not torch.equal(soft(before, draw(0, "x")), before) and torch.equal(hard(before, draw(0, "x")), before)


def test_swap_masks_are_nested_across_rates() -> None:
    before = logits(2000)
    swapped = [
        (Swap(rate=rate, pairs="top2", threshold=0.9, temperature=4)(before, draw(0, "x")) != before)
        for rate in (0.1, 0.4, 0.9)
    ]
    for low, high in pairwise(swapped):
        assert (high | ~low).all() and high.sum() > low.sum()


def test_softened_outputs_take_the_temperature_of_the_distillation() -> None:
    noise = Noise.model_validate({"teacher": {"swap": {"rate": 1.0, "pairs": "top2", "threshold": 0.4}}})
    knob = noise.knobs("teacher")["swap"]
    with pytest.raises(ValueError, match="softened outputs have a temperature"):
        knob(logits(), draw(0, "x"))
    lesson = Lesson(CLASSES, 0, noise, KD(alpha=0.9, temperature=8), nn.Linear(2, 2))
    assert lesson.knobs["teacher"]["swap"] == Swap(rate=1.0, pairs="top2", threshold=0.4, temperature=8)
    stated = Swap(rate=1.0, pairs="top2", threshold=0.4, temperature=2)
    assert stated.softened_at(8) is stated
    logit = Swap(rate=1.0, pairs="top2", threshold=0.4, on="logits")
    assert logit.softened_at(8) is logit


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": 5}, "no two probabilities differ by more than 1"),
        ({"threshold": 0}, "greater than 0"),
        ({"pairs": "top3"}, "'top2' or 'all'"),
        ({"on": "logits", "temperature": 4}, "on: logits compares what no temperature has softened"),
        ({"temperature": 0}, r"temperatures are in \[0.1, 1000\]"),
        ({"difference": "ratio"}, "'relative' or 'absolute'"),
    ],
)
def test_swaps_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Noise.model_validate({"teacher": {"swap": {"rate": 0.1, "pairs": "top2", "threshold": 0.1, **wrong}}})


def test_swaps_and_signal_noise_are_logged_and_compose_as_written() -> None:
    swap = {"swap": {"rate": 0.5, "pairs": "top2", "threshold": 1.0}}
    signal = {"signal_noise": {"sigma": 0.2}}
    teacher, images, labels = nn.Flatten(), torch.rand(512, 1, 2, 5), torch.zeros(512, dtype=torch.int64)
    how, student = KD(alpha=1.0, temperature=4), nn.Sequential(nn.Flatten(), nn.Linear(10, 10))
    for written, first in ((swap | signal, "swap"), (signal | swap, "signal")):
        lesson = Lesson(CLASSES, 0, Noise.model_validate({"teacher": written}), how, teacher)
        lesson.begin(0)
        loss, _ = lesson(student, images, labels)
        logged = lesson.end()
        assert logged["noise/teacher.swap"] == pytest.approx(0.5, abs=0.1)
        assert logged["noise/teacher.signal_noise"] == pytest.approx(0.2, rel=0.05)
        swapping, noising = Swap(rate=0.5, pairs="top2", threshold=1.0, temperature=4), SignalNoise(sigma=0.2)
        streams = draw(0, "learns.teacher.swap"), draw(0, "learns.teacher.signal_noise")
        answer = images.flatten(1)
        if first == "swap":
            answer = noising(swapping(answer, streams[0]), streams[1])
        else:
            answer = swapping(noising(answer, streams[1]), streams[0])
        torch.testing.assert_close(loss, kd_loss(student(images), answer, 4.0))


# teacher.dropout: batch statistics, several passes


def wide_resnet() -> nn.Module:
    return Model.model_validate("wrn-10-1").build((1, 8, 8), CLASSES)


def wide() -> nn.Module:
    with seeded(0, "init"):
        network = wide_resnet()
    for _ in range(3):  # its averages differ from every batch's
        network(torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1)) ** 2)
    return network.eval()


def batches(count: int = 3) -> list[Tensor]:
    return list(torch.rand(count, 16, 1, 8, 8, generator=torch.Generator().manual_seed(2)))


def content(network: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def test_bn_train_answers_as_a_teacher_in_full_train_mode_and_keeps_its_buffers() -> None:
    """The reference updates its running averages as it goes; they are never read, so no answer can tell."""
    teacher, reference = wide(), copy.deepcopy(wide()).train()
    before = content(teacher)
    Dropout(rate=0.3, bn="train").prepare(teacher)
    Dropout(rate=0.3).prepare(reference)
    with torch.no_grad():
        for number, images in enumerate(batches()):
            with seeded(number, "dropout"):
                expected = reference(images)
            with seeded(number, "dropout"):
                assert torch.equal(teacher(images), expected)
    assert content(teacher) == before != content(reference)


def test_bn_train_is_another_teacher_than_bn_eval_and_eval_ends_it() -> None:
    teacher, (images, *_) = wide(), batches()
    plain = teacher(images)
    answers = []
    for bn in ("eval", "train"):
        teacher.eval()
        Dropout(rate=0.3, bn=bn).prepare(teacher)  # type: ignore[arg-type]
        with seeded(0, "dropout"):
            answers.append(teacher(images))
    assert not torch.equal(*answers)
    assert torch.equal(teacher.eval()(images), plain)


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_a_teacher_is_the_same_bytes_after_lessons_of_several_epochs(bn: str) -> None:
    teacher, student = wide(), wide_resnet()
    before = content(teacher)
    noise = Noise.model_validate({"teacher": {"dropout": {"rate": 0.3, "bn": bn, "passes": 2}}})
    lesson = Lesson(CLASSES, 0, noise, KD(alpha=0.9, temperature=4), teacher)
    for epoch in range(2):
        lesson.begin(epoch)
        for images in batches():
            lesson(student, images, torch.zeros(16, dtype=torch.int64))[0].backward()
    assert content(teacher) == before


def test_bn_train_refuses_a_teacher_without_batch_normalisation() -> None:
    with pytest.raises(ValueError, match=r"bn: train is asked for, but the teacher .* has no batch normalisation"):
        Dropout(rate=0.1, bn="train").prepare(nn.Sequential(nn.Dropout(0.0)))
    Dropout(rate=0.0, bn="train").prepare(nn.Sequential(nn.Dropout(0.0)))


def test_the_answer_is_the_mean_of_the_logits_of_all_passes() -> None:
    teacher, (images, *_), calls = wide(), batches(), []
    teacher.register_forward_hook(lambda *call: calls.append(call[2]))
    noise = Noise.model_validate({"teacher": {"dropout": {"rate": 0.3, "passes": 5}}})
    lesson = Lesson(CLASSES, 0, noise, KD(alpha=1.0, temperature=4), teacher)
    lesson.begin(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    loss, _ = lesson(student, images, torch.zeros(16, dtype=torch.int64))
    assert len(calls) == 5 and not torch.equal(calls[0], calls[1])
    torch.testing.assert_close(loss, kd_loss(student(images), torch.stack(calls).mean(0), 4.0))
    assert lesson.end()["noise/teacher.dropout"] == pytest.approx(0.3, abs=0.05)


def test_more_passes_spread_less() -> None:
    teacher, (images, *_) = wide(), batches()

    def spread(passes: int) -> float:
        noise = Noise.model_validate({"teacher": {"dropout": {"rate": 0.3, "passes": passes}}})
        lesson = Lesson(CLASSES, 0, noise, KD(alpha=1.0, temperature=4), teacher)
        lesson.begin(0)
        return float(torch.stack([lesson._answer(images).logits for _ in range(60)]).var(0).mean())

    assert spread(1) / spread(8) == pytest.approx(8, rel=0.4)
