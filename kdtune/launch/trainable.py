"""One run as a Ray Tune trainable: kdtune's own, and one for a Tuner of the user's own.

tune.Tuner(
    kdtune.trainable("sweeps/fickle.yaml", profile="laptop"),
    param_space={"dropout": tune.grid_search([0.0, 0.2]), "epochs": 40, "seed": tune.grid_search([0, 1])},
).fit()
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from kdtune.evaluation.evaluation import Evaluation
from kdtune.extensions import Extension, ExtensionError, in_use, read, use
from kdtune.launch import node, watchdog
from kdtune.launch.causes import broke_gpu, suspect
from kdtune.launch.node import Expected, NoCuda, Unfit
from kdtune.launch.watchdog import Watchdog, end_process, write_down
from kdtune.paths import data_folder, ensure_user, results_folder
from kdtune.planning import profiles
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan, build_plan
from kdtune.run import Run
from kdtune.sweepfile.load import SweepFile, load_sweep
from kdtune.sweepfile.source import Source, read_source

if TYPE_CHECKING:
    from kdtune.planning.dispatch import Dispatch

REPORT_EVERY_S = 0.5  # a report makes a run wait for the driver: tens of milliseconds, more than many an epoch


def job(
    planned: Place,
    plan: Plan,
    results: str,
    data_dir: Path,
    checkpoint_every: float,
    expected: Expected | None = None,
) -> dict[str, Any]:
    """What a trial must know, as plain values that travel to any node; `expected` of a machine of a cluster."""
    return {
        "id": planned.id,
        "name": planned.name,
        "role": planned.role,
        "run": planned.run.model_dump_json(),  # as text: Tune may not reorder it, and knobs of a point have an order
        "evaluation": TypeAdapter(Evaluation).dump_json(plan.evaluation).decode(),
        "results": results,
        "data_dir": str(data_dir),
        "checkpoint_every": checkpoint_every,
        "silence": watchdog.SILENCE_S,
        "captured": True,
        "expected": asdict(expected) if expected else None,
        "extensions": [astuple(each) for each in in_use()],
    }


def trial(config: Mapping[str, Any]) -> None:
    """Tune's function of one run. Its last report says what became of the run, also where it failed."""
    from ray import tune

    ensure_user()
    if reason := unfit(config):
        tune.report({"id": config["id"], "unfit": reason})
        return
    from kdtune.launch.stopping import performed, reason_of
    from kdtune.store.objects import is_gone
    from kdtune.store.store import Store
    from kdtune.training.context import RunContext

    kept: list[dict[str, float]] = []  # rows that the driver has not heard of yet
    epochs = 0
    last = time.monotonic()
    expected = config.get("expected")
    store = Store(config["results"], by=expected["claim"][1] if expected else "")

    def report(history: list[dict[str, float]]) -> None:
        nonlocal epochs, last
        kept.extend(history[epochs:])
        epochs = len(history)
        if time.monotonic() - last >= REPORT_EVERY_S:
            with dog.waiting():
                tune.report({"id": config["id"], "rows": [*kept]})
            kept.clear()
            last = time.monotonic()

    def stuck(what: str, first: bool) -> None:
        if not first:
            end_process(store, config["id"], what)
        write_down(store, config["id"], what)

    device, threads = assigned()
    evaluation = TypeAdapter(Evaluation).validate_python(json.loads(config["evaluation"]))
    run = Run.model_validate(json.loads(config["run"]))
    with Watchdog(stuck, config["silence"]) as dog:
        data_dir, every = Path(config["data_dir"]), config["checkpoint_every"]
        captured = config["captured"]
        context = RunContext(store, data_dir, device, threads, every, report, dog.pulse, captured=captured)
        outcome = performed(run, evaluation, context)
    if outcome.error is not None and broke_gpu(outcome.error):  # which stays with its process, so that must go:
        raise outcome.error  # Tune gives no further run to a process whose trial failed
    tune.report(
        {
            "id": config["id"],
            "rows": kept,
            "ended": str(outcome.state),
            "error": reason_of(outcome),
            "storage": str(outcome.error) if is_gone(outcome.error) else "",
            "host": platform.node(),
        }
    )


def unfit(config: Mapping[str, Any]) -> str:
    """Why this machine cannot train the run of this config; empty where it can. On a cluster all is asked for."""
    try:
        use([Extension(*each) for each in config["extensions"]])
        assigned()
        if expected := config.get("expected"):
            node.check(Expected(**expected), [config["run"]], 0)
    except (ExtensionError, Unfit, NoCuda) as error:
        return str(error)
    return ""


def assigned() -> tuple[str, int]:
    """The device and the number of CPU threads that Ray gave to this trial. Raises NoCuda: never the CPU in silence."""
    import ray

    resources = ray.get_runtime_context().get_assigned_resources()
    device = node.cuda(resources["GPU"]) if resources.get("GPU") else "cpu"
    return device, max(1, int(resources.get("CPU", 1)))


def trainable(
    file: str | Path,
    profile: str | None = None,
    results: str | None = None,
    data: str | None = None,
    extensions: Sequence[str | Path] = (),
) -> Callable[[Mapping[str, Any]], None]:
    """A sweep file's student as a Tune function. Its config sets the file's `$names` and `seed` (default 0).

    It resolves to the same run ids as the sweep itself: missing teachers are trained first under their claims, and what
    the store has is not trained again but reported alike, so that schedulers compare like with like. A row of the
    history an epoch (`val/accuracy` with a hold-out); the last has all metrics too, run_id, state, profile and dataset.
    A trial that a scheduler ends leaves a checkpoint of its last epoch: the next sweep or trial goes on from there. One
    whose config a scheduler would change in mid-run (PopulationBasedTraining, PB2) ends the Tuner's `fit`: `exploits`.
    `profile` is by default what the command would take; `extensions` are files of your own, as `--with` names them.
    Raises SweepFileError for a file, name or value that is wrong, ExtensionError.
    """
    from kdtune.launch.exploits import OneConfig

    use(own := read(extensions))
    source = read_source(file)  # once: whatever becomes of the file, all trials are of one sweep
    profile = profiles.of_file(source, profile)
    load_sweep(source, profile)  # a wrong file is refused here and not in every trial
    where = results_folder(results), data_folder(data)

    def one_student(config: Mapping[str, Any]) -> None:
        ensure_user()
        use(own)
        _perform_with_teachers(build_plan(_student_of(source, profile, config), where[1]), *where)

    one_student.__mixins__ = (OneConfig,)  # type: ignore[attr-defined]
    return one_student


def _student_of(source: Source, profile: str, config: Mapping[str, Any]) -> SweepFile:
    """The sweep file at the point and the seed of a config; the pool of teachers is as in the whole sweep.

    A config without `seed` has the number of a Repeater's repetition, else 0. Tune's own names begin with `__`.
    A list is one value here, not several.
    """
    from ray.tune.search.repeater import TRIAL_INDEX

    values = {name: value for name, value in config.items() if name != "seed" and not name.startswith("__")}
    seed = config.get("seed", config.get(TRIAL_INDEX, 0))
    file = load_sweep(source, profile, [f"seeds=[{seed}]"], at=values)
    (point,) = file.points
    teacher = point.sweep.teacher
    if teacher and teacher.select and teacher.select.rule != "paired" and not teacher.seeds:
        (whole,) = load_sweep(source, profile, at=values).points  # its students' seeds are the pool's too
        teacher = teacher.model_copy(update={"seeds": whole.sweep.seeds})
    sweep = point.sweep.model_copy(update={"teacher": teacher})
    return replace(file, points=(replace(point, sweep=sweep),))


def _perform_with_teachers(plan: Plan, results: str, data_dir: Path) -> None:
    """All runs of a plan of one student, the student last and the only one reported."""
    from kdtune.launch.stopping import performed, reason_of
    from kdtune.planning.dispatch import Dispatch
    from kdtune.store.standing import Standing
    from kdtune.store.state import FINISHED
    from kdtune.store.store import Store
    from kdtune.training.context import RunContext

    standing = Standing(Store(results), plan.evaluators)
    standing.refresh(*plan.runs)  # a few of maybe thousands: a listing of all would cost each trial seconds
    device, threads = assigned()
    student = next(place for place in plan.places if place.role == "student")
    dispatch = Dispatch(plan, standing)
    reports = Reports(student.run)
    teaching = RunContext(standing.store, data_dir, device, threads)
    # Tune ends the function inside a report and so unheard: whatever may be the last one, its epoch has been kept.
    learning = RunContext(standing.store, data_dir, device, threads, checkpoint_every=0.0, report=reports.epochs)
    while not dispatch.over:
        if (planned := dispatch.next()) is None:
            time.sleep(1.0)  # a teacher is being trained elsewhere
            continue
        context = replace(
            learning if planned.id == student.id else teaching,
            captured=not suspect(standing.look(planned.id).failure),
        )
        outcome = performed(planned.run, plan.evaluation, context)
        if outcome.error is not None and broke_gpu(outcome.error):
            raise outcome.error
        dispatch.ended(planned.id, reason_of(outcome))
    state = dispatch.states[student.id]
    if state not in FINISHED:
        raise RuntimeError(f"{student.name}: {_why(dispatch, student.id)}")
    about = {"run_id": student.id, "state": str(state), "profile": plan.profile, "dataset": plan.dataset}
    reports.end(standing.look(student.id).history, standing.measured(student.id) | about)


def _why(dispatch: Dispatch, id: str) -> str:
    """Why a run of a dispatch that is over is not finished, and what would do where somebody has stopped it."""
    from kdtune.store.layout import stopped_key

    state, reason = dispatch.states[id], dispatch.reasons.get(id, "")
    if not dispatch.by_hand:
        return reason or state
    records = ", ".join(dispatch.standing.store.objects.path(stopped_key(each)) for each in sorted(dispatch.by_hand))
    return f"{state} {reason}; delete {records}, and the next trial goes on from its checkpoint"


class Reports:
    """What Tune hears of a run: each epoch once, from the first, and the last one only when all is measured and kept.

    The number of reports is the number of epochs, so that `training_iteration` means the same in every trial.
    """

    def __init__(self, run: Run) -> None:
        self._epochs = run.recipe.epochs if run.recipe else 0
        self._validated = run.dataset.validation is not None
        self._told = 0  # rows

    def epochs(self, history: list[dict[str, float]]) -> None:
        """Report what is new, but for an epoch that ends the run: the last one, or one that diverged."""
        for row in history[self._told :]:
            if row["epoch"] < self._epochs and isfinite(row["train/loss"]):
                self._report(row)

    def end(self, history: list[dict[str, Any]], measured: Mapping[str, Any]) -> None:
        """Report the rest of a finished run, all metrics with its last epoch."""
        *rows, last = history or [{}]
        for row in rows[self._told :]:
            self._report(row)
        self._report({**last, **measured})

    def _report(self, row: Mapping[str, Any]) -> None:
        from ray import tune

        self._told += 1
        # A search that goes by a metric stops at a result without it; of what has no number Tune takes NaN.
        absent = {"val/accuracy": nan} if self._validated else {}
        tune.report(absent | {name: nan if value is None else value for name, value in row.items()})
