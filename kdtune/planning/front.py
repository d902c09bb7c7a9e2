"""What is best by one or two objectives: the front, an order for those that are to be done again, the hypervolume.

Values are of proposals, in their order; None stands for one without any (it diverged), which is never best.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kdtune.search.search import Direction

Values = Sequence[Sequence[float] | None]


def front(values: Values, directions: Sequence[Direction]) -> list[int]:
    """The places of those that none is better than in one objective without being worse in another; equals all."""
    signed = _signed(values, directions)
    return [one for one, mine in signed.items() if not any(_dominates(other, mine) for other in signed.values())]


def ranked(values: Values, directions: Sequence[Direction]) -> list[int]:
    """All places with values, the best first: the front, then that of the rest, and so on.

    Of a front first the point with the largest hypervolume over the worst values, then what adds most to it; of equals
    the earlier one.
    """
    left: list[Sequence[float] | None] = [*values]
    order: list[int] = []
    while best := front(left, directions):
        chosen: list[int] = []
        while remaining := [place for place in best if place not in chosen]:
            gains = {place: hypervolume(values, directions, [*chosen, place]) for place in remaining}
            chosen.append(max(remaining, key=lambda place: (gains[place], -place)))
        order += chosen
        for place in best:
            left[place] = None
    return order


def hypervolume(values: Values, directions: Sequence[Direction], of: Collection[int] | None = None) -> float:
    """What the points of these places (None: all) dominate, in the product of the objectives' units: a length, an area.

    The reference is the worst value of each objective among all that are given, so that more points never make it less.
    """
    signed = _signed(values, directions)
    chosen = [signed[place] for place in (signed if of is None else of) if place in signed]
    if not chosen:
        return 0.0
    worst = [min(each[axis] for each in signed.values()) for axis in range(len(directions))]
    if len(directions) == 1:
        return max(each[0] for each in chosen) - worst[0]
    area, reached = 0.0, worst[1]
    for first, second in sorted(chosen, reverse=True):
        area += (first - worst[0]) * max(0.0, second - reached)
        reached = max(reached, second)
    return area


def _signed(values: Values, directions: Sequence[Direction]) -> dict[int, tuple[float, ...]]:
    """Those that have values, with more as better."""
    signs = [1.0 if direction == "max" else -1.0 for direction in directions]
    return {
        place: tuple(sign * value for sign, value in zip(signs, each, strict=True))
        for place, each in enumerate(values)
        if each is not None
    }


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(mine >= theirs for mine, theirs in zip(one, other, strict=True))
