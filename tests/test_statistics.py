"""The statistics, against scipy.stats, against definitions computed another way, and against worked examples."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from kdtune.statistics import (
    MANY,
    Difference,
    Interval,
    holm,
    mean_interval,
    paired_difference,
    rank_correlation,
    resampled_rank_correlation,
    seeds_needed,
    smallest_visible_effect,
    spread,
)

numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
samples = st.lists(numbers, min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1)
pairs = st.dictionaries(st.integers(0, 99), st.tuples(numbers, numbers), min_size=2, max_size=12)
levels = st.sampled_from([0.8, 0.95, 0.99])
unhurried = settings(deadline=None, max_examples=50)  # the first call of each loads its library
few = settings(deadline=None, max_examples=20)


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def close(found: Difference, mean: float, low: float, high: float) -> None:
    assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high), rel=1e-6, abs=1e-9)


def test_mean_interval_by_hand() -> None:
    # t(0.975; 2) = 4.302653, sd = 1, so the half width is 4.302653 / sqrt(3).
    interval = mean_interval([1, 2, 3])
    assert interval.mean == 2 and interval.n == 3
    assert (interval.low, interval.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert mean_interval([94.28]) == Interval(94.28, None, None, 1)
    assert mean_interval([5, 5, 5, 5]) == Interval(5, 5, 5, 4)


@unhurried
@given(samples, levels)
def test_mean_interval_is_scipys(values: list[float], level: float) -> None:
    low, high = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean_interval(values, level) == Interval(
        pytest.approx(np.mean(values)), pytest.approx(low), pytest.approx(high), len(values)
    )


@unhurried
@given(samples, st.floats(-100, 100), st.floats(0.01, 100))
def test_shift_and_scale_of_the_data_are_those_of_the_interval(values: list[float], shift: float, scale: float) -> None:
    before, after = mean_interval(values), mean_interval([scale * value + shift for value in values])
    for one, other in ((before.mean, after.mean), (before.low, after.low), (before.high, after.high)):
        assert one is not None and other == pytest.approx(scale * one + shift, rel=1e-6, abs=1e-6)


def test_extreme_values_neither_overflow_nor_vanish() -> None:
    for scale in (1e-200, 1e200):
        interval = mean_interval([scale, 2 * scale, 3 * scale])
        assert interval.high == pytest.approx((2 + 2.484138) * scale, rel=1e-6)
        assert spread([scale, 2 * scale, 3 * scale]) == pytest.approx(scale)


def test_spread_by_hand() -> None:
    # Deviations from 5: -3 -1 -1 -1 0 0 2 4, squares 32, over 8 - 1.
    assert spread([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(math.sqrt(32 / 7))
    assert spread([7, 7, 7]) == 0


def test_paired_difference_by_hand() -> None:
    # Differences 1, 2, 3 as above; t = 2 / (1 / sqrt(3)) = 3.4641 at 2 degrees of freedom, where P(|t| > x) has the
    # closed form 1 - x / sqrt(2 + x^2).
    found = paired_difference(by_seed(11, 22, 33), by_seed(10, 20, 30))
    assert found is not None
    close(found, 2, 2 - 2.484138, 2 + 2.484138)
    assert found.p == pytest.approx(1 - math.sqrt(12) / math.sqrt(14))
    assert found.sd == pytest.approx(1) and found.n == 3 and found.unpaired == ()


@unhurried
@given(pairs, levels)
def test_paired_difference_is_scipys(values: dict[int, tuple[float, float]], level: float) -> None:
    a = {seed: x for seed, (x, _) in values.items()}
    b = {seed: y for seed, (_, y) in values.items()}
    if np.std([x - y for x, y in values.values()]) < 1e-6:  # without a spread scipy answers NaN
        return
    found, expected = paired_difference(a, b, level), stats.ttest_rel([*a.values()], [*b.values()])
    interval = expected.confidence_interval(level)
    assert found is not None and found.n == len(values)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.sd == pytest.approx(np.std([x - y for x, y in values.values()], ddof=1))
    close(found, np.mean([*a.values()]) - np.mean([*b.values()]), interval.low, interval.high)


@unhurried
@given(pairs, st.randoms(use_true_random=False))
def test_seeds_pair_whatever_the_order_they_come_in(
    values: dict[int, tuple[float, float]], order: random.Random
) -> None:
    a = {seed: x for seed, (x, _) in values.items()}
    b = {seed: y for seed, (_, y) in values.items()}
    shuffled = {seed: b[seed] for seed in order.sample(sorted(b), len(b))}
    assert paired_difference(a, shuffled) == paired_difference(a, b)


def test_what_does_not_pair_is_said_and_has_no_part_in_it() -> None:
    both = paired_difference({0: 3.0, 1: 4.0, 2: 7.0}, {0: 1.0, 1: 1.0, 2: 1.0})
    more = paired_difference({9: 1e6, 2: 7.0, 1: 4.0, 0: 3.0}, {0: 1.0, 1: 1.0, 4: -1e6, 2: 1.0})
    assert both is not None and more is not None
    assert more.unpaired == (4, 9) and both.unpaired == ()
    assert (more.mean, more.low, more.high, more.p, more.sd, more.n) == (
        both.mean,
        both.low,
        both.high,
        both.p,
        both.sd,
        3,
    )


def test_without_a_common_seed_there_is_no_difference() -> None:
    assert paired_difference({0: 1.0}, {1: 2.0}) is None
    assert paired_difference({}, {1: 2.0}) is None and paired_difference({}, {}) is None


def test_without_a_spread() -> None:
    assert paired_difference({7: 3}, {7: 1}) == Difference(2, None, None, None, None, 1)
    assert paired_difference({7: 3, 8: 1}, {7: 1}) == Difference(2, None, None, None, None, 1, (8,))
    assert paired_difference(by_seed(3, 3), by_seed(1, 1)) == Difference(2, 2, 2, 0.0, 0.0, 2)
    assert paired_difference(by_seed(3, 3), by_seed(3, 3)) == Difference(0, 0, 0, 1.0, 0.0, 2)


@unhurried
@given(pairs, levels)
def test_the_interval_leaves_out_zero_exactly_when_the_test_rejects(
    values: dict[int, tuple[float, float]], level: float
) -> None:
    a = {seed: x for seed, (x, _) in values.items()}
    b = {seed: y for seed, (_, y) in values.items()}
    found = paired_difference(a, b, level)
    assert found is not None and found.low is not None and found.high is not None and found.p is not None
    if abs(found.p - (1 - level)) > 1e-9:
        assert (found.low > 0 or found.high < 0) == (found.p < 1 - level)


@unhurried
@given(pairs)
def test_swapping_the_sides_turns_the_sign(values: dict[int, tuple[float, float]]) -> None:
    a = {seed: x for seed, (x, _) in values.items()}
    b = {seed: y for seed, (_, y) in values.items()}
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one is not None and other is not None
    assert one.p == pytest.approx(other.p) and one.sd == pytest.approx(other.sd)
    assert one.low is not None and one.high is not None
    close(other, -one.mean, -one.high, -one.low)


# Results of the project's own code of before statsmodels did this: mean, low, high, p.
A, B = by_seed(94.31, 94.18, 94.40, 94.22, 94.29), by_seed(94.02, 94.11, 94.05, 94.20, 93.97)
C, D = by_seed(16.75, 15.9, 17.2), by_seed(0.41, 0.6, 0.2)


@pytest.mark.parametrize(
    ("a", "b", "level", "expected"),
    [
        (A, B, 0.95, (0.21, 0.01985911431254747, 0.40014088568746276, 0.037423029550126795)),
        (A, B, 0.99, (0.21, -0.10530487492393242, 0.5253048749239426, 0.037423029550126795)),
        (by_seed(94.31, 94.18), by_seed(94.02, 94.11), 0.95, (0.18, -1.2176825209792024, 1.577682520979216, 0.3492174)),
        (C, D, 0.95, (16.213333333333335, 14.084305091726089, 18.342361574940583, 0.0009301208560938406)),
    ],
)
def test_paired_differences_are_those_of_before(
    a: dict[int, float], b: dict[int, float], level: float, expected: tuple[float, float, float, float]
) -> None:
    found = paired_difference(a, b, level)
    assert found is not None
    assert (found.mean, found.low, found.high, found.p) == pytest.approx(expected, rel=1e-7)


def test_intervals_and_holm_are_those_of_before() -> None:
    one, other = mean_interval([*A.values()]), mean_interval([*C.values()], 0.8)
    assert (one.low, one.high) == pytest.approx((94.17427612018963, 94.38572387981037), rel=1e-12)
    assert (other.low, other.high) == pytest.approx((15.897957260942391, 17.335376072390943), rel=1e-12)
    assert holm([0.011, 0.2, 0.004, 0.03, 0.03, 0.7]) == pytest.approx([0.055, 0.4, 0.024, 0.12, 0.12, 0.7])


@pytest.mark.parametrize(
    ("n", "usual", "strict"),
    [
        (2, 11.549888435882382, 22.214241883329997),
        (3, 3.2640435496995717, 2.629099674205249),
        (5, 1.681996965955555, 0.9081222267646142),
        (10, 0.9960013714554438, 0.45292034567248135),
        (40, 0.45425693968357, 0.19120704825351456),
    ],
)
def test_visible_effects_are_those_of_before(n: int, usual: float, strict: float) -> None:
    assert smallest_visible_effect(1.0, n) == pytest.approx(usual, rel=1e-5)
    assert smallest_visible_effect(0.3, n, 0.99, 0.9) == pytest.approx(strict, rel=1e-5)


def test_rank_correlation_by_hand() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)), d being differences of ranks."""
    assert rank_correlation([(1.0, 10.0), (2.0, 30.0), (3.0, 20.0), (4.0, 99.0)]) == pytest.approx(0.8)
    assert rank_correlation([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]) == pytest.approx(-1)
    assert rank_correlation([(1.0, 3.0), (2.0, 2.0)]) is None
    assert rank_correlation([(1.0, 3.0), (1.0, 2.0), (1.0, 4.0)]) is None
    with pytest.raises(ValueError, match="leave out what was not measured"):
        rank_correlation([(1.0, math.nan), (1.0, 2.0), (1.0, 4.0)])


def test_a_resampled_interval_is_over_whole_seeds() -> None:
    """Pairs that agree within each seed and in all: nothing to resample. One seed has no interval."""
    rising = [(float(x), float(x)) for x in range(5)]
    assert resampled_rank_correlation({0: rising, 1: rising, 2: rising}) == (1, 1)
    assert resampled_rank_correlation({0: rising}) is None
    falling = [(x, -y) for x, y in rising]
    low, high = resampled_rank_correlation({0: rising, 1: falling}) or (0, 0)
    assert low == pytest.approx(-1) and high == pytest.approx(1)  # either alone is drawn in one of four draws
    assert resampled_rank_correlation({0: rising, 1: falling}) == (low, high)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """By definition: a hypothesis falls when Bonferroni rejects every set of hypotheses that it is in."""
    indices = range(len(p_values))
    subsets = [subset for size in indices for subset in itertools.combinations(indices, size + 1)]
    closed = [
        max(min(1.0, len(subset) * min(p_values[j] for j in subset)) for subset in subsets if i in subset)
        for i in indices
    ]
    assert holm(p_values) == pytest.approx(closed)


def test_smallest_visible_effect_of_published_tables() -> None:
    # G*Power 3.1: 34 pairs see d = 0.5 with power 0.8077775.
    assert smallest_visible_effect(1, 34, power=0.8077775) == pytest.approx(0.5, abs=1e-6)
    # With many runs it is the normal approximation, (1.959964 + 0.841621) sd / sqrt(n).
    assert smallest_visible_effect(1, 10_000) == pytest.approx(2.801585 / 100, rel=1e-3)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 60, 300])
@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.99, 0.95), (0.5, 0.55)])
def test_the_test_has_the_promised_power_there(n: int, level: float, power: float) -> None:
    """By the definition of t, a normal over a chi, integrated over the latter."""
    effect = smallest_visible_effect(3.0, n, level, power)
    assert effect is not None
    assert power_of(effect / 3, n, level) == pytest.approx(power, abs=1e-5)


def power_of(effect: float, n: int, level: float = 0.95) -> float:
    """The chance that a two-sided t-test of n pairs finds an effect, in units of the standard deviation."""
    threshold, shift = stats.t.ppf((1 + level) / 2, n - 1), effect * math.sqrt(n)

    def rejected(s: float) -> float:  # s: the estimated over the true standard deviation
        tails = stats.norm.sf(threshold * s - shift) + stats.norm.cdf(-threshold * s - shift)
        return float(tails * stats.chi.pdf(s, n - 1, scale=1 / math.sqrt(n - 1)))

    found, _ = integrate.quad(rejected, 0, 8, points=[shift / threshold, 1], limit=300)
    return float(found)


@few
@given(st.integers(2, 40), st.floats(0.01, 50))
def test_more_runs_see_smaller_effects_in_the_unit_of_the_spread(n: int, sd: float) -> None:
    effect, more = (smallest_visible_effect(sd, runs) for runs in (n, n + 1))
    assert effect is not None and more is not None and 0 < more < effect
    assert smallest_visible_effect(2 * sd, n) == pytest.approx(2 * effect)


def test_no_effect_can_be_seen_in_one_run_and_any_without_spread() -> None:
    assert smallest_visible_effect(1, 1) is None
    assert smallest_visible_effect(0, 5) == 0 and smallest_visible_effect(0, 1) is None
    assert seeds_needed(0, 0.1) == 2


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 12, 40, 150, 999])
@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.99, 0.9), (0.8, 0.5)])
def test_so_many_seeds_see_the_effect_and_one_fewer_does_not(n: int, level: float, power: float) -> None:
    effect = smallest_visible_effect(0.4, n, level, power)
    assert effect is not None
    assert seeds_needed(0.4, effect * 1.0001, level, power) == n
    if n > 2:
        fewer = smallest_visible_effect(0.4, n - 1, level, power)
        assert fewer is not None and effect < fewer
        assert seeds_needed(0.4, (effect + fewer) / 2, level, power) == n


@pytest.mark.parametrize(
    ("sd", "effect"), [(0.3, 0.39), (0.2, 0.1), (1, 3), (0.12, 0.43), (2, 11.26), (0.6, 0.09), (0.35, 0.02), (5, 1)]
)
def test_the_seeds_found_have_the_power_by_its_definition(sd: float, effect: float) -> None:
    found = seeds_needed(sd, effect)
    assert found is not None and power_of(effect / sd, found) >= 0.8 - 1e-6
    assert found == 2 or power_of(effect / sd, found - 1) <= 0.8 + 1e-6


def test_seeds_needed_of_published_tables() -> None:
    assert seeds_needed(1, 0.5) == 34  # G*Power 3.1
    assert seeds_needed(3, 1.5) == 34 and seeds_needed(1e-3, 5e-4) == 34  # whatever the unit
    # By the normal approximation, ((1.959964 + 0.841621) / d)^2, and about half of 1.96^2 more.
    assert seeds_needed(1, 0.05) == pytest.approx((2.801585 / 0.05) ** 2 + 1.92, abs=1)


def test_what_nobody_can_train_is_not_decidable() -> None:
    just = 2.801585 / math.sqrt(MANY)
    assert MANY == 10_000 and (seeds_needed(1, just * 1.001) or 0) == pytest.approx(9_982, abs=3)
    assert seeds_needed(1, just * 0.999) is None
    assert seeds_needed(1, 0.011) is None and seeds_needed(1, 1e-12) is None and seeds_needed(1e300, 1e-300) is None
    assert seeds_needed(1e-12, 1) == 2 and seeds_needed(1e-300, 1e300) == 2


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: mean_interval([]), "no values"),
        (lambda: mean_interval([1, float("nan")]), "value 1 is nan: leave out what was not measured"),
        (lambda: mean_interval([float("inf")]), "value 0 is inf"),
        (lambda: mean_interval([1, None]), "value 1 is None"),  # type: ignore[list-item]
        (lambda: mean_interval([1, 2], level=1), "a level lies in"),
        (lambda: mean_interval([1], level=95), "a level lies in"),
        (lambda: paired_difference({0: 1, 1: 2}, {0: 1, 1: float("nan")}), "is nan"),
        (lambda: paired_difference({0: 1, 1: float("inf")}, {0: 1}), "is inf"),  # refused although it has no partner
        (lambda: paired_difference({0: 1}, {0: None}), "is None"),  # type: ignore[dict-item]
        (lambda: paired_difference({0: 1, 1: 2}, {0: 1, 1: 3}, level=0), "a level lies in"),
        (lambda: holm([0.1, 1.1]), "p-values lie in"),
        (lambda: holm([float("nan")]), "p-values lie in"),
        (lambda: smallest_visible_effect(-1, 5), "no effect for sd -1"),
        (lambda: smallest_visible_effect(1, 0), "no test of 0 pairs"),
        (lambda: smallest_visible_effect(1, 5, power=0.05), "power 0.05"),
        (lambda: smallest_visible_effect(float("nan"), 5), "sd nan"),
        (lambda: smallest_visible_effect(1, 5, level=1), "level 1"),
        (lambda: seeds_needed(1, 0), "an effect to be seen is above 0"),
        (lambda: seeds_needed(1, -0.3), "above 0; came -0.3"),
        (lambda: seeds_needed(1, float("nan")), "above 0; came nan"),
        (lambda: seeds_needed(float("inf"), 1), "sd inf"),
        (lambda: seeds_needed(1, 1, power=1), "power 1"),
    ],
)
def test_what_is_refused(call: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        call()


def test_importing_it_loads_no_library() -> None:
    code = "import sys, kdtune.statistics; print(*{'scipy', 'numpy', 'statsmodels', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
