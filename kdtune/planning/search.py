"""Proposal n of a search as a pure function of what was proposed before it and of what is known of that.

A new study in memory each time: what is known is told, what is under way is there as running, the sampler begins with a
seed of this proposal's own. So the same points are proposed on any number of machines, at any speed, killed or not.
Optuna's samplers order what they are told by number; nothing here knows of time. What they would note of a trial for
later ones is made anew too (`Sampler.notes`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kdtune.planning.front import Values
from kdtune.search.search import Search

Point = Mapping[str, Any]  # values by axis
SEED_BITS = 0xFFFF_FFFF  # numpy's generators take 32


def known_to(search: Search, number: int) -> int:
    """How many proposals, from 0 on, must have values before this one is made."""
    return max(0, number - search.lag + 1)


def proposed(search: Search, points: Sequence[Point], values: Values) -> dict[str, Any]:
    """Proposal n = len(points), by the values of the first `known_to(search, n)` proposals; more are not looked at.

    `values`: means by `search.metrics`; None for a proposal that diverged, which is told as the worst that is known.
    `points` that are listed in a grid may lie outside of the space: the sampler is not told of these.
    """
    import optuna

    from kdtune.randomness import stream_seed

    number = len(points)
    known = values[: known_to(search, number)]
    if len(known) < known_to(search, number):
        raise ValueError(f"proposal {number} needs {known_to(search, number)} values; came {len(known)}")
    with _quietly():
        seed = stream_seed(search.seed, "search", number) & SEED_BITS
        way = optuna.study.StudyDirection
        directions = [way.MAXIMIZE if each == "max" else way.MINIMIZE for each in search.objectives.values()]
        study = optuna.create_study(directions=directions, sampler=search.sampler.build(seed))
        space = {axis: search.space[axis] for axis in sorted(search.space)}  # whatever their order in the file
        built = {axis: each.build() for axis, each in space.items()}
        told = [{axis: each.told(point[axis]) for axis, each in space.items()} for point in points]
        inside = [None not in params.values() for params in told]
        notes = search.sampler.notes([known_to(search, place) for place in range(number)], inside)
        ends = _ends(known, search)
        for place in (place for place in range(number) if inside[place]):
            stands: dict[str, Any] = {"state": optuna.trial.TrialState.RUNNING, "system_attrs": notes[place]}
            if place < len(known):
                stands |= {"state": optuna.trial.TrialState.COMPLETE, **ends[place]}
            study.add_trial(optuna.trial.create_trial(params=told[place], distributions=built, **stands))
        drawn = study.ask(built).params
    return {axis: search.space[axis].value(drawn[axis]) for axis in search.space}


def _ends(known: Values, search: Search) -> list[dict[str, Any]]:
    """Of each known proposal what a sampler is told: objectives, and how far it is beyond each bound.

    One without values counts as the worst of each that is known, and keeps no bound; where none is known, 0 and 1.
    """
    found = [each for each in known if each is not None]
    ways = [min if each == "max" else max for each in search.objectives.values()]
    worst = [way((each[axis] for each in found), default=0.0) for axis, way in enumerate(ways)]
    excess = [[*each] for each in zip(*(search.excess(each) for each in found), strict=True)]
    bounds = len(search.excess([0.0] * len(search.metrics)))
    farthest = [max(each) if max(each) > 0 else 1.0 for each in excess] or [1.0] * bounds
    return [_told(worst, farthest) if each is None else _told(each[: len(ways)], search.excess(each)) for each in known]


def _told(objectives: Sequence[float], excess: Sequence[float]) -> dict[str, Any]:
    told: dict[str, Any] = {"values": [*objectives]}
    if excess:
        told["constraints"] = {str(place): each for place, each in enumerate(excess)}
    return told


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna tells of every study, what of it is experimental, and which packages would make it faster."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
