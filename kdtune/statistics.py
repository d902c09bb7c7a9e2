"""Means over seeds, what separates two of them, and what so few seeds could have seen at all.

Every function takes plain numbers, one a run, and refuses (ValueError) None, NaN and infinity: a run that diverged or
was not measured is left out openly, with its partner, through `complete`, and never in silence. One value has no
spread, so what needs one is None there, not zero. scipy loads with the first interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HALVINGS = 60  # of the interval in which `smallest_visible_effect` is searched: more than a float can tell apart


@dataclass(frozen=True)
class Interval:
    """A mean of n values and its confidence interval; low and high are None for n = 1."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """mean(a) - mean(b), its confidence interval, and the two-sided p-value of "there is none".

    `n` counts the values of a and of b. low, high and p are None where there are too few for a spread. Where every
    value agrees to the last digit there is no spread either: the interval is then a point, and p 0 or 1.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: tuple[int, int]


def complete(*columns: Sequence[float | None]) -> list[list[float]]:
    """The columns without the rows in which any of them is None or NaN: `a, b = complete(a, b)` before a comparison."""
    numbers = [[math.nan if value is None else float(value) for value in column] for column in columns]
    kept = [i for i, row in enumerate(zip(*numbers, strict=True)) if not any(map(math.isnan, row))]
    return [[column[i] for i in kept] for column in numbers]


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student t interval (n - 1 degrees of freedom) at confidence `level`."""
    _check(values)
    mean, n = math.fsum(values) / len(values), len(values)
    low, high = _around(mean, _sd(values) / math.sqrt(n), n - 1, level)
    return Interval(mean, low, high, n)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Student's paired t: a[i] and b[i] belong together (one seed, two settings), the differences are the data."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values do not pair")
    _check(a)
    _check(b)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, n = math.fsum(differences) / len(a), len(a)
    return _difference(mean, _sd(differences) / math.sqrt(n), n - 1, level, (n, n))


def difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Welch's t for two independent groups of unequal spread; degrees of freedom by Welch and Satterthwaite."""
    _check(a)
    _check(b)
    mean = math.fsum(a) / len(a) - math.fsum(b) / len(b)
    errors = [_sd(values) / math.sqrt(len(values)) for values in (a, b)]
    error = math.hypot(*errors)
    df = 0.0
    if min(len(a), len(b)) > 1:
        # Shares of the squared error, so that nothing overflows; without any error every df gives the same answer.
        shares = [(one / error) ** 2 if error else 0.5 for one in errors]
        df = 1 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (a, b), strict=True))
    return _difference(mean, error, df, level, (len(a), len(b)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, in the order given (Holm 1979): compare each with the level as it is.

    Controls the chance of any false claim in the family, whatever the dependence between its members.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie in [0, 1]; came {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def smallest_visible_effect(
    sd: float, n: int, level: float = 0.95, power: float = 0.8, paired: bool = True
) -> float | None:
    """The smallest true difference that a two-sided t-test at `level` would find with probability `power`.

    paired: n pairs, and `sd` is the standard deviation of their differences. Otherwise two groups of n, and `sd` is
    that within a group. In the unit of `sd`; None for n = 1, where no test can be made. Exact: by the noncentral t
    distribution, both tails counted (Cohen 1988, chapter 2), not by the normal approximation, which promises far too
    much at n = 5. Takes `sd` as known; estimated from few runs it is itself uncertain.
    """
    if not (sd >= 0 and math.isfinite(sd) and n >= 1 and 0 < level < 1 and 1 - level < power < 1):
        raise ValueError(f"no effect for sd {sd}, n {n}, level {level}, power {power} (power lies above 1 - level)")
    if n == 1:
        return None
    df, error = (n - 1, sd / math.sqrt(n)) if paired else (2 * n - 2, sd * math.sqrt(2 / n))
    threshold = _quantile(df, level)
    low, high = 0.0, 1.0  # in units of the standard error
    while _power(threshold, df, high) < power:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(threshold, df, middle) >= power else (middle, high)
    return high * error


def _power(threshold: float, df: int, shift: float) -> float:
    """The chance that |t| passes the threshold when the true difference is `shift` standard errors."""
    from scipy.stats import nct

    # The lower tail by symmetry: nct.cdf(-threshold, df, shift) answers NaN for many shifts (scipy 1.17).
    return float(nct.sf(threshold, df, shift) + nct.sf(threshold, df, -shift))


def _check(values: Sequence[float]) -> None:
    if not len(values):
        raise ValueError("no values")
    for i, value in enumerate(values):
        if value is None or not math.isfinite(value):
            raise ValueError(f"value {i} is {value}: leave out what was not measured with complete()")


def _sd(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); 0 for one value. By hypot, which neither overflows nor underflows."""
    mean = math.fsum(values) / len(values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(max(len(values) - 1, 1))


def _quantile(df: float, level: float) -> float:
    """The t beyond which, on both sides together, 1 - level of Student's distribution lies."""
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"a level lies in (0, 1); came {level}")
    return float(stdtrit(df, (1 + level) / 2))


def _around(mean: float, error: float, df: float, level: float) -> tuple[float, float] | tuple[None, None]:
    reach = _quantile(max(df, 1), level) * error
    return (mean - reach, mean + reach) if df > 0 else (None, None)


def _difference(mean: float, error: float, df: float, level: float, n: tuple[int, int]) -> Difference:
    from scipy.special import stdtr

    low, high = _around(mean, error, df, level)
    if low is None:
        p = None
    elif error == 0:
        p = 1.0 if mean == 0 else 0.0
    else:
        p = float(2 * stdtr(df, -abs(mean / error)))
    return Difference(mean, low, high, p, n)
