"""Which search a file's is: 12 hex digits of all that decides what is proposed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kdtune.evaluation.evaluation import declared
from kdtune.extensions import codes_of
from kdtune.identity import id_of
from kdtune.search.search import Search
from kdtune.sweepfile.load import SweepFile, SweepPoint
from kdtune.sweepfile.values import plain


def search_id(file: SweepFile, search: Search, at_ends: Sequence[tuple[str, ...]]) -> str:
    """The runs at the ends of the space (`at_ends`, by point of `file.ends`) stand for the sweep.

    Neither the number of trials nor what confirms is part of it: with more of them a search goes on.
    """
    sweep = file.ends[0].sweep
    measured = declared(sweep.evaluation, sweep.dataset_of(sweep.student))
    ends = [[plain_point(search, point), ids] for point, ids in zip(file.ends, at_ends, strict=True)]
    description: dict[str, Any] = {
        "space": {axis: each.dumped() for axis, each in search.space.items()},
        "sampler": search.sampler.dumped(),
        "seed": search.seed,
        "lag": search.lag,
        "objectives": [[name, way, measured[name][0].hash] for name, way in search.objectives.items()],
        "seeds": [*(file.points or file.ends)[0].sweep.seeds],
        "listed": [plain_point(search, point) for point in file.points],
        "ends": sorted(json.dumps(end, sort_keys=True) for end in ends),
        "extensions": codes_of(search),
    }
    if search.constraints:  # a search without any keeps the id that it had before there were constraints
        bounds = search.constraints.items()
        description["constraints"] = [[name, each.model_dump(), measured[name][0].hash] for name, each in bounds]
    return id_of(description)


def plain_point(search: Search, point: SweepPoint) -> dict[str, Any]:
    """Values by axis, in the order of the space."""
    return {axis: plain(point.at.values[axis], {}) for axis in search.space}
