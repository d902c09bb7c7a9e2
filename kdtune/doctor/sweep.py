"""What a sweep would meet on this machine: data that are not those published, a disk too small, networks that fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from kdtune.data.error import DataError
from kdtune.doctor.finding import Finding, failure, ok
from kdtune.planning.plan import Plan, data_sets
from kdtune.planning.room import shortage
from kdtune.store.standing import Standing
from kdtune.store.state import State


def data(plan: Plan, data_dir: Path) -> Iterator[Finding]:
    """Every data set of a plan, read and held against its digest; one that is missing is downloaded first. Those that a
    generator draws are many and alike, so that what is said of them is said once."""
    from kdtune.data.loading import load

    digests: dict[str, dict[str, None]] = {}
    for run in data_sets(plan.runs):
        try:
            found = load(run.dataset, data_dir, "cpu", run.content)
        except DataError as error:
            yield failure(str(error))
            continue
        held_out = f", {len(found.validation):,} held out" if found.validation else ""
        sizes = f"{len(found.train):,} training images{held_out}, {len(found.test):,} test images"
        words = f"{found.title} is what it should be: {sizes}"
        digests.setdefault(words, {})[str(run.content.get("digest"))] = None
    for words, known in digests.items():
        first, *more = known
        yield ok(f"{words}, digest {first}" + (f"; so are {len(more)} more sets of that kind" if more else ""))


def room(plan: Plan, states: Mapping[str, State], standing: Standing, at_once: int) -> Iterator[Finding]:
    """The disk against what is left of a plan, `at_once` runs at a time."""
    short = shortage(plan, states, standing, at_once)
    yield failure(short) if short else ok(f"there is room for what is left of {plan.name}")
