"""`kdtune clean results`: runs to which nothing refers go to the trash. See `store.unreferred`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import click

from kdtune.cli.refused import Refused, status_of
from kdtune.planning.cost import duration
from kdtune.report.lookup import store_of
from kdtune.report.summary import counted
from kdtune.report.table import TableError
from kdtune.store.forgetting import forget
from kdtune.store.store import Store
from kdtune.store.unreferred import UnknownReference, Unreferred, unreferred


def clean(results: str, yes: bool) -> int:
    """Lists the runs of these results to which nothing refers, and with `yes` moves them; returns the exit status."""
    return status_of(lambda: _clean(_store(results), yes), OSError)


def _store(results: str) -> Store:
    """TableError for a part of the results, in which nothing refers to the rest, and for a file."""
    if not (Path(results) / "runs").is_dir() and (whole := store_of(results)) != results:
        raise TableError(f"{results} is the folder of a sweep; runs are those of all results: kdtune clean {whole}")
    if Path(results).is_file():
        raise TableError(f"{results} is a file; runs are those of all results: kdtune clean results")
    if "://" not in results and not Path(results).is_dir():
        raise TableError(f"{results}: there is no such folder")
    return Store(results)


def _clean(store: Store, yes: bool) -> int:
    store.objects.knock()
    try:
        found = unreferred(store.objects, store.claims)
    except UnknownReference as unknown:
        raise Refused(f"{unknown}; nothing was moved") from unknown
    for line in listed(found, time.time()):
        click.echo(line)
    if not found.runs:
        every = "it has no runs" if not found.lineage.runs else "something refers to each run, or it changed just now"
        click.echo(f"nothing to clean in {store.objects.path('')}: {every}")
        return 0
    if yes:
        trash = store.objects.path(forget(store.objects, found.runs))
        words = ["cp", "-rn", f"{trash}/.", f"{store.objects.path('runs')}/"]
        undone = f"; {shlex.join(words)} brings them back" if store.objects.local is not None else ""
        click.echo(f"moved to {trash}, kept there until you delete that{undone}")
    else:
        click.echo(f"nothing was moved: --yes moves them to {store.objects.path('runs/trash')}")
    return 0


def listed(found: Unreferred, now: float) -> Iterator[str]:
    """The runs with size and age, their sum, and what is left alone."""
    for id in found.runs:
        age = duration(max(0.0, now - found.changed[id]))
        yield f"{found.lineage.name(id)}  {id}  {_size(found.sizes[id])}, last written {age} ago"
    if found.runs:
        total = _size(sum(found.sizes[id] for id in found.runs))
        yield f"{counted(len(found.runs))} to which no sweep's folder refers, {total}"
    if found.recent:
        yield f"{counted(len(found.recent))} more changed within the last hour and stay: a sweep may be about to begin"
    if found.responses:
        yield (
            f"stored answers of teachers stay too ({_size(found.responses)}), for they do not tell whose they are: "
            "delete runs/responses, and what is needed is computed again"
        )


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
