"""The public functions, on a small finished sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL

import kdtune
from kdtune.data import loading
from kdtune.data.error import DataError
from kdtune.report.table import TableError
from kdtune.store.store import DamagedError
from kdtune.sweepfile.tree import SweepFileError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Any:
    """The small sweep with a profile, done by `kdtune.sweep`."""
    root = tmp_path_factory.mktemp("api")
    file = root / "small.yaml"
    file.write_text(SMALL + "profiles:\n  short: {recipe: {epochs: 1}, seeds: 1}\n")
    where = {"results": str(root / "results"), "data": str(root)}
    assert kdtune.run_sweep(file, profile="paper", here=True, verbosity=-1, **where) == 0
    return SimpleNamespace(root=root, file=file, where=where, plan=kdtune.plan(file, data=str(root)))


def test_plan_takes_text_profiles_and_overrides(small) -> None:
    assert [run.role for run in small.plan.runs.values()].count("student") == 4
    short = kdtune.plan(str(small.file), "short", ["teacher.seeds=1"], data=str(small.root))
    assert short.profile == "short"
    assert [run.role for run in short.runs.values()] == ["teacher", "student"] * 2
    assert {run.run.recipe.epochs for run in short.runs.values()} == {1}


def test_plan_raises_what_is_wrong(small, tmp_path: Path) -> None:
    with pytest.raises(SweepFileError, match="no profile 'nope'"):
        kdtune.plan(small.file, "nope")
    (tmp_path / "x.yaml").write_text(SMALL.replace("{digits: {}, ", "{folder: {path: nowhere, name: Mine}, "))
    with pytest.raises(DataError, match="nowhere"):
        kdtune.plan(tmp_path / "x.yaml")


def test_sweep_again_and_what_it_returns(small, capsys: pytest.CaptureFixture) -> None:
    assert kdtune.run_sweep(small.file, profile="paper", **small.where) == 0, "nothing is left, so nothing needs Ray"
    assert "10 done" in capsys.readouterr().out
    assert kdtune.run_sweep(small.file, profile="nope", **small.where) == 2
    with pytest.raises(TypeError, match="profil"):
        kdtune.run_sweep(small.file, profil="paper")


def test_table_is_a_frame_with_a_row_a_run(small) -> None:
    table = kdtune.table(small.root / "results" / "small")
    assert table["id"].tolist() == list(small.plan.runs)
    assert (table.attrs["sweep"], table.attrs["profile"]) == ("small", "paper")
    assert table["test/accuracy"].between(0, 100).all()
    students = table[table["role"] == "student"]
    assert set(students["teacher.id"]) <= set(table.loc[table["role"] == "teacher", "id"])
    with pytest.raises(TableError, match="no results"):
        kdtune.table(small.root / "nowhere")


def test_load_gives_the_network_that_was_measured(small) -> None:
    """Its accuracy, counted here from its answers, is the table's."""

    table = kdtune.table(small.root / "results" / "small", "paper").set_index("id")
    for id in (table.index[0], table.index[-1]):
        network = kdtune.load(id, small.where["results"])
        assert not network.training
        test = loading.load(small.plan.runs[id].run.dataset, small.root).test
        with torch.no_grad():
            answers = network(test.images.float() / 255).argmax(1)
        assert 100 * (answers == test.labels).double().mean().item() == pytest.approx(table.loc[id, "test/accuracy"])


def test_load_says_why_it_cannot(small, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="not done"):
        kdtune.load("0" * 12, small.where["results"])
    for other in ("../x", "student rate=0.7 seed=0", "abc", "f" * 11):
        with pytest.raises(LookupError, match="12 hex digits"):
            kdtune.load(other, small.where["results"])


def test_load_by_the_beginning_of_an_id_and_by_name(small, tmp_path: Path) -> None:
    results = small.where["results"]
    place = next(place for place in small.plan.places if place.name == "student rate=0.2 seed=1")
    wanted = [value.tolist() for value in kdtune.load(place.id, results).state_dict().values()]
    folder = str(Path(results) / "small")
    for run, where in [(place.id[:6], results), (place.name, results), (place.name, folder), (place.id[:4], folder)]:
        assert [value.tolist() for value in kdtune.load(run, where).state_dict().values()] == wanted
    for id in ("abcd00000001", "abcd00000002"):
        (Path(results) / "runs/done" / id).write_text("{}")
    with pytest.raises(LookupError, match="may be any of abcd00000001, abcd00000002"):
        kdtune.load("abcd", results)
    for id in ("abcd00000001", "abcd00000002"):
        (Path(results) / "runs/done" / id).unlink()


def test_a_name_of_two_sweeps_is_one_of_neither(small, tmp_path: Path) -> None:
    """Other settings under the same name: which is meant, only the sweep's folder says."""
    import shutil

    results = tmp_path / "results"
    shutil.copytree(small.where["results"], results)
    other = {"recipe.epochs": 2, "name": "other"}
    assert kdtune.run_sweep(small.file, other, profile="paper", here=True, verbosity=-1, results=str(results)) == 0
    with pytest.raises(LookupError, match="may be any of"):
        kdtune.load("student rate=0.2 seed=1", str(results))
    ours, theirs = (kdtune.load("student rate=0.2 seed=1", str(results / name)) for name in ("small", "other"))
    assert not torch.equal(next(ours.parameters()), next(theirs.parameters()))


def test_load_refuses_weights_that_are_not_as_written(small, tmp_path: Path) -> None:
    import shutil

    results = tmp_path / "results"
    shutil.copytree(small.where["results"], results)
    id = next(iter(small.plan.runs))
    (weights,) = (results / "runs" / id).rglob("model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DamagedError, match=r"model\.safetensors is damaged"):
        kdtune.load(id, str(results))


def test_results_and_data_may_come_from_the_environment(small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_RESULTS", small.where["results"])
    assert kdtune.load(next(iter(small.plan.runs))) is not None


def test_run_sweep_goes_where_the_command_would_go(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """row D9: RAY_ADDRESS was read by the command alone."""
    monkeypatch.setattr("kdtune.cli.sweep.run", lambda options: options.address)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert kdtune.run_sweep(small.file) == "10.0.0.1:6379"
    assert kdtune.run_sweep(small.file, here=True) is kdtune.run_sweep(small.file, address="local") is None
    monkeypatch.delenv("RAY_ADDRESS")
    assert kdtune.run_sweep(small.file) is None


def test_trainable_refuses_a_wrong_file_at_once(small) -> None:
    with pytest.raises(SweepFileError, match="nope"):
        kdtune.trainable(small.file, profile="nope")
    assert callable(kdtune.trainable(small.file, profile="short"))


def test_importing_is_quick_and_its_docstring_names_everything() -> None:
    assert kdtune.__doc__ is not None
    for name in kdtune.__all__:
        assert f"kdtune.{name}(" in kdtune.__doc__
        assert getattr(kdtune, name).__doc__, f"{name} says what it does"
    ours = "[name for name in sys.modules if name.startswith('kdtune')]"
    program = f"import sys, kdtune; print(len({ours}), 'click' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["2", "False"], "kdtune and kdtune.api"


def test_overrides_may_be_values_of_pythons_own(small) -> None:
    """Row D5: numpy's numbers too."""
    numpy = pytest.importorskip("numpy")
    given = {"recipe.epochs": numpy.int64(2), "student.model": {"mlp": {"hidden": (numpy.int32(4),)}}, "seeds": 1}
    plan = kdtune.plan(small.file, overrides=given, data=str(small.root))
    text = ["recipe.epochs=2", "student.model={mlp: {hidden: [4]}}", "seeds=1"]
    assert plan.runs.keys() == kdtune.plan(small.file, overrides=text, data=str(small.root)).runs.keys()
    assert kdtune.run_sweep(small.file, {"recipe.epochs": numpy.int64(2)}, dry_run=True, **small.where) == 0


def test_a_limit_of_cost_without_a_price_is_refused(small, tmp_path: Path, capsys) -> None:
    assert kdtune.run_sweep(small.file, results=str(tmp_path), data=str(small.root), here=True, max_cost=5.0) == 4
    assert "--max-cost needs --price" in capsys.readouterr().err
