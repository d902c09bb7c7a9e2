"""`kdtune bundle results/fickle fickle.tar` and `kdtune import fickle.tar`: a finished sweep is handed on."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

from kdtune import paths
from kdtune.cli.refused import Refused, status_of
from kdtune.report.mirror import results_of
from kdtune.report.summary import counted, typed
from kdtune.report.table import TableError, plan_of, profile_folder
from kdtune.store.bundle import Bundle
from kdtune.store.bundling import contents, refuse_taken, write
from kdtune.store.importing import Folder, Lacking, lacking, take_in
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.store.tar import BundleError


def write_bundle(folder: str, output: Path, profile: str | None) -> int:
    """The whole command; returns its exit status."""
    return _status(lambda: _write_bundle(folder, output, profile))


def _write_bundle(folder: str, output: Path, profile: str | None) -> int:
    place = profile_folder(folder, profile)
    plan = plan_of(place)
    refuse_taken(output)
    store = Store(results_of(place))
    held = contents(store.objects, place.parent.name, place.name, (run["id"] for run in plan["runs"]))
    if not held.runs:
        raise Refused(f"none of the {len(held.left)} runs of {place} is finished: there is nothing to hand on")
    digest = write(store.objects, held, output)
    click.echo(f"{plan['sweep']} on {plan['dataset']}, profile {plan['profile']}: {counted(len(held.runs))}")
    if held.left:
        states = Counter(Standing(store).states(held.left).values())
        how = ", ".join(f"{count} {state}" for state, count in states.items())
        click.echo(f"  without {counted(len(held.left))} of its plan, not finished: {how}")
    size = output.stat().st_size / 2**20
    click.echo(f"wrote {output}: {len(held.files)} files, {size:,.1f} MiB, manifest {digest[:12]}")
    return 0


def import_bundle(path: Path, results: str | None) -> int:
    """The whole command; returns its exit status."""
    return _status(lambda: _import_bundle(path, results))


def _import_bundle(path: Path, results: str | None) -> int:
    if not path.is_file():  # a pipe would be waited for
        raise TableError(f"{path}: there is no such file; `kdtune bundle FOLDER FILE` writes one")
    store = Store(paths.results_folder(results))
    store.objects.knock()
    with path.open("rb") as file:
        try:
            bundle = Bundle(file)
        except BundleError as error:
            raise BundleError(f"{path} is not taken in: {error}; nothing was written") from error
        lacks = lacking(bundle, store)
        became = take_in(bundle, store, lacks, paths.absolute(path))
    for line in told(bundle, lacks, became, store):
        click.echo(line)
    return 0


def told(bundle: Bundle, lacks: Lacking, became: Folder, store: Store) -> list[str]:
    """What was in the bundle, what of it was new, and what became of the sweep's folder."""
    objects = store.objects
    new, filled = len(lacks.runs), sum(map(len, lacks.evaluations.values()))
    proposed = len(lacks.proposals)
    lines = [f"{bundle.sweep}, profile {bundle.profile}, manifest {bundle.digest[:12]}: {counted(len(bundle.runs))}"]
    there = len(bundle.runs) - new
    if new or filled:
        same = f", {there} there already with the same weights" if there else ""
        added = f", {filled} of their evaluations added" if filled else ""
        lines.append(f"  {new} new in {objects.path('runs')}{same}{added}")
    elif became is not Folder.WRITTEN and not proposed:
        lines.append(f"  everything is there already, in {objects.path('runs')}")
    if proposed:
        lines.append(f"  {proposed} proposals of search {bundle.search} new")
    if lacks.others:
        numbers = ", ".join(map(str, lacks.others))
        lines.append(f"  others are there as proposals {numbers} of search {bundle.search}, and stay as they are")
    local, folder = objects.local, objects.path(bundle.folder)
    where = shlex.quote(objects.uri(bundle.folder)) if local is None else typed(local / bundle.folder)
    if became is Folder.LEFT:
        lines.append(f"  {folder} is there already, and stays as it is: the sweep's own command shows these runs in it")
    elif became is Folder.CLAIMED:
        lines.append(f"  a command works on {folder}, and its table will show these runs")
    elif became is Folder.WRITTEN:
        lines.append(f"  its table is in {folder}")
    return [*lines, f"look at it    kdtune status {where}"]


def _status(command: Callable[[], int]) -> int:
    return status_of(command, BundleError, OSError)
