"""Means over seeds, what separates two settings, and what so few seeds could have seen at all.

The tests are scipy's and statsmodels'; here is only what they leave open: values are joined by the seed they belong
to, never by their order, and what has no partner is said. One value has no spread, so what needs one is None there,
not zero. Values that are no number are refused (ValueError): a run that diverged or was not measured is left out
openly. The libraries load with the first question that needs them.
"""

from __future__ import annotations

import gc
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95  # of an interval
POWER = 0.8  # the chance to see an effect that is there, in what is said of visible effects and seeds
MANY = 10_000  # seeds: nobody trains so many, and what needs more is not decidable


@dataclass(frozen=True)
class Interval:
    """A mean of n values and its confidence interval; low and high are None for n = 1."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of a minus b over the seeds that both have, its interval, and the two-sided p-value of "there is none".

    `sd` is the standard deviation of the differences. low, high, p and sd are None where one pair gives no spread.
    Where all differences are equal the interval is a point, and p is 0 or 1. `unpaired`: seeds that one side has alone.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    sd: float | None
    n: int
    unpaired: tuple[int, ...] = ()

    @property
    def excludes_zero(self) -> bool:
        """Whether its interval does; one pair has none."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean and Student t interval (n - 1 degrees of freedom) at confidence `level`."""
    from scipy.special import stdtrit  # scipy.stats takes a second to load, and every closing table asks here

    _check(values)
    if not 0 < level < 1:
        raise ValueError(f"a level lies in (0, 1); came {level}")
    mean, n = math.fsum(values) / len(values), len(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * spread(values) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach, n)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], level: float = LEVEL) -> Difference | None:
    """Student's paired t of values by seed (one seed, two settings); None where no seed has both."""
    _check([*a.values(), *b.values()], least=0)
    seeds = sorted(a.keys() & b.keys())
    unpaired = tuple(sorted(a.keys() ^ b.keys()))
    differences = [a[seed] - b[seed] for seed in seeds]
    if not seeds:
        return None
    interval = mean_interval(differences, level)
    if interval.n == 1:
        return Difference(interval.mean, None, None, None, None, 1, unpaired)
    sd, p = spread(differences), 0.0 if interval.mean else 1.0
    if sd:
        from scipy.stats import ttest_rel

        p = float(ttest_rel([a[seed] for seed in seeds], [b[seed] for seed in seeds]).pvalue)
    return Difference(interval.mean, interval.low, interval.high, p, sd, interval.n, unpaired)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, in the order given (Holm 1979): compare each with the level as it is.

    Controls the chance of any false claim in the family, whatever the dependence between its members.
    """
    from statsmodels.stats.multitest import multipletests

    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie in [0, 1]; came {list(p_values)}")
    if len(p_values) < 2:
        return [float(p) for p in p_values]
    gc.freeze()  # it collects garbage, which takes a tenth of a second where pandas and matplotlib are loaded
    try:
        return [float(p) for p in multipletests(p_values, method="holm")[1]]
    finally:
        gc.unfreeze()


Pairs = Sequence[tuple[float, float]]
DRAWS = 2000  # of a bootstrap


def rank_correlation(pairs: Pairs) -> float | None:
    """Spearman's; None where either side has one value alone, or there are fewer than three pairs."""
    from scipy.stats import spearmanr

    _check([value for pair in pairs for value in pair], least=0)
    xs, ys = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(pairs) < 3 or len(set(xs)) == 1 or len(set(ys)) == 1:
        return None
    return float(spearmanr(xs, ys).statistic)


def resampled_rank_correlation(pairs: Mapping[int, Pairs], level: float = LEVEL) -> tuple[float, float] | None:
    """An interval of Spearman's correlation over the pairs of all seeds: percentiles over whole seeds drawn with
    replacement, always the same draws. Of few seeds it is too narrow: three give ten different draws. None for one
    seed, and where most draws have no correlation.
    """
    import numpy as np

    seeds = sorted(pairs)
    if len(seeds) < 2:
        return None
    generator = np.random.default_rng(0)
    drawn = [generator.choice(len(seeds), len(seeds)) for _ in range(DRAWS)]
    found = [rank_correlation([pair for at in places for pair in pairs[seeds[at]]]) for places in drawn]
    known = [value for value in found if value is not None]
    if len(known) < DRAWS / 2:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def smallest_visible_effect(sd: float, n: int, level: float = LEVEL, power: float = POWER) -> float | None:
    """The smallest true difference that a paired two-sided t-test of n pairs would find with probability `power`.

    `sd`, its unit and the result's, is the standard deviation of the differences, taken as known; estimated from few
    runs it is itself uncertain. None for n = 1, where no test can be made. By the noncentral t distribution, not by
    the normal approximation, which promises far too much at n = 5.
    """
    from scipy.optimize import brentq

    _check_power(sd, level, power)
    if n < 1:
        raise ValueError(f"no test of {n} pairs")
    if n == 1:
        return None
    most = 1.0
    while _power(most, n, level) < power:
        most *= 2
    return sd * float(brentq(lambda effect: _power(effect, n, level) - power, 0, most, xtol=1e-12))


def seeds_needed(sd: float, effect: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """How many pairs such a test needs for an effect of that size; None for more than MANY.

    sd, effect: in one unit. Two pairs at least: one has no spread.
    """
    _check_power(sd, level, power)
    if not effect > 0:
        raise ValueError(f"an effect to be seen is above 0; came {effect}")
    if sd < 1e-9 * effect:  # all differences are equal but for rounding
        return 2
    pairs = 2 + bisect_left(range(2, MANY + 1), True, key=lambda n: _power(effect / sd, n, level) >= power)
    return pairs if pairs <= MANY else None


def _power(effect: float, n: int, level: float) -> float:
    """The chance that a paired test of n pairs finds an effect, in standard deviations of the differences."""
    from scipy.stats import nct, t

    # Not statsmodels' TTestPower: its lower tail, scipy's nctdtr, is NaN at many shifts (scipy 1.17). By symmetry here.
    threshold, shift = t.ppf((1 + level) / 2, n - 1), effect * math.sqrt(n)
    return float(nct.sf(threshold, n - 1, shift) + nct.sf(threshold, n - 1, -shift))


def _check(values: Sequence[float], least: int = 1) -> None:
    if len(values) < least:
        raise ValueError("no values")
    for i, value in enumerate(values):
        if value is None or not math.isfinite(value):
            raise ValueError(f"value {i} is {value}: leave out what was not measured")


def _check_power(sd: float, level: float, power: float) -> None:
    if not (sd >= 0 and math.isfinite(sd) and 0 < level < 1 and 1 - level < power < 1):
        raise ValueError(f"no effect for sd {sd}, level {level}, power {power} (power lies above 1 - level)")


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1) of two values and more. By hypot, which neither overflows nor underflows."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} values have no spread")
    mean = math.fsum(values) / len(values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)
