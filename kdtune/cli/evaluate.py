"""`kdtune evaluate results/fickle --evaluation pgd`: finished runs measured by something new; nothing is trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdtune import extensions
from kdtune.cli import check
from kdtune.cli.console import losable_output
from kdtune.cli.options import Options
from kdtune.cli.refused import Refused, status_of
from kdtune.cli.sweep import sweep
from kdtune.data.error import DataError
from kdtune.evaluation.evaluation import in_the_end, told_apart
from kdtune.evaluation.evaluator import Evaluator
from kdtune.planning.plan import Plan
from kdtune.planning.searching import Searching, known_plan
from kdtune.report.folder import View, confirming
from kdtune.report.late import Late, kept, together
from kdtune.report.mirror import results_of
from kdtune.report.summary import near
from kdtune.report.table import TableError, plan_of, profile_folder
from kdtune.store.done import DamagedError
from kdtune.store.layout import BESIDE, WEIGHTS
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep
from kdtune.sweepfile.overrides import typed
from kdtune.sweepfile.reader import parse_value
from kdtune.sweepfile.tree import COMMAND_LINE
from kdtune.sweepfile.values import grown


def evaluate_late(folder: str | Path, profile: str | None, evaluation: str, **flags: Any) -> int:
    """Measures the finished runs of a sweep's folder and renews its table; returns the exit status.

    `evaluation` is an evaluator as a sweep file writes it: `pgd`, or `{pgd: {eps: [0.1], step: 0.01}}`. It is added to
    what the folder has: where its metrics would have the names of another's, they say in what it differs.
    """
    with losable_output("the evaluation"):
        return status_of(lambda: _evaluate(profile_folder(folder, profile), evaluation, flags), OSError)


def _evaluate(place: Path, evaluation: str, flags: Mapping[str, Any]) -> int:
    extensions.use(extensions.read(flags.get("extensions", ())))
    found = finished_plan(place, evaluation, flags.get("data"))
    whole, standing, late = found.plan, found.standing, found.late
    plan = whole.of([id for id in whole.runs if standing.look(id).done is not None])
    if not plan.runs:
        raise Refused(f"{standing.store.objects.path('runs')} has no finished run of {place}: nothing to measure")
    options = Options(file=place / "sweep.yaml", results=results_of(place), **flags)
    if damaged := unreadable(plan, standing):
        raise Refused(check.listed(damaged))
    measured = {each.hash for each in late}
    own = tuple(each for each in whole.evaluation if each.hash not in measured)
    shown = replace(whole, evaluation=own)
    view = View(standing, shown, label=place.name, measured_late=late, search=found.search)
    return sweep(options, found.file, plan, view, lambda value: None, again(place, evaluation, options))


def unreadable(plan: Plan, standing: Standing) -> list[str]:
    """Of the runs that are to be measured those whose weights are not as they were written: they would be trained."""
    found = []
    for id in plan.runs:
        look = standing.look(id)
        if look.done is None or WEIGHTS not in look.done.files:
            continue
        lacking = {*look.missing(standing.evaluators)}
        if not lacking:
            continue
        beside = {BESIDE[which] for each in plan.evaluation if each.hash in lacking for which in each.weights}
        for name in (WEIGHTS, *sorted(beside & look.done.files.keys())):
            try:
                standing.store.file(id, look.done, name)
            except DamagedError as error:
                found.append(f"{plan.runs[id].name}: {error}")
    return found


def again(place: Path, evaluation: str, options: Options) -> str:
    """The command that does this again. Not the sweep's own, which does not ask for this evaluator."""
    words = ["kdtune", "evaluate", str(near(place)), "--evaluation", evaluation]
    words += [word for path in options.extensions for word in ("--with", path)]
    words += ["--data", options.data] if options.data else []
    words += ["--address", options.address] if options.address else []
    return shlex.join(words + (["--here"] if options.here else []))


@dataclass(frozen=True)
class Finished:
    """A folder's own sweep; its plan with the evaluator that is asked for, how its runs stand, and what was measured
    late: before, which is left as it is, and now."""

    file: SweepFile
    plan: Plan
    standing: Standing
    late: list[Late]
    search: Searching | None


def finished_plan(place: Path, evaluation: str, data: str | None) -> Finished:
    """What lies there, as `kdtune evaluate` needs it."""
    from kdtune import paths

    about = plan_of(place)
    before = load_sweep(place / "sweep.yaml", folder=about["folder"], max_runs=None)
    own = in_the_end((before.points or before.ends)[0].sweep.evaluation)
    asked = typed(parse_value(evaluation, COMMAND_LINE, ("evaluation",)))  # paths in it: relative to where it is typed
    known = kept(about)
    entries = grown([*before.tree["evaluation"], *_beside(own, known, asked)])
    override = ("evaluation", entries)
    file = load_sweep(place / "sweep.yaml", overrides=[override], folder=about["folder"], max_runs=None)
    file = replace(file, origin=about.get("file"), tree=before.tree)
    store = Store(results_of(place))
    found, search = known_plan(file, paths.data_folder(data), store, [each.hash for each in own])
    plan = replace(found, profile=about["profile"])
    _refuse_unchosen(place, about, plan, search)
    _refuse_others(place, {run["id"] for run in about["runs"]}, set(plan.runs))
    standing = Standing(store, plan.evaluators)
    standing.preload(plan.runs)
    now = [Late.of(each) for each in plan.evaluation if each not in own]
    return Finished(file, plan, standing, together(known, now), search)


def _beside(own: Sequence[Evaluator], late: Sequence[Late], asked: Any) -> list[Any]:
    """The entry that stands beside the sweep's own, told apart from these and from what was measured late before; none
    where it is one of them."""
    known: list[Evaluator] = []
    for each in late:
        known.append(told_apart(each.evaluator, [*own, *known]))
    try:
        wanted = told_apart(Evaluator.model_validate(asked), [*own, *known])
    except (DataError, ValidationError):  # told with its place when the whole is read
        return [asked]
    if wanted.every is not None:
        raise Refused("every measures while runs train, and these are finished; remove it")
    return [] if wanted in own else [wanted.dumped()]


def _refuse_unchosen(place: Path, about: Mapping[str, Any], plan: Plan, search: Searching | None) -> None:
    """Raises TableError where the folder has runs that confirm what its search chose, and now it has not chosen: their
    rows would be lost."""
    if search is not None and not search.complete and (lost := confirming(about) - plan.runs.keys()):
        raise TableError(
            f"{place}: {search.progress}, as runs or records of it are gone, so that nobody knows which of its choices "
            f"{len(lost)} of the table's runs confirm. Nothing was measured, the table is as it was; the sweep's own "
            "command goes on with the search"
        )


def _refuse_others(place: Path, known: set[str], now: set[str]) -> None:
    """Raises TableError where the folder's runs are not those of its sweep any more: their table would be lost."""
    if lost := known - now:
        raise TableError(
            f"{place}: {len(lost)} of its {len(known)} runs are other runs by now, as images, labels, weights or "
            "classes in files, or kdtune's way of computing (RECIPE_VERSION, see CHANGELOG), changed. Nothing was "
            "measured, the table is as it was; the sweep's own command makes the new runs, in this folder"
        )
