"""`kdtune forget results/fickle 3f2a...`: finished runs are taken away, so that they are done again.

With a run go all that learned from it, at every level and in every sweep. Nothing is deleted: see `store.forgetting`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import click

from kdtune.cli.place import Target, Where, located
from kdtune.cli.refused import Refused, status_of
from kdtune.cli.sweep import leave_report
from kdtune.data.error import DataError
from kdtune.extensions import ExtensionError
from kdtune.planning.dispatch import Dispatch
from kdtune.report.folder import View
from kdtune.report.lookup import folders_of
from kdtune.report.observer import TensorBoard
from kdtune.report.outdated import outdated
from kdtune.report.summary import counted
from kdtune.report.table import TableError
from kdtune.store.forgetting import evaluations_of, forget, forget_evaluations
from kdtune.store.standing import Standing
from kdtune.sweepfile.load import SweepFile
from kdtune.sweepfile.tree import SweepFileError


@dataclass(frozen=True)
class Asked(Where):
    """Which runs, of which sweep; one of `ids`, `only`, `outdated` says which."""

    ids: tuple[str, ...] = ()  # or the beginnings of ids, or names
    only: str | None = None
    outdated: bool = False
    evaluation: str | None = None  # only what this evaluator has measured of them
    dry_run: bool = False
    yes: bool = False


def forget_runs(asked: Asked) -> int:
    """The whole command; returns its exit status."""
    return status_of(lambda: _forget(asked), OSError)


def _forget(asked: Asked) -> int:
    if sum(map(bool, (asked.ids, asked.only, asked.outdated))) != 1:
        raise TableError("which runs? Their ids, or --only axis=value, or --outdated: one of them")
    place = located(asked)
    runs, results = chosen(asked, place)
    family = place.lineage.with_learners(runs)
    if claimed := [id for id in {*family, *results} if place.store.owner(id) is not None]:
        raise Refused(f"a command works on {', '.join(map(place.name, claimed))} now; nothing was moved")
    for line in take_away(asked, place, runs, family, results):
        click.echo(line)
    for line in () if asked.dry_run else shown_no_more(asked, place, {*family, *results}):
        click.echo(line)
    return 0


def shown_no_more(asked: Asked, place: Target, gone: set[str]) -> Iterator[str]:
    """Table, page and TensorBoard's files of all sweeps that have these runs, written anew; a line for each that shows
    them still."""
    objects = place.store.objects
    for key in folders_of(gone, objects):
        sweep, profile = key.split("/")
        try:
            found = located(replace(asked, place=objects.uri(sweep), profile=profile)).folder
        except (TableError, SweepFileError, DataError, ExtensionError):
            found = None
        if found is None:
            yield f"{objects.path(key)} shows them still; its sweep's own command writes its table anew"
        else:
            _written(*found)
            yield from found[0].hidden()


def _written(view: View, file: SweepFile) -> None:
    """Left to a command that works on it now."""
    if (claim := view.standing.store.claim(f"sweep/{view.key}")) is not None:
        with claim:
            view.write(file, view.whole({}))
            if (view.local / "tensorboard").is_dir():
                TensorBoard(Dispatch(view.plan, view.standing), view).close()
            if (view.local / "report.html").is_file():
                leave_report(view)


def chosen(asked: Asked, place: Target) -> tuple[list[str], dict[str, list[str]]]:
    """Runs to be trained again, and the keys of results to be measured again by run. TableError where nothing is."""
    store, plan, known = place.store, place.plan, place.lineage.runs
    measured: list[tuple[str, str]] = []  # run, evaluator
    if asked.ids:
        ids = place.meant(asked.ids)
        if unknown := [id for id in ids if id not in known]:
            raise TableError(f"{store.objects.path('runs')} has no run {', '.join(unknown)}; `kdtune table` lists ids")
    elif plan is None:
        raise TableError(f"{asked.place} is neither a sweep's folder nor its file: here runs have ids alone")
    elif asked.only is not None:
        ids = [id for id in place.matching(plan, asked.only) if id in known]
    else:
        evaluators = {each.hash: each for each in plan.evaluation} | {**place.late}
        found = outdated(plan, Standing(store, evaluators), evaluators)
        ids = found.runs
        of = [hash for hash in found.measured if asked.evaluation in (None, evaluators[hash].key, hash)]
        measured = [(id, hash) for hash in of for id in found.measured[hash]]
    if asked.evaluation is not None:
        measured = measured if asked.outdated else [(id, asked.evaluation) for id in ids]
        ids = []
    gone = set(place.lineage.with_learners(ids))
    results: dict[str, list[str]] = {}
    for id, evaluator in measured:
        if id not in gone and (keys := evaluations_of(store.objects, id, evaluator)):
            results.setdefault(id, []).extend(keys)
    if not ids and not results:
        lacking = f"nothing to forget: the store has no such {'results' if asked.evaluation else 'runs'}"
        others = [id for id in place.earlier if id in known and plan is not None and id not in plan.runs]
        if others:
            some = " ".join(others[:5]) + (" ..." if len(others) > 5 else "")
            lacking += (
                f". {len(others)} runs of the folder's table are of other images, labels, weights or classes of "
                f"--with than its sweep has by now: they can be named by their ids, {some}"
            )
        raise TableError(lacking)
    return ids, results


def take_away(
    asked: Asked, place: Target, runs: list[str], family: list[str], results: dict[str, list[str]]
) -> Iterator[str]:
    """What goes, a line each; then how many and where to, or that nothing was moved. Raises Refused."""
    for id in family:
        yield place.name(id) + ("" if id in runs else "  (learned from these)")
    for id, keys in results.items():
        yield f"{place.name(id)}  ({len(keys)} results)"
    learners = len(family) - len(runs)
    because = f" ({learners} that learned from the others)" if learners else ""
    counts = [f"{counted(len(family))}{because}"] if family else []
    counts += [f"results of {counted(len(results))}"] if results else []
    said = " and ".join(counts)
    if asked.dry_run:
        yield f"would be forgotten: {said}"
        return
    question = f"With {counted(len(runs))} go {learners} that learned from them."
    if learners and not asked.yes:
        if not sys.stdin.isatty():
            raise Refused(f"{question} Add --yes; nothing was moved")
        if not click.confirm(f"{question} Go on?", err=True):
            raise Refused("not confirmed; nothing was moved")
    objects = place.store.objects
    gone = {hash for hash in place.late if any(evaluations_of(objects, id, hash) for id in family)}
    trash = [forget(objects, family)] if family else []
    trash += [forget_evaluations(objects, chain.from_iterable(results.values()))] if results else []
    yield f"forgotten: {said}; kept in {' and '.join(map(objects.path, trash))} until you delete that"
    yield f"do them again: {place.command}"
    gone |= {Path(key).name for keys in results.values() for key in keys}
    for each in (evaluator for hash, evaluator in place.late.items() if hash in gone):
        words = ["kdtune", "evaluate", asked.place, *(["--profile", asked.profile] if asked.profile else [])]
        words += ["--evaluation", json.dumps(each.dumped())]
        words += [word for path in asked.extensions for word in ("--with", path)]
        words += ["--data", asked.data] if asked.data else []
        yield f"and what was measured late: {shlex.join(words)}"
