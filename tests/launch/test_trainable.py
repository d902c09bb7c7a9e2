"""kdtune.trainable in a Tuner of the user's own, through a real local Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

import kdtune
from kdtune.cli.sweep import Options, run
from kdtune.store.store import Store
from kdtune.sweepfile.tree import SweepFileError


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


def fit(trainable, space: dict, folder: Path):
    from ray import tune

    results = tune.Tuner(
        trainable,
        param_space=space,
        run_config=tune.RunConfig(name="own", storage_path=str(folder), verbose=0),
        tune_config=tune.TuneConfig(metric="val/accuracy", mode="max"),
    ).fit()
    return results


def test_a_grid_search_of_ones_own_shares_runs_with_the_sweep(ray_here, write_sweep, small_sweep, tmp_path):
    from ray import tune

    file, results = write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.2]")), str(tmp_path / "results")
    trainable = kdtune.trainable(file, profile="paper", results=results)
    space = {"rate": tune.grid_search([0.2]), "seed": tune.grid_search([0, 1])}
    table = fit(trainable, space, tmp_path / "tune").get_dataframe()
    assert len(table) == 2 and (table["state"] == "done").all()
    assert table["val/accuracy"].between(0, 100).all() and table["test/accuracy"].notna().all()
    planned = kdtune.plan(file)
    students = {id for id, each in planned.runs.items() if each.role == "student"}
    assert set(table["run_id"]) == students, "the same runs as the sweep's own"
    assert Store(results).finished() == set(planned.runs), "missing teachers were trained too, each once"
    assert run(Options(file, results=results, verbosity=-1)) == 0, "nothing is left for the sweep to train"

    again = fit(trainable, {"rate": 0.2, "seed": 1}, tmp_path / "again")
    assert again[0].metrics["training_iteration"] == 1, "what the store has is reported at once"


def test_it_reports_every_epoch(ray_here, write_sweep, tmp_path):
    trainable = kdtune.trainable(write_sweep(), profile="paper", results=str(tmp_path / "results"))
    (result,) = fit(trainable, {"rate": 0.0, "seed": 3}, tmp_path / "tune")
    history = result.metrics_dataframe
    assert list(history["epoch"]) == [1, 2, 3, 3], "a row an epoch, and last all metrics"
    assert history["val/accuracy"].notna().all()


def test_unknown_names_and_wrong_files_are_refused(ray_here, write_sweep, small_sweep, tmp_path):
    with pytest.raises(SweepFileError, match="did you mean momentum"):
        kdtune.trainable(write_sweep(small_sweep.replace("momentum", "momentun")))
    trainable = kdtune.trainable(write_sweep(), profile="paper", results=str(tmp_path / "results"))
    results = fit(trainable, {"rate": 0.0, "sigma": 0.1}, tmp_path / "tune")
    assert len(results.errors) == 1
    assert "nothing uses the axis sigma" in str(results.errors[0])
    assert not (tmp_path / "results").exists()
