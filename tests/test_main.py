"""The `kdtune` command: plan, status, table, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stored
from click.testing import CliRunner, Result
from conftest import SMALL

import kdtune.training.run
from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.store.store import Store

ROOT = Path(__file__).parents[1]


def do(*words: str | Path, **keywords: Any) -> Result:
    return CliRunner().invoke(main, list(map(str, words)), **keywords)


def python(*words: str | Path, **environment: str) -> subprocess.CompletedProcess:
    """`python -m ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Any:
    """The small sweep, finished."""
    root = tmp_path_factory.mktemp("main")
    file = root / "small.yaml"
    file.write_text(SMALL)
    where = ["--results", root / "results", "--data", root, "--profile", "paper"]
    options = Options(file, profile="paper", results=str(root / "results"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    return SimpleNamespace(root=root, file=file, where=where, folder=root / "results" / "small", options=options)


# The group


def test_it_lists_its_commands_and_says_its_version() -> None:
    said = do("--help").stdout
    for name in ("sweep", "plan", "run", "status", "table"):
        assert f"\n  {name}" in said
        assert do(name, "--help").exit_code == 0
    assert do("--version").stdout.strip().endswith(version("kdtune"))
    assert do("swep").exit_code == 2


def test_the_installed_command_is_this_group() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="kdtune")
    assert entry.load() is main


def test_sweep_is_the_same_command(small) -> None:
    result = do("sweep", small.file, *small.where, "--here")
    assert result.exit_code == 0 and "10 done" in result.stdout


# plan


def test_plan_is_a_dry_run(small) -> None:
    planned = do("plan", small.file, *small.where)
    assert planned.exit_code == 0
    assert planned.stdout == do("sweep", small.file, *small.where, "--dry-run").stdout
    assert "6 teachers: 6 done" in planned.stdout and "4 students: 4 done" in planned.stdout


def test_plan_of_what_is_new_writes_nothing(small, tmp_path: Path) -> None:
    where = ["--results", tmp_path / "r", "--data", tmp_path / "d", "--profile", "paper"]
    result = do("plan", small.file, "recipe.epochs=2", *where)
    assert result.exit_code == 0 and "6 teachers: 6 new" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_seeds_count_students_only(small) -> None:
    said = do("plan", small.file, *small.where, "--seeds", "3").stdout
    assert "6 teachers: 6 done" in said and "6 students: 4 done, 2 new" in said


def test_plan_as_json(small) -> None:
    done = python("kdtune", "plan", small.file, *small.where, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["counts"] == {"done": 10} and len(said["runs"]) == 10
    assert "profile paper" in done.stderr


def test_plan_errors(small, tmp_path: Path) -> None:
    assert do("plan").exit_code == 2
    absent = do("plan", tmp_path / "nowhere.yaml")
    assert absent.exit_code == 2 and "nowhere.yaml" in absent.stderr and absent.exception.__class__ is SystemExit
    unknown = do("plan", small.file, "--profile", "papr")
    assert unknown.exit_code == 2 and "no profile 'papr'; has paper" in unknown.stderr
    wrong = do("plan", small.file, "recipe.epoch=2", "--profile", "paper")
    assert wrong.exit_code == 2 and "epochs" in wrong.stderr


def test_plan_takes_the_profile_that_the_sweep_would(tmp_path: Path) -> None:
    """On a cluster, `RAY_ADDRESS` set, the sweep takes `paper`."""
    words = (ROOT / "sweeps" / "fickle.yaml", "--results", tmp_path, "--data", tmp_path)
    sweep = python("kdtune.sweep", *words, "--dry-run", RAY_ADDRESS="auto")
    plan = python("kdtune", "plan", *words, RAY_ADDRESS="auto")
    assert sweep.stdout.startswith("profile paper: a cluster was named")
    assert plan.stdout == sweep.stdout


# status


def test_status_counts_runs_by_role_and_state(small) -> None:
    result = do("status", small.folder)
    assert result.exit_code == 0
    first, teachers, students = result.stdout.splitlines()
    assert first.startswith("small on digits") and first.endswith("profile paper: 10 runs")
    assert (teachers.strip(), students.strip()) == ("teachers: 6 done", "students: 4 done")
    assert do("status", small.folder / "paper").stdout == result.stdout
    assert do("status", small.folder, "--profile", "paper").stdout == result.stdout


def test_status_asks_the_store_not_the_last_command(small, tmp_path: Path) -> None:
    shutil.copytree(small.root / "results", tmp_path / "results")
    plan = json.loads((tmp_path / "results" / "small" / "paper" / "plan.json").read_bytes())
    student = next(each["id"] for each in plan["runs"] if each["role"] == "student")
    (tmp_path / "results" / "runs" / "done" / student).unlink()
    said = do("status", tmp_path / "results" / "small").stdout
    assert "3 done" in said and "1 new" in said


def test_status_tells_why_a_run_failed(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no more rain")

    monkeypatch.setattr(kdtune.training.run, "train", broken)
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    options = Options(file, (), "paper", results=str(tmp_path), data=str(tmp_path), here=True, verbosity=-1)
    assert run(options) == 3
    said = do("status", tmp_path / "small").stdout
    assert "students: 4 new" in said, "nothing more was started after five that failed alike"
    assert said.count("RuntimeError: no more rain") == 6, "a line each, and the first in full"


def test_status_sees_a_run_that_is_being_trained(small, tmp_path: Path) -> None:
    shutil.copytree(small.root / "results", tmp_path / "results")
    store = Store(tmp_path / "results")
    id = sorted(stored.finished(store))[0]
    (tmp_path / "results" / "runs" / "done" / id).unlink()
    with store.claim(id):
        said = do("status", tmp_path / "results" / "small").stdout
        assert "1 running" in said and "this sweep is not being run; another command works on runs" in said
        with store.claim("sweep/small/paper"):
            said = do("status", tmp_path / "results" / "small").stdout
            assert "1 running" in said and f"this sweep is being run by process {os.getpid()} on " in said
    assert "being run" not in do("status", tmp_path / "results" / "small").stdout


@pytest.mark.parametrize("name", ["status", "table"])
def test_where_nothing_is(name: str, small, tmp_path: Path) -> None:
    for words in ([tmp_path / "fickle"], [small.folder, "--profile", "quick"]):
        result = do(name, *words)
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("refused: ")
    assert "sweeps/fickle.yaml" in do(name, tmp_path / "fickle").stderr
    assert "there is paper" in do(name, small.folder, "--profile", "quick").stderr
    assert do(name).exit_code == 2


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff"])
def test_status_of_a_damaged_plan(content: bytes, small, tmp_path: Path) -> None:
    shutil.copytree(small.folder, tmp_path / "small")
    (tmp_path / "small" / "paper" / "plan.json").write_bytes(content)
    result = do("status", tmp_path / "small")
    assert result.exit_code == 2 and result.stderr.startswith("refused: ")
    (tmp_path / "small" / "paper" / "plan.json").unlink()
    assert do("status", tmp_path / "small").exit_code == 2


@pytest.mark.parametrize("above", [0, 1, 2])
def test_status_from_inside_the_folder(above: int, small, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cd results/small/paper; kdtune status .`"""
    places = {0: (small.folder / "paper", "."), 1: (small.folder, "."), 2: (small.folder.parent, "small")}
    folder, words = places[above]
    monkeypatch.chdir(folder)
    result = do("status", words)
    assert result.exit_code == 0 and "teachers: 6 done" in result.stdout


# table


def test_table_is_the_csv(small) -> None:
    result = do("table", small.folder)
    assert result.exit_code == 0
    assert result.stdout_bytes == (small.folder / "paper" / "results.csv").read_bytes()
    assert do("table", small.folder / "paper").stdout == result.stdout


def test_table_through_a_pipe_that_closes_early(small) -> None:
    """`kdtune table results/small | head -1`"""
    words = f"{sys.executable} -m kdtune table {small.folder} | head -1"
    done = subprocess.run(words, shell=True, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert done.stdout.startswith("id,role,seed,state,") and "Traceback" not in done.stderr


def test_table_of_several_profiles_asks_which(small, tmp_path: Path) -> None:
    for name in ("paper", "laptop"):
        shutil.copytree(small.folder / "paper", tmp_path / "small" / name)
    result = do("table", tmp_path / "small")
    assert result.exit_code == 2 and "name the folder of one: laptop, paper" in result.stderr
    assert do("table", tmp_path / "small/laptop").exit_code == 0
    assert do("table", tmp_path / "small", "--profile", "laptop").exit_code == 0
    (tmp_path / "small" / "laptop" / "results.csv").unlink()
    result = do("table", tmp_path / "small", "--profile", "laptop")
    assert result.exit_code == 2 and "results.csv" in result.stderr
