"""The statistics, against scipy.stats, against definitions computed another way, and against worked examples."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from kdtune.statistics import (
    Difference,
    Interval,
    complete,
    difference,
    holm,
    mean_interval,
    paired_difference,
    smallest_visible_effect,
)

numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
samples = st.lists(numbers, min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1)
levels = st.sampled_from([0.8, 0.95, 0.99])


def test_mean_interval_by_hand() -> None:
    # t(0.975; 2) = 4.302653, sd = 1, so the half width is 4.302653 / sqrt(3).
    interval = mean_interval([1, 2, 3])
    assert interval.mean == 2 and interval.n == 3
    assert (interval.low, interval.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert mean_interval([94.28]) == Interval(94.28, None, None, 1)
    assert mean_interval([5, 5, 5, 5]) == Interval(5, 5, 5, 4)


@given(samples, levels)
def test_mean_interval_is_scipys(values: list[float], level: float) -> None:
    low, high = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
    assert mean_interval(values, level) == Interval(
        pytest.approx(np.mean(values)), pytest.approx(low), pytest.approx(high), len(values)
    )


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12), levels)
def test_paired_difference_is_scipys(pairs: list[tuple[float, float]], level: float) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    if np.std(np.subtract(a, b)) < 1e-6:  # without a spread scipy answers NaN
        return
    found, expected = paired_difference(a, b, level), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(level)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12) and found.n == (len(a), len(b))
    close(found, np.mean(a) - np.mean(b), interval.low, interval.high)


@given(samples, samples, levels)
def test_difference_is_scipys_welch(a: list[float], b: list[float], level: float) -> None:
    found, expected = difference(a, b, level), stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(level)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12) and found.n == (len(a), len(b))
    close(found, np.mean(a) - np.mean(b), interval.low, interval.high)


def close(found: Difference, mean: float, low: float, high: float) -> None:
    assert (found.mean, found.low, found.high) == pytest.approx((mean, low, high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("compare", [paired_difference, difference])
def test_without_a_spread(compare: Callable[[Sequence[float], Sequence[float]], Difference]) -> None:
    assert compare([3], [1]) == Difference(2, None, None, None, (1, 1))
    assert compare([3, 3], [1, 1]) == Difference(2, 2, 2, 0.0, (2, 2))
    assert compare([3, 3], [3, 3]) == Difference(0, 0, 0, 1.0, (2, 2))


def test_groups_of_unequal_size() -> None:
    assert difference([1, 2, 3], [5]) == Difference(-3, None, None, None, (3, 1))
    one_spread = difference([1, 2, 3], [5, 5])  # all of the error and so the degrees of freedom are the first group's
    interval = mean_interval([1, 2, 3])
    assert interval.low is not None and interval.high is not None
    close(one_spread, -3, interval.low - 5, interval.high - 5)


@given(samples, samples, levels)
def test_the_interval_leaves_out_zero_exactly_when_the_test_rejects(
    a: list[float], b: list[float], level: float
) -> None:
    short = min(len(a), len(b))
    for found in (difference(a, b, level), paired_difference(a[:short], b[:short], level)):
        assert found.low is not None and found.high is not None and found.p is not None
        if abs(found.p - (1 - level)) > 1e-9:
            assert (found.low > 0 or found.high < 0) == (found.p < 1 - level)


@given(samples, st.floats(-100, 100), st.floats(0.01, 100))
def test_shift_and_scale_of_the_data_are_those_of_the_interval(values: list[float], shift: float, scale: float) -> None:
    before, after = mean_interval(values), mean_interval([scale * value + shift for value in values])
    for one, other in ((before.mean, after.mean), (before.low, after.low), (before.high, after.high)):
        assert one is not None and other == pytest.approx(scale * one + shift, rel=1e-6, abs=1e-6)


@given(samples, samples)
def test_swapping_the_groups_turns_the_sign(a: list[float], b: list[float]) -> None:
    one, other = difference(a, b), difference(b, a)
    assert one.p == pytest.approx(other.p)
    assert one.low is not None and one.high is not None
    close(other, -one.mean, -one.high, -one.low)


def test_extreme_values_neither_overflow_nor_vanish() -> None:
    for scale in (1e-200, 1e200):
        interval = mean_interval([scale, 2 * scale, 3 * scale])
        assert interval.high == pytest.approx((2 + 2.484138) * scale, rel=1e-6)
        assert difference([scale, 2 * scale], [scale, 3 * scale]).p == pytest.approx(difference([1, 2], [1, 3]).p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


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
    # G*Power 3.1: 34 pairs see d = 0.5 with power 0.8077775, two groups of 64 with power 0.8014596.
    assert smallest_visible_effect(1, 34, power=0.8077775) == pytest.approx(0.5, abs=1e-6)
    assert smallest_visible_effect(1, 64, power=0.8014596, paired=False) == pytest.approx(0.5, abs=1e-6)
    # With many runs it is the normal approximation, (1.959964 + 0.841621) sd / sqrt(n).
    assert smallest_visible_effect(1, 10_000) == pytest.approx(2.801585 / 100, rel=1e-3)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.99, 0.95), (0.5, 0.55)])
def test_the_test_has_the_promised_power_there(n: int, level: float, power: float, paired: bool) -> None:
    """By the definition of t, a normal over a chi, integrated over the latter."""
    effect = smallest_visible_effect(3.0, n, level, power, paired)
    assert effect is not None
    df, error = (n - 1, 3 / math.sqrt(n)) if paired else (2 * n - 2, 3 * math.sqrt(2 / n))
    threshold, shift = stats.t.ppf((1 + level) / 2, df), effect / error

    def rejected(s: float) -> float:  # s: the estimated over the true standard deviation
        tails = stats.norm.sf(threshold * s - shift) + stats.norm.cdf(-threshold * s - shift)
        return float(tails * stats.chi.pdf(s, df, scale=1 / math.sqrt(df)))

    found, _ = integrate.quad(rejected, 0, 8, points=[shift / threshold, 1], limit=300)
    assert found == pytest.approx(power, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.floats(0.01, 50), st.booleans())
def test_more_runs_see_smaller_effects_in_the_unit_of_the_spread(n: int, sd: float, paired: bool) -> None:
    effect, more = (smallest_visible_effect(sd, runs, paired=paired) for runs in (n, n + 1))
    assert effect is not None and more is not None and 0 < more < effect
    assert smallest_visible_effect(2 * sd, n, paired=paired) == pytest.approx(2 * effect)


def test_no_effect_can_be_seen_in_one_run_and_any_without_spread() -> None:
    assert smallest_visible_effect(1, 1) is None and smallest_visible_effect(1, 1, paired=False) is None
    assert smallest_visible_effect(0, 5) == 0


def test_complete_leaves_out_rows_not_values() -> None:
    nan = float("nan")
    assert complete([1, None, 3, 4], [5, 6, nan, 0]) == [[1, 4], [5, 0]]
    assert complete([None, nan]) == [[]] and complete([0.0, None]) == [[0.0]]
    with pytest.raises(ValueError):
        complete([1, 2], [1])


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: mean_interval([]), "no values"),
        (lambda: mean_interval([1, float("nan")]), "value 1 is nan: leave out what was not measured"),
        (lambda: mean_interval([float("inf")]), "value 0 is inf"),
        (lambda: mean_interval([1, None]), "value 1 is None"),  # type: ignore[list-item]
        (lambda: mean_interval([1, 2], level=1), "a level lies in"),
        (lambda: mean_interval([1], level=95), "a level lies in"),
        (lambda: paired_difference([1, 2], [1]), "2 and 1 values do not pair"),
        (lambda: paired_difference([1, 2], [1, float("nan")]), "value 1 is nan"),
        (lambda: difference([1], []), "no values"),
        (lambda: holm([0.1, 1.1]), "p-values lie in"),
        (lambda: holm([float("nan")]), "p-values lie in"),
        (lambda: smallest_visible_effect(-1, 5), "no effect for sd -1"),
        (lambda: smallest_visible_effect(1, 0), "n 0"),
        (lambda: smallest_visible_effect(1, 5, power=0.05), "power 0.05"),
        (lambda: smallest_visible_effect(float("nan"), 5), "sd nan"),
    ],
)
def test_what_is_refused(call: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        call()


def test_importing_it_does_not_load_scipy() -> None:
    code = "import sys, kdtune.statistics; sys.exit('scipy' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
