"""kdtune.trainable in a Tuner of the user's own, through a real local Ray."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import stored
import torch
from ray import tune
from ray.train._internal.session import _TrainingResult
from ray.tune.error import TuneError
from ray.tune.trainable import wrap_function
from test_extensions import KNOB, SWEEP
from world import SOURCED, of_role, planned

import kdtune
from kdtune.cli.sweep import Options, run
from kdtune.launch.exploits import ExploitRefused, OneConfig
from kdtune.launch.trainable import Reports, _perform_with_teachers, _student_of, job, trainable, trial
from kdtune.planning.plan import build_plan
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.stopping import stop
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.source import read_source
from kdtune.sweepfile.tree import SweepFileError

USING = Path(__file__).parents[2] / "docs" / "using.md"
# Students of a CNN at a rate that learns and at one that does not: who is worse is known before.
LEARNING = """\
name: learning
dataset: {digits: {}, train_size: 400, validation: 0.2}
seeds: 1
grid: {lr: [0.02, 1.0e-6]}
recipe:
  optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 10
  epochs: 3
teacher:
  model: {mlp: {hidden: [8]}}
  seeds: 1
  select: {rule: best, metric: val/accuracy}
student:
  model: {cnn: {width: 4}}
  recipe: {optimizer: {adam: {lr: $lr, betas: [0.9, 0.999]}}}
  distillation: {alpha: 0.9, temperature: 4}
evaluation: [accuracy]
"""


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory):
    import shutil
    import tempfile

    import ray

    folder = tempfile.mkdtemp(prefix="kdt", dir="/tmp")
    ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def fit(trainable, space: dict, folder: Path, stop: dict | None = None, **tune_config: Any):
    config = {"metric": "val/accuracy", "mode": "max"} | tune_config
    results = tune.Tuner(
        trainable,
        param_space=space,
        run_config=tune.RunConfig(name="own", storage_path=str(folder), verbose=0, stop=stop),
        tune_config=tune.TuneConfig(**config),
    ).fit()
    return results


def states(file: Path, results: Path) -> dict[str, State]:
    """How the students of a file stand, by label."""
    plan = kdtune.plan(file)
    now = Standing(Store(str(results)), plan.evaluators).states(plan.runs)
    return {plan.runs[id].label: state for id, state in now.items() if plan.runs[id].role == "student"}


def test_a_grid_search_of_ones_own_shares_runs_with_the_sweep(ray_here, write_sweep, small_sweep, tmp_path):
    file, results = write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.2]")), str(tmp_path / "results")
    trainable = kdtune.trainable(file, profile="paper", results=results)
    space = {"rate": tune.grid_search([0.2]), "seed": tune.grid_search([0, 1])}
    table = fit(trainable, space, tmp_path / "tune").get_dataframe()
    assert len(table) == 2 and (table["state"] == "done").all()
    assert table["val/accuracy"].between(0, 100).all() and table["test/accuracy"].notna().all()
    assert set(table["profile"]) == {"paper"} and set(table["dataset"]) == {kdtune.plan(file).dataset}
    planned = kdtune.plan(file)
    students = {id for id, each in planned.runs.items() if each.role == "student"}
    assert set(table["run_id"]) == students, "the same runs as the sweep's own"
    assert stored.finished(Store(results)) == set(planned.runs), "missing teachers were trained too, each once"
    assert run(Options(file, results=results, verbosity=-1)) == 0, "nothing is left for the sweep to train"

    done = {id: Store(results).done(id) for id in planned.runs}
    (again,) = fit(trainable, {"rate": 0.2, "seed": numpy.int64(1)}, tmp_path / "again")
    history = again.metrics_dataframe
    assert list(history["epoch"]) == list(history["training_iteration"]) == [1, 2, 3], "as if it were trained"
    assert history["test/accuracy"].notna().tolist() == [False, False, True], "all metrics come with the last epoch"
    assert {id: Store(results).done(id) for id in planned.runs} == done, "and nothing was"


def test_a_student_of_a_source_brings_it_along(ray_here, write_sweep, tmp_path):
    file, results = (
        write_sweep(SOURCED.replace("steps: 20", "steps: $steps") + "grid: {steps: 20}\n"),
        str(tmp_path / "results"),
    )
    trainable = kdtune.trainable(file, profile="paper", results=results)
    (found,) = fit(trainable, {"steps": 20, "seed": 1}, tmp_path / "tune")
    plan = planned(SOURCED, tmp_path)
    student = next(place for place in of_role(plan, "student") if place.run.seed == 1)
    assert found.metrics["run_id"] == student.id and found.metrics["state"] == "done"
    assert stored.finished(Store(results)) == {student.id, *student.waits_for}


def test_a_class_of_ones_own_reaches_the_trials_of_a_tuner_of_ones_own(ray_here, write_sweep, tmp_path):
    """And gives the ids that the sweep's own command gives, whether the file is still there or not."""
    own = tmp_path / "brightness.py"
    own.write_text(KNOB)
    file, where = write_sweep(SWEEP), {"results": str(tmp_path / "results"), "data": str(tmp_path)}
    made = trainable(file, profile="paper", extensions=[own], **where)
    plan = kdtune.plan(file, "paper", data=str(tmp_path), extensions=[own])
    own.unlink()
    (trial,) = fit(made, {"sigma": tune.grid_search([0.1]), "seed": 0}, tmp_path)
    (mine,) = [place.id for place in plan.places if place.name == "student sigma=0.1 seed=0"]
    assert trial.metrics["run_id"] == mine
    assert [path.read_text() for path in (tmp_path / "results").glob("runs/*/*/extension-*.py")] == [KNOB]


def test_the_readmes_own_tuner_runs_as_it_stands(ray_here, write_sweep, small_sweep, tmp_path, monkeypatch, capsys):
    """The sweep file that it names is a small one here, with axes of the same names."""
    (code,) = re.findall(r"^```python\n(from ray .*?)^```$", USING.read_text(), re.MULTILINE | re.DOTALL)
    text = small_sweep.replace("rate: [0.0, 0.2]", "dropout: [0.0, 0.2], epochs: 30").replace("$rate", "$dropout")
    text = text.replace("[8]}}\n  dis", "[8]}}\n  recipe: {batch_size: $epochs}\n  dis").replace("seeds: 3", "seeds: 1")
    text = text.replace("[accuracy]", "[accuracy, {pgd: {eps: [0.1], step: 0.02, steps: [20], images: 200}}]")
    (tmp_path / "sweeps").mkdir()
    write_sweep(text + "profiles: {laptop: {recipe: {epochs: 6}}}\n", "sweeps/fickle.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # Tune's folder
    monkeypatch.setattr("ray.train.constants.DEFAULT_STORAGE_PATH", str(tmp_path / "ray_results"))
    exec(code, {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if re.match(r"\d+ +0\.[02] ", line)]
    assert sorted(row[1:3] for row in rows) == [["0.0", "0"], ["0.0", "1"], ["0.2", "0"], ["0.2", "1"]]
    assert all(0 <= float(number) <= 100 for row in rows for number in row[3:]) and {len(row) for row in rows} == {6}


@pytest.mark.faults  # long: a minute of Ray
def test_what_a_scheduler_ends_leaves_a_checkpoint_and_the_next_sweep_goes_on_bit_for_bit(
    ray_here, write_sweep, tmp_path
):
    """row C14: Ray ends the function inside `tune.report`; only run.yaml was left, and the state was `new`."""
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    file, results = write_sweep(LEARNING), tmp_path / "results"
    trainable = kdtune.trainable(file, results=str(results))
    space = {"lr": tune.grid_search([0.02, 1e-6]), "seed": 0}
    scheduler = ASHAScheduler(max_t=3, grace_period=1, reduction_factor=2)
    # One at a time and the good one first, so that the rung is there for the other.
    best, ended = fit(trainable, space, tmp_path / "asha", scheduler=scheduler, max_concurrent_trials=1)
    assert best.metrics["training_iteration"] == 3 and best.metrics["state"] == "done"
    assert 0 <= best.metrics["test/accuracy"] <= 100, "max_t is the number of epochs, and all metrics are there"
    assert ended.metrics["training_iteration"] == 1 and "test/accuracy" not in ended.metrics
    assert states(file, results) == {"student lr=0.02": "done", "student lr=1e-06": "partial"}

    median = MedianStoppingRule(grace_period=2, min_samples_required=1, time_attr="training_iteration")
    space["seed"] = 1
    fit(trainable, space, tmp_path / "median", scheduler=median, max_concurrent_trials=1, reuse_actors=True)
    (stopped,) = fit(trainable, {"lr": 0.02, "seed": 2}, tmp_path / "stop", stop={"training_iteration": 2})
    assert stopped.metrics["training_iteration"] == 2

    file.write_text(LEARNING.replace("seeds: 1\ngrid", "seeds: 3\ngrid"))
    unfinished = {"student lr=0.02": "partial", "student lr=1e-06": "new"}
    plan = kdtune.plan(file)
    now = Standing(Store(str(results)), plan.evaluators).states(plan.runs)
    by_seed = {(planned.label, planned.run.seed): now[id] for id, planned in plan.runs.items()}
    assert {label: by_seed[label, 2] for label in unfinished} == unfinished
    assert by_seed["student lr=1e-06", 1] == "partial", "median stopping"

    undisturbed = tmp_path / "undisturbed"
    for place in (results, undisturbed):
        assert run(Options(file, here=True, results=str(place), verbosity=-1)) == 0
    for id in plan.runs:
        one, other = (stored.weights(Store(str(place)), id) for place in (results, undisturbed))
        assert one == other, plan.runs[id].name


@pytest.mark.faults  # long: a minute of Ray
def test_population_based_training_ends_the_fit_before_a_run_has_two_configs(ray_here, write_sweep, tmp_path):
    """Without a checkpoint of ours it never exploited anybody: it looked as if it had worked, and had done nothing."""
    from ray.tune.schedulers import PopulationBasedTraining

    file, results = write_sweep(LEARNING.replace("epochs: 3", "epochs: 4")), tmp_path / "results"
    # In step, so that both are there when it looks at them; not in step it is the same code.
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=2,
        hyperparam_mutations={"lr": tune.loguniform(1e-6, 1e-1)},
        synch=True,
    )
    space = {"lr": tune.grid_search([0.02, 1e-6]), "seed": 0}
    with pytest.raises(TuneError) as caught:
        fit(kdtune.trainable(file, results=str(results)), space, tmp_path / "tune", scheduler=scheduler)
    said = "".join(traceback.format_exception(caught.value))
    assert 'with {"lr": "0.02", "seed": "0"} is to be copied into another trial' in said
    assert "PopulationBasedTraining and PB2" in said and "ASHAScheduler" in said and "`search:`" in said
    begun = {path.parts[-3] for path in results.glob("runs/*/*/run.yaml")}
    assert begun == set(kdtune.plan(file).runs), "no run of a config that nobody asked for"


@pytest.mark.faults  # long: half a minute of Ray
def test_a_search_with_repetitions(ray_here, write_sweep, tmp_path):
    """Optuna proposes, a Repeater asks for two seeds of each proposal; its own key is no axis of the file."""
    from ray.tune.search import Repeater
    from ray.tune.search.optuna import OptunaSearch

    file, results = write_sweep(LEARNING.replace("epochs: 3", "epochs: 2")), str(tmp_path / "results")
    search = OptunaSearch(metric="val/accuracy", mode="max", seed=1)
    space = {"lr": tune.loguniform(1e-3, 1e-1)}
    found = fit(
        kdtune.trainable(file, results=results),
        space,
        tmp_path / "tune",
        search_alg=Repeater(search, repeat=2),
        num_samples=4,
        max_concurrent_trials=2,
        metric=None,
        mode=None,
    )
    table = found.get_dataframe()
    assert not found.errors and (table["state"] == "done").all()
    assert table["run_id"].nunique() == 4 and table["config/lr"].nunique() == 2
    store = Store(results)
    seeds = sorted(stored.description(store, id)["seed"] for id in table["run_id"])
    assert seeds == [0, 0, 1, 1], "a repetition is another seed"
    told = sorted(trial.value for trial in search._ot_study.trials)
    assert told == pytest.approx(sorted(table.groupby("config/lr")["val/accuracy"].mean()))


def test_a_run_that_somebody_has_stopped_ends_its_trial_with_who_and_what_would_do(
    ray_here, write_sweep, small_sweep, tmp_path
):
    file, results = write_sweep(small_sweep), tmp_path / "results"
    plan = build_plan(load_sweep(file), tmp_path)
    store = Store(results)
    teacher, *_ = next(place for place in plan.places if place.role == "student").waits_for
    record = stop(store.objects, teacher, "too slow")

    def ended() -> tune.ResultGrid:
        function = trainable(file, results=str(results), data=str(tmp_path))
        space = {"rate": 0.0, "seed": 0}
        scratch = tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0)
        return tune.Tuner(function, param_space=space, run_config=scratch).fit()

    (error,) = ended().errors
    said = str(error)
    assert f"its teacher {teacher} was stopped {record}" in said
    assert f"delete {store.objects.path('runs/stopped')}/{teacher}" in said
    store.objects.delete(f"runs/stopped/{teacher}")
    assert not ended().errors


def test_unknown_names_and_wrong_files_are_refused(ray_here, write_sweep, small_sweep, tmp_path):
    with pytest.raises(SweepFileError, match="did you mean momentum"):
        kdtune.trainable(write_sweep(small_sweep.replace("momentum", "momentun")))
    trainable = kdtune.trainable(write_sweep(), profile="paper", results=str(tmp_path / "results"))
    results = fit(trainable, {"rate": 0.0, "sigma": 0.1}, tmp_path / "tune")
    assert len(results.errors) == 1
    assert "nothing uses the axis sigma" in str(results.errors[0])
    assert not (tmp_path / "results").exists()


def test_a_config_is_a_student_of_the_whole_sweep(write_sweep, small_sweep, tmp_path):
    """Same ids, also where the teachers' seeds are left to be the students'; a list is one value of an axis."""
    shared = small_sweep.replace("  seeds: 3\n", "").replace("seeds: 2", "seeds: 3")
    listed = small_sweep.replace("[0.5]", "$steps").replace("grid: {", "grid: {steps: [[0.5], [0.3, 0.6]], ")
    for text, values in (
        (shared, {}),
        (shared.replace("rule: best, metric: val/accuracy", "rule: paired"), {}),
        (listed, {"steps": [0.3, 0.6]}),
    ):
        file = write_sweep(text)
        whole = kdtune.plan(file)
        config = {"rate": 0.2, "seed": 1, "__trial_index__": 0, **values}
        mine = build_plan(_student_of(read_source(file), "paper", config), tmp_path)
        assert set(mine.runs) <= set(whole.runs)
        (student,) = (planned for planned in mine.runs.values() if planned.role == "student")
        assert student.run.seed == 1 and set(mine.runs) == {student.id, *student.waits_for}


def test_all_trials_are_of_the_file_as_it_was_and_of_numbers_as_they_are_written(write_sweep, small_sweep, tmp_path):
    file = write_sweep()
    known = {planned.id for planned in kdtune.plan(file).runs.values()}
    ray_cloudpickle = pytest.importorskip("ray.cloudpickle")
    trial = ray_cloudpickle.dumps(trainable(file, "paper", results=str(tmp_path / "r"), data=str(tmp_path)))
    file.write_text(small_sweep.replace("epochs: 3", "epochs: 9"))
    (closure,) = [
        cell.cell_contents for cell in ray_cloudpickle.loads(trial).__closure__ if hasattr(cell.cell_contents, "tree")
    ]
    for rate in (0.2, numpy.float32(0.2), numpy.float64(0.2)):
        mine = build_plan(_student_of(closure, "paper", {"rate": rate, "seed": 0}), tmp_path)
        assert set(mine.runs) <= known


def test_a_seed_may_come_from_a_search(write_sweep, tmp_path):
    file = read_source(write_sweep())
    for seed in (2, numpy.int64(2)):
        (point,) = _student_of(file, "paper", {"rate": 0.2, "seed": seed}).points
        assert point.sweep.seeds == (2,)
    for seed in (2.0, -1, True, "x", [0, 1]):
        with pytest.raises((SweepFileError, ValueError)):
            _student_of(file, "paper", {"rate": 0.2, "seed": seed})


def test_the_epoch_that_ends_a_run_is_held_back_until_all_is_known(write_sweep, monkeypatch, tmp_path):
    """Of a diverged run too; what has no number is NaN, for a search ends at a result that lacks its metric."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", told.append)
    (student,) = (
        planned.run
        for planned in build_plan(_student_of(write_sweep(), "paper", {"rate": 0.2}), tmp_path).runs.values()
        if planned.role == "student"
    )
    rows = [{"epoch": epoch, "train/loss": 1.0, "val/accuracy": 10.0 * epoch} for epoch in (1, 2, 3)]
    reports = Reports(student)
    for epoch in (1, 2, 3):
        reports.epochs(rows[:epoch])
    assert told == rows[:2]
    reports.end(rows, {"test/accuracy": None, "state": "done"})
    assert told[:2] == rows[:2] and told[2].items() >= {**rows[2], "state": "done"}.items() and len(told) == 3
    assert isnan(told[2]["test/accuracy"])

    told.clear()
    reports = Reports(student)
    broken = {"epoch": 2, "train/loss": nan}
    reports.epochs(rows[:1])
    reports.epochs([rows[0], broken])
    assert told == rows[:1]
    reports.end([rows[0], {**broken, "train/loss": None}], {"state": "diverged"})
    assert [row["epoch"] for row in told] == [1, 2] and isnan(told[1]["val/accuracy"]) and isnan(told[1]["train/loss"])


@pytest.mark.parametrize("breaks", [True, False])
def test_a_process_whose_gpu_had_an_error_ends_with_it_and_one_that_was_short_of_memory_tells(
    write_sweep, tmp_path, monkeypatch, breaks
):
    """faults 20: Tune gives no further run to a process whose trial raised; a run without room has failed, no more."""
    told, error = [], (torch.AcceleratorError if breaks else torch.OutOfMemoryError)("CUDA error: out of memory")

    def train(*_, **__):
        raise error

    monkeypatch.setattr("kdtune.training.run.train", train)
    monkeypatch.setattr("kdtune.launch.trainable.assigned", lambda: ("cpu", 1))
    monkeypatch.setattr(tune, "report", told.append)
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    config = job(next(iter(plan.runs.values())), plan, str(tmp_path / "results"), tmp_path, 60.0)
    if breaks:
        with pytest.raises(torch.AcceleratorError, match="out of memory"):
            trial(config)
        assert told == []
    else:
        trial(config)
        assert told[-1]["ended"] == "failed" and "--gpus-per-run" in told[-1]["error"]


def test_so_does_one_of_a_tuner_of_ones_own_and_the_next_takes_eager_steps(write_sweep, tmp_path, monkeypatch):
    captured: list[bool] = []

    def broken(run, evaluation, data, choose, attempt, context, source):
        captured.append(context.captured)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("kdtune.training.run.train_and_evaluate", broken)
    monkeypatch.setattr("kdtune.launch.trainable.assigned", lambda: ("cpu", 1))
    plan = build_plan(_student_of(read_source(write_sweep()), "paper", {"rate": 0.2}), tmp_path)
    for _ in range(2):
        with pytest.raises(torch.AcceleratorError):
            _perform_with_teachers(plan, str(tmp_path / "results"), tmp_path)
    assert captured == [True, False]


class Reported:
    """A function trainable after a report."""

    def save_checkpoint(self, checkpoint_dir: str = "") -> Any:
        return self.last


class Trial(OneConfig, Reported):
    """The same with a storage as Tune's, a folder for each checkpoint."""

    def __init__(self, folder: Path, name: str, **config: Any) -> None:
        self.trial_id, self.config, self.count, self.folder = name, config, 0, folder / name
        self.last = _TrainingResult(None, {"training_iteration": 2})
        self._storage = SimpleNamespace(_update_checkpoint_index=self.next, persist_current_checkpoint=self.persist)

    def next(self, metrics: dict[str, Any]) -> None:
        self.count += 1

    def persist(self, checkpoint: tune.Checkpoint) -> tune.Checkpoint:
        return tune.Checkpoint.from_directory(checkpoint.to_directory(str(self.folder / str(self.count))))


def test_a_trial_goes_on_from_its_own_checkpoint_alone(tmp_path):
    good, bad = Trial(tmp_path, "t0", lr=numpy.float64(0.02), seed=0), Trial(tmp_path, "t1", lr=1e-6, seed=0)
    mine, theirs = good.save_checkpoint(), good.save_checkpoint()
    assert mine.metrics == {"training_iteration": 2} and mine.checkpoint.path != theirs.checkpoint.path
    assert good.last.checkpoint is None, "what was reported stays as it was"
    good.restore(pickle.loads(pickle.dumps(mine)))  # paused, on another machine
    said = r"""is to go on from trial t0 with {"lr": "0\.02", "seed": "0"}\. A run"""
    for other, what in ((bad, theirs), (Trial(tmp_path, "t0", lr=0.03, seed=0), mine)):
        with pytest.raises(ExploitRefused, match=said):
            other.restore(what)
    with pytest.raises(ExploitRefused, match=r"trial t0 with .* is to be copied into another trial"):
        copy.copy(pickle.loads(pickle.dumps(theirs.checkpoint)))
    bad.last = None
    assert bad.save_checkpoint() is None, "nothing was reported yet"


def test_a_function_for_a_tuner_has_what_refuses_also_with_resources(write_sweep, tmp_path):
    function = trainable(write_sweep(), "paper", results=str(tmp_path / "r"), data=str(tmp_path))
    for made in (function, tune.with_resources(function, {"CPU": 2})):
        assert issubclass(wrap_function(made), OneConfig)
    assert wrap_function(function).save_checkpoint is OneConfig.save_checkpoint
