"""`search:` of a sweep file: knobs that are proposed, one point after the other, instead of listed.

search:
  trials: 40
  seeds: 2
  objectives: {val/accuracy: max}
  sampler: {tpe: {startup: 10}}
  lag: 8
  space: {sigma: {loguniform: [0.01, 0.5]}, temperature: {quniform: [1, 10, 0.5]}}
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count, islice
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kdtune.search.samplers import Sampler
from kdtune.search.space import Distribution
from kdtune.settings import Count, Seeds, Settings, Text, Whole

Direction = Literal["max", "min"]
MOST = 2  # objectives: of more nearly every point is on the front


def _of_held_out_images(objectives: dict[str, Direction]) -> dict[str, Direction]:
    if wrong := [name for name in objectives if not name.startswith("val/")]:
        raise ValueError(f"{wrong[0]} is not of held-out images; a search goes by val/accuracy or another val/* metric")
    if len(objectives) > MOST:
        raise ValueError(f"came {len(objectives)} objectives; at most {MOST} would do")
    return objectives


Objectives = Annotated[dict[Text, Direction], Field(min_length=1), AfterValidator(_of_held_out_images)]


class Confirm(Settings):
    """The best points once more, with seeds that have chosen nothing: what is chosen by a number is better by it than
    it is."""

    points: Count  # how many; with two objectives those of the front that dominate most
    seeds: Count  # how many: the first that the search itself does not use

    def those(self, used: Collection[int]) -> tuple[int, ...]:
        """Its seeds, where the search uses these."""
        return tuple(islice((seed for seed in count() if seed not in used), self.seeds))


class Search(Settings):
    """What is proposed, by whom, and what for."""

    trials: Count  # proposals, the grid's among them; with more of them a search goes on
    objectives: Objectives  # one or two metrics of held-out images: max or min
    sampler: Sampler
    lag: Count  # proposal n is made by what is known of 0 to n - lag: so many are under way at a time
    space: Annotated[dict[Text, Distribution], Field(min_length=1)]  # axes by name, each a `$name`
    seeds: Seeds | None = None  # a proposal is so many runs, its value their mean; None: the sweep's own
    seed: Whole = 0  # another one is another search
    teachers: Literal["many"] | None = None  # a continuous axis of the teacher's: a pool for each proposal
    confirm: Confirm | None = None
