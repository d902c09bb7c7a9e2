"""`kdtune evaluate results/fickle --evaluation pgd`: finished runs measured by something new; nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from kdtune.cli.sweep import Options, Refused, sweep
from kdtune.data.files import DataError
from kdtune.evaluation.evaluator import EvaluationError, Evaluator
from kdtune.planning.plan import Plan, build_plan
from kdtune.report.folder import View
from kdtune.report.table import TableError, profile_folder
from kdtune.store.objects import StorageError
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep
from kdtune.sweepfile.reader import parse_value
from kdtune.sweepfile.tree import COMMAND_LINE, SweepFileError


def evaluate_late(folder: Path, profile: str | None, evaluation: str, **flags: Any) -> int:
    """Measures the finished runs of a sweep's folder and renews its table; returns the exit status.

    `evaluation` is an evaluator as a sweep file writes it: `pgd`, or `{pgd: {eps: [0.1], step: 0.01}}`. It stands for
    the one that wrote the same metrics, if the sweep had one.
    """
    try:
        place = profile_folder(folder, profile)
        file, plan, standing = finished_plan(place, evaluation, flags.get("data"))
        options = Options(file=place / "sweep.yaml", results=str(place.parent.parent), **flags)
        view = View(standing, plan, label=place.name)
        return sweep(options, file, plan, view, lambda value: None)
    except (SweepFileError, TableError) as error:
        click.echo(str(error), err=True)
        return 2
    except (DataError, StorageError, EvaluationError, Refused, OSError) as error:
        click.echo(f"refused: {error}", err=True)
        return 4


def finished_plan(place: Path, evaluation: str, data: str | None) -> tuple[SweepFile, Plan, Standing]:
    """The folder's own sweep with the evaluation changed, and its plan with the finished runs alone; how they stand."""
    from kdtune import paths

    about = json.loads((place / "plan.json").read_bytes())
    before = load_sweep(place / "sweep.yaml", folder=about["folder"])
    asked = parse_value(evaluation, COMMAND_LINE, ("evaluation",))
    kept = [entry for entry in before.tree["evaluation"] if _writes(entry) != _writes(asked)]
    override = f"evaluation={json.dumps([*kept, asked])}"
    file = load_sweep(place / "sweep.yaml", overrides=[override], folder=about["folder"])
    plan = replace(build_plan(file, paths.data_folder(data)), profile=about["profile"])
    _refuse_others(place, {run["id"] for run in about["runs"]}, set(plan.runs))
    standing = Standing(Store(place.parent.parent), plan.evaluators)
    standing.preload(plan.runs)
    runs = {id: planned for id, planned in plan.runs.items() if standing.look(id).done is not None}
    return file, replace(plan, runs=runs), standing


def _refuse_others(place: Path, known: set[str], now: set[str]) -> None:
    """Raises TableError where the folder's runs are not those of its sweep any more: their table would be lost."""
    if lost := known - now:
        raise TableError(
            f"{place}: {len(lost)} of its {len(known)} runs are other runs by now, as the images or kdtune's way of "
            "computing (RECIPE_VERSION, see CHANGELOG) have changed. Nothing was measured and the table is as it was; "
            "the sweep's own command makes the new runs, in this folder"
        )


def _writes(entry: Any) -> str:
    """What an entry's metrics begin with; of one that is wrong, which is told when the whole is read, itself."""
    try:
        return Evaluator.model_validate(entry).writes_under
    except ValidationError:
        return repr(entry)
