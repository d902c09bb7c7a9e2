"""One run as a Ray Tune trainable: kdtune's own, and one for a Tuner of the user's own.

tune.Tuner(
    kdtune.trainable("sweeps/fickle.yaml", profile="laptop"),
    param_space={"dropout": tune.grid_search([0.0, 0.2]), "epochs": 40, "seed": tune.grid_search([0, 1])},
).fit()
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtune.config import Run
from kdtune.evaluation.evaluation import Evaluation
from kdtune.paths import data_folder, results_folder
from kdtune.planning.plan import Plan, PlannedRun, build_plan
from kdtune.sweepfile.load import PAPER, load_sweep

REPORT_EVERY_S = 0.5  # a report makes a run wait for the driver: tens of milliseconds, more than many an epoch


def job(planned: PlannedRun, plan: Plan, results: str, data_dir: Path, checkpoint_every: float) -> dict[str, Any]:
    """What a trial must know, as plain values that travel to any node."""
    return {
        "id": planned.id,
        "name": planned.name,
        "role": planned.role,
        "run": planned.run.model_dump_json(),  # as text: Tune may not reorder it, and knobs of a point have an order
        "evaluation": TypeAdapter(Evaluation).dump_json(plan.evaluation).decode(),
        "results": results,
        "data_dir": str(data_dir),
        "checkpoint_every": checkpoint_every,
    }


def trial(config: Mapping[str, Any]) -> None:
    """Tune's function of one run. Ends normally whatever becomes of the run: the last report says what did."""
    from ray import tune

    from kdtune.store.store import Store
    from kdtune.training.run import RunContext, perform

    kept: list[dict[str, float]] = []  # rows that the driver has not heard of yet
    epochs = 0
    last = time.monotonic()

    def report(history: list[dict[str, float]]) -> None:
        nonlocal epochs, last
        kept.extend(history[epochs:])
        epochs = len(history)
        if time.monotonic() - last >= REPORT_EVERY_S:
            tune.report({"id": config["id"], "rows": [*kept]})
            kept.clear()
            last = time.monotonic()

    device, threads = assigned()
    context = RunContext(
        Store(config["results"]), Path(config["data_dir"]), device, threads, config["checkpoint_every"], report
    )
    evaluation = TypeAdapter(Evaluation).validate_python(json.loads(config["evaluation"]))
    outcome = perform(Run.model_validate(json.loads(config["run"])), evaluation, context)
    tune.report({"id": config["id"], "rows": kept, "ended": str(outcome.state), "error": outcome.traceback})


def assigned() -> tuple[str, int]:
    """The device and the number of CPU threads that Ray gave to this trial."""
    import ray
    import torch

    resources = ray.get_runtime_context().get_assigned_resources()
    device = "cuda" if resources.get("GPU") and torch.cuda.is_available() else "cpu"
    return device, max(1, int(resources.get("CPU", 1)))


def trainable(
    file: str | Path,
    profile: str | None = None,
    results: str | None = None,
    data: str | None = None,
) -> Callable[[Mapping[str, Any]], None]:
    """A sweep file's student as a Tune function. Its config sets the file's `$names` and `seed` (default 0).

    It resolves to the same run ids as the sweep itself: what the store has is taken, missing teachers are trained first
    under their claims. Reports a history row an epoch (`val/accuracy` with a hold-out) and, last, all metrics.
    `profile` defaults to `paper`. Raises SweepFileError for a file, a name or a value that is wrong.
    """
    path, profile = Path(file).resolve(), profile or PAPER
    load_sweep(path, profile)  # a wrong file is refused here and not in every trial
    where = results_folder(results), data_folder(data)

    def one_student(config: Mapping[str, Any]) -> None:
        values = {name: value for name, value in config.items() if name != "seed"}
        point = load_sweep(path, profile, [f"seeds=[{config.get('seed', 0)}]"], at=values)
        _perform_with_teachers(build_plan(point, where[1]), *where)

    return one_student


def _perform_with_teachers(plan: Plan, results: str, data_dir: Path) -> None:
    """All runs of a plan of one student, the student last and the only one reported."""
    from ray import tune

    from kdtune.planning.dispatch import Dispatch
    from kdtune.store.standing import Standing
    from kdtune.store.state import FINISHED
    from kdtune.store.store import Store
    from kdtune.training.run import RunContext, perform

    standing = Standing(Store(results), plan.evaluators)
    standing.refresh(*plan.runs)  # a few of maybe thousands: a listing of all would cost each trial seconds
    device, threads = assigned()
    student = next(id for id, planned in plan.runs.items() if planned.role == "student")
    dispatch = Dispatch(plan, standing)
    told = 0

    def report(history: list[dict[str, float]]) -> None:
        nonlocal told
        for row in history[told:]:
            tune.report(numbers(row))
        told = len(history)

    while not dispatch.over:
        if (planned := dispatch.next()) is None:
            time.sleep(1.0)  # a teacher is being trained elsewhere
            continue
        listening = report if planned.id == student else lambda history: None
        context = RunContext(standing.store, data_dir, device, threads, report=listening)
        outcome = perform(planned.run, plan.evaluation, context)
        dispatch.ended(planned.id, outcome.traceback)
    if dispatch.states[student] not in FINISHED:
        raise RuntimeError(f"{plan.runs[student].name}: {dispatch.reasons.get(student, dispatch.states[student])}")
    metrics: dict[str, Any] = {"run_id": student, "state": str(dispatch.states[student])}
    for row in standing.look(student).history[-1:]:
        metrics |= numbers(row)
    tune.report(metrics | standing.measured(student))


def numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """A history row as Tune takes it, without what is not a number (null)."""
    return {name: value for name, value in row.items() if value is not None}
