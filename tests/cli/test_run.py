"""`kdtune run FILE --only rate=0.2,seed=1`: one run and its teachers, in this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import SMALL

import kdtune.training.run
from kdtune.__main__ import main
from kdtune.cli.run import wanted
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def plan(file: Path) -> Plan:
    return build_plan(load_sweep(file), file.parent)


@pytest.fixture
def do(file: Path, tmp_path: Path):
    """`kdtune run FILE` with words of its own."""

    def do(*words: str) -> Result:
        where = ["--results", str(tmp_path / "results"), "--data", str(tmp_path), "--profile", "paper"]
        return CliRunner().invoke(main, ["run", str(file), *where, *words])

    return do


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Any:
    """The small sweep, finished, to be copied."""
    root = tmp_path_factory.mktemp("single")
    (root / "small.yaml").write_text(SMALL)
    options = Options(root / "small.yaml", (), "paper", results=str(root / "results"), data=str(root), here=True)
    assert run(options) == 0
    return SimpleNamespace(results=root / "results")


def student(plan: Plan, rate: float, seed: int) -> str:
    (id,) = [
        id
        for id, each in plan.runs.items()
        if (each.role, each.parameters["rate"], each.run.seed) == ("student", rate, seed)
    ]
    return id


def finished(folder: Path) -> set[str]:
    return Store(folder / "results").finished()


def test_one_student_and_the_teachers_it_chooses_from(do, plan: Plan, tmp_path: Path) -> None:
    result = do("--only", "rate=0.2,seed=1")
    assert result.exit_code == 0, result.output
    id = student(plan, 0.2, 1)
    assert finished(tmp_path) == {id, *plan.runs[id].waits_for}
    lines = result.stdout.splitlines()
    assert lines[0].startswith("profile paper: asked for")
    assert [line.split()[0] for line in lines if not line.startswith(" ")][1:] == ["done"] * 4
    assert f"done      {plan.runs[id].name}  {tmp_path / 'results' / 'runs' / id}" in lines
    (hash,) = plan.evaluators
    accuracy = Store(tmp_path / "results").evaluation(id, hash)["test/accuracy"]
    assert f"          test/accuracy {accuracy:.4g}" in lines


def test_it_is_the_run_of_the_sweep(do, plan: Plan, tmp_path: Path, swept: Any) -> None:
    """The same ids, and the same numbers to the bit: the sweep takes it as done, and it takes what the sweep has."""
    id = student(plan, 0.0, 1)
    assert do("--only", "rate=0,seed=1").exit_code == 0, "0 is 0.0"
    assert Store(tmp_path / "results").weights(id) == Store(swept.results).weights(id)


def test_what_is_done_is_not_done_again(do, swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(swept.results, tmp_path / "results")
    monkeypatch.setattr(kdtune.training.run, "train_and_evaluate", lambda *_: pytest.fail("trained again"))
    result = do("--only", "rate=0.2,seed=1")
    assert result.exit_code == 0 and result.stdout.count("test/accuracy") == 4


def test_it_leaves_no_folder_of_a_sweep(do, tmp_path: Path) -> None:
    do("--only", "role=teacher,rate=0.2,seed=1")
    assert {path.name for path in (tmp_path / "results").iterdir()} <= {"runs", ".lock"}


def test_a_shortened_run_has_another_id_and_leaves_the_sweeps_own_alone(
    do, plan: Plan, swept: Any, tmp_path: Path
) -> None:
    shutil.copytree(swept.results, tmp_path / "results")
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    result = do("--only", "rate=0.2,seed=1", "--epochs", "1")
    assert result.exit_code == 0, result.output
    new = finished(tmp_path) - set(plan.runs)
    assert len(new) == 4 and set(plan.runs) < finished(tmp_path)
    assert all(len(Store(tmp_path / "results").history(id)) == 1 for id in new)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("only", "roles"),
    [
        ("seed=0", ["student", "student"]),
        ("rate=0.2", ["student", "student"]),
        ("role=teacher,seed=2", ["teacher", "teacher"]),
        ("role=teacher,rate=0.2,seed=2", ["teacher"]),
        (" rate = 0.2 , seed = 1 ".replace(" = ", "="), ["student"]),
    ],
)
def test_what_only_names(only: str, roles: list[str], plan: Plan) -> None:
    chosen = plan.only(wanted(only, plan)).runs
    teachers = {teacher for each in chosen.values() for teacher in each.waits_for}
    assert [each.role for id, each in chosen.items() if id not in teachers] == roles
    assert teachers <= set(chosen)


def test_an_id_names_a_run(do, plan: Plan, tmp_path: Path) -> None:
    """Also one of digits alone, which YAML would take for a number."""
    teacher = next(iter(plan.runs))
    assert do("--only", f"id={teacher}").exit_code == 0
    assert finished(tmp_path) == {teacher}
    assert wanted("id=000000000012", plan) == {"id": "000000000012"}
    assert wanted("id=1234567890e1", plan) == {"id": "1234567890e1"}


@pytest.mark.parametrize("only", ["dropout=0.2", "rate", "rate=0.2,seeds=1", "=1", "rate=0.2,"])
def test_what_is_no_axis_is_refused_naming_those_there_are(only: str, do, tmp_path: Path) -> None:
    result = do("--only", only)
    assert result.exit_code == 2
    assert "rate, seed, role, id" in result.stderr
    assert result.stdout == "" and not (tmp_path / "results").exists()


def test_all_that_is_there_but_no_run_has_it(do, tmp_path: Path) -> None:
    result = do("--only", "rate=0.3")
    assert result.exit_code == 2 and "no run has rate=0.3" in result.stderr
    assert not (tmp_path / "results").exists()


def test_only_is_asked_for(do) -> None:
    result = do()
    assert result.exit_code == 2 and "--only" in result.stderr
    assert do("--only", "seed=1", "--epochs", "0").exit_code == 2


def test_a_wrong_file_and_missing_data(do, file: Path, tmp_path: Path) -> None:
    file.write_text(SMALL.replace("momentum", "momentun"))
    result = do("--only", "seed=1")
    assert result.exit_code == 2 and f"{file}:" in result.stderr and "did you mean momentum?" in result.stderr
    file.write_text(SMALL.replace("{digits: {}, ", "{folder: {path: nowhere, name: Mine}, "))
    result = do("--only", "seed=1")
    assert result.exit_code == 4 and "nowhere" in result.stderr
    assert not (tmp_path / "results").exists()


def test_a_failed_run_is_status_3_with_its_cause(do, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdtune.training.run, "train", lambda *_, **__: 1 / 0)
    result = do("--only", "rate=0.2,seed=1")
    assert result.exit_code == 3
    assert "ZeroDivisionError" in result.stderr
    said = [line.split()[0] for line in result.stdout.splitlines()[1:] if not line.startswith(" ")]
    assert said == ["failed"] * 3 + ["skipped"]


def test_pdb_opens_where_it_failed(do, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.launch import here

    opened = []
    monkeypatch.setattr(kdtune.training.run, "train", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(here.pdb, "post_mortem", opened.append)
    do("--only", "role=teacher,rate=0.2,seed=1", "--pdb")
    assert len(opened) == 1


def test_wanted_reads_values_as_a_sweep_file_does(plan: Plan) -> None:
    assert wanted("rate=2e-1,seed=1,role=student", plan) == {"rate": 0.2, "seed": 1, "role": "student"}
    with pytest.raises(SweepFileError):
        wanted("rate=[1", plan)


def test_an_axis_of_the_teacher_finds_its_students(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    text = SMALL.replace("rate: [0.0, 0.2]", "rate: 0.2, width: [8, 16]").replace(
        "hidden: [8], drop", "hidden: [$width], drop"
    )
    path.write_text(text)
    plan = build_plan(load_sweep(path), tmp_path)
    chosen = plan.only(wanted("width=16,seed=1", plan)).runs.values()
    assert [each.teacher_parameters["width"] for each in chosen if each.role == "student"] == [16]


def test_json_is_one_object_on_stdout(file: Path, tmp_path: Path) -> None:
    """In a process of its own: the object goes to the file descriptor."""
    words = [
        "--only",
        "role=teacher,rate=0.2,seed=1",
        "--json",
        "--profile",
        "paper",
        "--results",
        tmp_path / "results",
    ]
    command = [sys.executable, "-m", "kdtune", "run", file, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=ROOT)
    (run,) = json.loads(done.stdout)["runs"]
    assert run["state"] == "done" and 0 <= run["metrics"]["val/accuracy"] <= 100
