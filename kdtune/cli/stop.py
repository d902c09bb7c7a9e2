"""`kdtune stop results/fickle 3f2a`: runs are stopped by hand, wherever they are trained. See `store.stopping`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from kdtune.cli.place import Target, Where, located
from kdtune.cli.refused import status_of
from kdtune.report.table import TableError
from kdtune.store.standing import Standing
from kdtune.store.stopping import stop


@dataclass(frozen=True)
class Asked(Where):
    """Which runs, of which sweep; `runs` or `only` says which."""

    runs: tuple[str, ...] = ()  # ids, the beginnings of ids, names
    only: str | None = None
    reason: str = ""


def stop_runs(asked: Asked) -> int:
    """The whole command; returns its exit status."""
    return status_of(lambda: _stop(asked), OSError)


def _stop(asked: Asked) -> int:
    if bool(asked.runs) == bool(asked.only):
        raise TableError("which runs? Their ids or names, or --only axis=value: one of them")
    place = located(asked)
    for line in stopped(asked, place, chosen(asked, place)):
        click.echo(line)
    return 0


def chosen(asked: Asked, place: Target) -> list[str]:
    """The ids of the runs that are named. TableError, SweepFileError where there are none."""
    if asked.only is None:
        ids = place.meant(asked.runs)
        if unknown := [id for id in ids if not place.knows(id)]:
            where = place.store.objects.path("")
            raise TableError(f"neither {where} nor a sweep has a run {', '.join(unknown)}; `kdtune table` lists ids")
        return ids
    if place.plan is None:
        raise TableError(f"{asked.place} is neither a sweep's folder nor its file: here runs have ids and names alone")
    return place.matching(place.plan, asked.only)


def stopped(asked: Asked, place: Target, ids: list[str]) -> Iterator[str]:
    """Stops the runs; what becomes of each in a line, then how they go on. Of finished runs nothing changes."""
    standing = Standing(place.store)
    standing.refresh(*ids)
    mine = 0
    for id in ids:
        look = standing.look(id)
        if look.done is not None:
            yield f"{place.name(id)}: finished ({look.done.outcome}), nothing changes"
            continue
        if look.stop is not None:
            yield f"{place.name(id)}: already stopped {look.stop}"
        else:
            stop(place.store.objects, id, asked.reason)
            yield f"{place.name(id)}: stopped; {_what_now(place.store.owner(id))}"
        mine += 1
    if mine:
        yield f"runs that learn from {'it' if mine == 1 else 'them'} are skipped, in every sweep"
        yield f"go on: {place.command}, with --retry"


def _what_now(owner: Mapping[str, Any] | None) -> str:
    if owner is None:
        return "nobody trains it now, and nobody will start"
    return f"process {owner.get('pid')} on {owner.get('host')} ends it when its epoch is over"
