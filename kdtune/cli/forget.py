"""`kdtune forget results/fickle 3f2a...`: finished runs are taken away, so that they are done again.

With a run go all that learned from it, at every level and in every sweep. Nothing is deleted: see `store.forgetting`.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import click

from kdtune import paths
from kdtune.cli.options import Options
from kdtune.cli.refused import Refused, status_of
from kdtune.cli.run import wanted
from kdtune.cli.sweep import again, read
from kdtune.evaluation.evaluator import Evaluator
from kdtune.planning.plan import Plan, build_plan
from kdtune.report import late
from kdtune.report.folder import View
from kdtune.report.mirror import results_of
from kdtune.report.outdated import outdated
from kdtune.report.table import TableError, plan_of, profile_folder
from kdtune.store.forgetting import Lineage, evaluations_of, forget, forget_evaluations
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep
from kdtune.sweepfile.tree import COMMAND_LINE, Problem, SweepFileError


@dataclass(frozen=True)
class Asked:
    """Which runs, of which sweep; one of `ids`, `only`, `outdated` says which."""

    place: str  # a sweep's folder, its file, or the folder (or URI) of all results, which knows runs by id alone
    ids: tuple[str, ...] = ()
    only: str | None = None
    outdated: bool = False
    evaluation: str | None = None  # only what this evaluator has measured of them
    profile: str | None = None
    results: str | None = None
    data: str | None = None
    dry_run: bool = False
    yes: bool = False


@dataclass(frozen=True)
class Target:
    """Where `Asked` points: a store, all its runs, and the sweep, None where a place knows runs by id alone."""

    store: Store
    lineage: Lineage
    plan: Plan | None
    command: str  # that does the runs again
    late: Mapping[str, Evaluator] = field(default_factory=dict)  # by hash: what `kdtune evaluate` has measured
    earlier: tuple[str, ...] = ()  # the runs of the folder's last command
    folder: tuple[View, SweepFile] | None = None  # whose table shows them

    def name(self, id: str) -> str:
        if self.plan is not None and id in self.plan.runs:
            return f"{self.plan.runs[id].name}  {id}"
        return f"{self.lineage.name(id)}  {id}"


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
    if place.folder is not None and not asked.dry_run:
        shown_no_more(*place.folder)
    return 0


def shown_no_more(view: View, file: SweepFile) -> None:
    """The folder's table, without what is gone. Left to a command that works on it now."""
    if (claim := view.standing.store.claim(f"sweep/{view.key}")) is not None:
        with claim:
            view.write(file, view.whole({}))


def located(asked: Asked) -> Target:
    """Raises TableError, SweepFileError, DataError, StorageError."""
    path, measured, earlier, shown = Path(asked.place), {}, (), None
    if (path / "runs").is_dir() or ("://" in asked.place and not is_of_a_sweep(asked)):
        store = Store(asked.place)
        return Target(store, Lineage(store.objects), None, "the command of each sweep that has them")
    if path.is_file():
        address = os.environ.get("RAY_ADDRESS")  # as the sweep's own command has it: it decides on the profile
        options = Options(path, profile=asked.profile, results=asked.results, data=asked.data, address=address)
        file, _ = read(options)
        plan = build_plan(file, options.data_dir)
        store, command = Store(paths.results_folder(asked.results)), again(options)
    else:
        folder = profile_folder(asked.place, asked.profile)
        about = plan_of(folder)
        file = load_sweep(folder / "sweep.yaml", folder=about["folder"], max_runs=None)
        plan = build_plan(file, paths.data_folder(asked.data))
        store, command = Store(results_of(folder)), "the sweep's own command"
        measured = late.shown(late.kept(about), plan)
        earlier = tuple(run["id"] for run in about["runs"])
        view = View(Standing(store, plan.evaluators), plan, label=folder.name, measured_late=late.kept(about))
        shown = (view, replace(file, origin=about.get("file"))) if set(earlier) == set(plan.runs) else None
    lineage = Lineage(store.objects)
    # The plan knows as much, should a run.yaml be damaged.
    lineage.parents |= {id: set(planned.waits_for) for id, planned in plan.runs.items() if id in lineage.runs}
    return Target(store, lineage, plan, command, measured, earlier, shown)


def is_of_a_sweep(asked: Asked) -> bool:
    """Whether a URI is that of a sweep's folder; else it is that of all results."""
    try:
        profile_folder(asked.place, asked.profile)
    except TableError:
        return False
    return True


def chosen(asked: Asked, place: Target) -> tuple[list[str], dict[str, list[str]]]:
    """Runs to be trained again, and the keys of results to be measured again by run. TableError where nothing is."""
    store, plan, known = place.store, place.plan, place.lineage.runs
    measured: list[tuple[str, str]] = []  # run, evaluator
    if asked.ids:
        if unknown := [id for id in asked.ids if id not in known]:
            raise TableError(f"{store.objects.path('runs')} has no run {', '.join(unknown)}; `kdtune table` lists ids")
        ids = [*dict.fromkeys(asked.ids)]
    elif plan is None:
        raise TableError(f"{asked.place} is neither a sweep's folder nor its file: here runs have ids alone")
    elif asked.only is not None:
        asked_for = dict.fromkeys(found.id for found in plan.matching(wanted(asked.only, plan)))
        if not asked_for:
            message = f"no run has {asked.only}; kdtune table lists what they have"
            raise SweepFileError([Problem(COMMAND_LINE, None, ("only",), message)])
        ids = [id for id in asked_for if id in known]
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
                f". {len(others)} runs of the folder's table are of other images, labels or weights than its sweep has "
                f"by now: they can be named by their ids, {some}"
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
    counts = [f"{_runs(len(family))}{because}"] if family else []
    counts += [f"results of {_runs(len(results))}"] if results else []
    said = " and ".join(counts)
    if asked.dry_run:
        yield f"would be forgotten: {said}"
        return
    question = f"With {_runs(len(runs))} go {learners} that learned from them."
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
        entry = shlex.quote(json.dumps(each.dumped()))
        yield f"and what was measured late: kdtune evaluate {shlex.quote(asked.place)} --evaluation {entry}"


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
