"""The contract of every schedule; the step rule, and the cosine against torch's."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdtune.optimization.schedules import Cosine, Schedule, Step

FIELDS: dict[str, list[dict[str, Any]]] = {
    "step": [{"milestones": (0.3, 0.6, 0.8), "factor": 0.2}, {"milestones": (), "factor": 0.1}],
    "cosine": [{}, {"warmup": 0.1}, {"warmup": 1.0}],
}
every_schedule = pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(kind(**fields), id=" ".join([key, *map(str, fields.values())]))
        for key, kind in Schedule.kinds().items()
        for fields in FIELDS.get(key, [{name: 0.5 for name, field in kind.model_fields.items() if field.is_required()}])
    ],
)
EPOCHS = st.integers(1, 400)
STEPS = st.integers(1, 50)
WARMUP = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))


def middles(epochs: int, steps: int) -> list[float]:
    """The times at which the loop asks for a factor."""
    return [epoch + (step + 0.5) / steps for epoch in range(epochs) for step in range(steps)]


@every_schedule
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 7), (3, 2), (200, 3)])
def test_a_factor_lies_between_nothing_and_the_stated_rate(schedule: Schedule, epochs: int, steps: int) -> None:
    assert all(0 < schedule(time, epochs) <= 1 for time in middles(epochs, steps))


@every_schedule
def test_a_factor_hangs_on_the_share_of_the_run(schedule: Schedule) -> None:
    for share in (0.05, 0.25, 0.45, 0.7, 0.95):
        assert schedule(share * 100, 100) == pytest.approx(schedule(share * 1000, 1000))


# step


@given(EPOCHS, st.lists(st.floats(0.01, 0.99), max_size=4, unique=True), st.floats(0, 1, exclude_max=True))
def test_step_falls_at_the_rounded_milestones(epochs: int, milestones: list[float], within: float) -> None:
    schedule = Step(milestones=tuple(sorted(milestones)), factor=0.2)
    for epoch in range(epochs):
        passed = sum(epoch >= max(1, round(milestone * epochs)) for milestone in milestones)
        if epoch + within < epoch + 1:  # else rounded up into the next
            assert schedule(epoch + within, epochs) == 0.2**passed


@pytest.mark.parametrize(
    ("milestones", "epochs", "factors"),
    [
        ((0.2,), 2, [1, 0.2]),  # 0.4 rounds to 0
        ((0.2,), 1, [1]),
        ((0.01, 0.02), 10, [1] + [0.04] * 9),
        ((0.3, 0.6, 0.8), 12, [1] * 4 + [0.2] * 3 + [0.04] * 3 + [0.008] * 2),
    ],
)
def test_the_first_epoch_is_at_the_full_rate(milestones: tuple[float, ...], epochs: int, factors: list[float]) -> None:
    """Row A14: a milestone never falls before the first epoch, however short the run."""
    schedule = Step(milestones=milestones, factor=0.2)
    assert [schedule(epoch + 0.5, epochs) for epoch in range(epochs)] == pytest.approx(factors)


def test_milestones_rise() -> None:
    for milestones in ((0.5, 0.3), (0.5, 0.5)):
        with pytest.raises(ValidationError, match="milestones must rise"):
            Step(milestones=milestones, factor=0.1)


# cosine


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (5, 3), (30, 10), (200, 4)])
def test_cosine_without_warmup_is_torchs_at_the_same_times(epochs: int, steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * epochs * steps)  # in halves of a step
    rates = []
    for _ in range(2 * epochs * steps):
        rates.append(torchs.get_last_lr()[0])
        optimizer.step()
        torchs.step()
    assert [Cosine()(time, epochs) for time in middles(epochs, steps)] == pytest.approx(rates[1::2], abs=1e-9)


@given(st.floats(0.01, 1), EPOCHS, st.floats(0, 1, exclude_max=True))
def test_warmup_rises_in_a_straight_line(warmup: float, epochs: int, share: float) -> None:
    assert Cosine(warmup=warmup)(share * warmup * epochs, epochs) == pytest.approx(share, abs=1e-12)


@given(st.floats(0.01, 0.99), EPOCHS)
def test_the_cosine_begins_where_warmup_ends(warmup: float, epochs: int) -> None:
    schedule, junction = Cosine(warmup=warmup), warmup * epochs
    assert schedule(junction, epochs) == 1
    for before, after in ((1e-6, 0.0), (0.0, 1e-6), (1e-9, 1e-9)):
        times = junction * (1 - before), junction + after * (epochs - junction)
        assert schedule(times[0], epochs) == pytest.approx(schedule(times[1], epochs), abs=1e-5)


@given(st.floats(0, 0.99), st.floats(0.001, 0.999))
def test_after_warmup_it_is_the_cosine_of_what_is_left(warmup: float, share: float) -> None:
    time = 100 * (warmup + share * (1 - warmup))
    assert Cosine(warmup=warmup)(time, 100) == pytest.approx((1 + math.cos(math.pi * share)) / 2, abs=1e-9)


@given(WARMUP, st.integers(1, 60), st.integers(1, 8))
def test_cosine_is_never_above_one_nor_below_zero_and_not_zero_at_the_first_step(
    warmup: float, epochs: int, steps: int
) -> None:
    schedule = Cosine(warmup=warmup)
    factors = [schedule(time, epochs) for time in middles(epochs, steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0


@given(WARMUP, st.integers(1, 60), st.integers(1, 8))
def test_cosine_rises_once_and_falls_once(warmup: float, epochs: int, steps: int) -> None:
    schedule, times = Cosine(warmup=warmup), middles(epochs, steps)
    for earlier, later in pairwise(times):
        first, second = schedule(earlier, epochs), schedule(later, epochs)
        if later <= warmup * epochs:
            assert second >= first
        if earlier >= warmup * epochs:
            assert second <= first


def test_a_run_that_is_warmup_all_through_rises_to_its_end() -> None:
    assert [Cosine(warmup=1.0)(time, 4) for time in middles(4, 2)] == pytest.approx([(k + 0.5) / 8 for k in range(8)])


@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_the_whole_run_has_factors_its_ends_too(warmup: float) -> None:
    schedule = Cosine(warmup=warmup)
    assert schedule(0, 10) == (1 if warmup == 0 else 0)
    assert 0 <= schedule(10, 10) <= 1
