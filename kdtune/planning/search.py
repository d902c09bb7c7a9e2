"""Proposal n of a search as a pure function of what was proposed before it and of what is known of that.

A new study in memory each time: what is known is told, what is under way is there as running, the sampler begins with a
seed of this proposal's own. So the same points are proposed on any number of machines, at any speed, killed or not.
Optuna's samplers order what they are told by number; nothing here knows of time.
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
        worst = _worst(known, search)
        for place, point in enumerate(points):
            told = {axis: each.told(point[axis]) for axis, each in space.items()}
            if None in told.values():
                continue
            stands: dict[str, Any] = {"state": optuna.trial.TrialState.RUNNING}
            if place < len(known):
                own = known[place]
                stands = {"state": optuna.trial.TrialState.COMPLETE, "values": worst if own is None else [*own]}
            study.add_trial(optuna.trial.create_trial(params=told, distributions=built, **stands))
        drawn = study.ask(built).params
    return {axis: search.space[axis].value(drawn[axis]) for axis in search.space}


def _worst(known: Values, search: Search) -> list[float]:
    """The worst known value of each objective: what a proposal without values counts as. 0 where none is known."""
    found = [each for each in known if each is not None]
    ways = [min if each == "max" else max for each in search.objectives.values()]
    return [way((each[axis] for each in found), default=0.0) for axis, way in enumerate(ways)]


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna tells of every study, and what of it is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
