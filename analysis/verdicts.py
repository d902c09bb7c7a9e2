"""When differences bear a claim out: the rules of a verdict, for one comparison and for several.

A rule looks at the interval of a paired difference, never at its mean alone, in this order: inside the smallest effect
of interest; on the claimed side of 0; on the other; neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from kdtune.statistics import LEVEL, POWER, Difference, seeds_needed, smallest_visible_effect

Direction = Literal["higher", "lower", "unchanged", "not lower"]
AFFORDABLE = 100  # seeds of one setting: what takes more is not decidable at a budget of ours


class Verdict(StrEnum):
    """`NOT_ESTABLISHED` is for robustness alone: no attack that could be believed was made, or a flag is up."""

    REPRODUCED = "reproduced"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"
    NOT_ESTABLISHED = "not established"


@dataclass(frozen=True)
class Judgement:
    """A verdict on one comparison, and what there is to say of it."""

    verdict: Verdict
    why: str = ""
    off_0: bool = False  # whether it rests on an interval without 0


def judge(difference: Difference | None, direction: Direction, smallest: float) -> Judgement:
    """The verdict on one paired difference. `smallest`: the smallest effect of interest, above 0, in its unit.

    Inside +- smallest it is negligible, which bears out `unchanged` and `not lower` and contradicts an effect. An
    interval off 0 contradicts `unchanged`; one that stays above -smallest bears out `not lower`.
    """
    if difference is None:
        return Judgement(Verdict.NOT_MEASURED, "no pair of finished runs")
    if difference.low is None or difference.high is None or difference.sd is None:
        return Judgement(Verdict.INCONCLUSIVE, "one pair has no interval")
    if difference.n == 2 and not difference.sd and difference.mean:
        return Judgement(Verdict.INCONCLUSIVE, "two pairs that are equal have no interval")
    low, high = difference.low, difference.high
    if -smallest <= low and high <= smallest:
        effect = direction in ("higher", "lower")
        return Judgement(Verdict.CONTRADICTED if effect else Verdict.REPRODUCED, f"negligible, within ±{smallest:g}")
    side = "higher" if low > 0 else "lower" if high < 0 else ""
    if side == direction or (direction == "not lower" and low >= -smallest):
        return Judgement(Verdict.REPRODUCED, off_0=side == direction)
    if side:
        return Judgement(Verdict.CONTRADICTED, side, off_0=True)
    return Judgement(Verdict.INCONCLUSIVE, outlook(difference.sd, difference.n, direction, smallest))


def outlook(sd: float, n: int, direction: Direction, smallest: float) -> str:
    """What n pairs of that spread could have shown, and how many it takes for the smallest effect of interest.

    For `unchanged`: how many it takes until the interval lies inside of that, in four of five trials, if there is none.
    """
    # Either end may lie outside, so that each may in half as many trials.
    power = (1 + POWER) / 2 if direction == "unchanged" else POWER
    visible, needed = smallest_visible_effect(sd, n), seeds_needed(sd, smallest, power=power)
    words = f"{visible:.2g} would show, {smallest:g} takes " + (f"{needed:,} seeds" if needed else "over 10,000 seeds")
    return words if needed and needed <= AFFORDABLE else f"not decidable at this budget: {words}"


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Of what must hold throughout: one contradiction is enough, and all must be borne out."""
    found = list(verdicts)
    if Verdict.CONTRADICTED in found:
        return Verdict.CONTRADICTED
    if set(found) <= {Verdict.NOT_MEASURED}:
        return Verdict.NOT_MEASURED
    return Verdict.REPRODUCED if set(found) == {Verdict.REPRODUCED} else Verdict.INCONCLUSIVE


def any_of(judgements: Sequence[Judgement]) -> Verdict:
    """Of what must hold somewhere: one is enough, after `corrected`; contradicted only where all are."""
    found = [each.verdict for each in judgements]
    if set(found) <= {Verdict.NOT_MEASURED}:
        return Verdict.NOT_MEASURED
    if Verdict.REPRODUCED in found:
        return Verdict.REPRODUCED
    return Verdict.CONTRADICTED if set(found) == {Verdict.CONTRADICTED} else Verdict.INCONCLUSIVE


def corrected(judgements: Sequence[Judgement], p_values: Sequence[float | None], kind: Verdict) -> list[Judgement]:
    """What is so by itself, but not as one of several any of which would decide, is inconclusive. What is negligible
    rests on no such p. p_values: `points.adjusted`; kind: the verdict of which one is enough."""
    return [
        Judgement(Verdict.INCONCLUSIVE, "not after Holm's correction")
        if each.verdict is kind and each.off_0 and (p is None or p >= 1 - LEVEL)
        else each
        for each, p in zip(judgements, p_values, strict=True)
    ]
