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
import stored
from click.testing import CliRunner, Result
from conftest import SMALL
from PIL import Image

import kdtune.training.run
from kdtune.__main__ import main
from kdtune.cli.run import parts, run_single, wanted
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.objects import StorageError
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
    return stored.finished(Store(folder / "results"))


def test_one_student_and_the_teachers_it_chooses_from(do, plan: Plan, tmp_path: Path) -> None:
    result = do("--only", "rate=0.2,seed=1")
    assert result.exit_code == 0, result.output
    id = student(plan, 0.2, 1)
    assert finished(tmp_path) == {id, *plan.runs[id].waits_for}
    lines = result.stdout.splitlines()
    assert lines[0].startswith("profile paper: the file as it stands")
    assert [line.split()[0] for line in lines if not line.startswith(" ")][1:] == ["done"] * 4
    assert f"done      {plan.runs[id].name}  {tmp_path / 'results' / 'runs' / id}" in lines
    (hash,) = plan.evaluators
    accuracy = Store(tmp_path / "results").evaluation(id, hash)["test/accuracy"]
    assert f"          test/accuracy {accuracy:.4g}" in lines


def test_it_is_the_run_of_the_sweep(do, plan: Plan, tmp_path: Path, swept: Any) -> None:
    """The same ids, and the same numbers to the bit: the sweep takes it as done, and it takes what the sweep has."""
    id = student(plan, 0.0, 1)
    assert do("--only", "rate=0,seed=1").exit_code == 0, "0 is 0.0"
    assert stored.weights(Store(tmp_path / "results"), id) == stored.weights(Store(swept.results), id)


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
    assert all(len(stored.history(Store(tmp_path / "results"), id)) == 1 for id in new)
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


def test_the_beginning_of_an_id_or_a_name_will_do_for_a_run_that_has_not_begun(do, plan: Plan, tmp_path: Path) -> None:
    first, second, *_ = plan.runs
    name = plan.runs[second].name
    assert wanted(f"id={first[:4]}", plan) == {"id": first} and wanted(f"id={name}", plan) == {"id": second}
    assert do("--only", f"id={first[:6]}").exit_code == 0
    assert do("--only", f"id={name}").exit_code == 0
    assert finished(tmp_path) == {first, second}


def test_a_beginning_of_several_ids_is_refused_with_all_that_may_be_meant(do, plan: Plan) -> None:
    ids = ["abcd00000001", "abcd00000002"]
    one = next(iter(plan.places))
    several = SimpleNamespace(axes=(), runs=dict.fromkeys(ids, one), places=[], name="small")
    with pytest.raises(SweepFileError, match="'abcd' may be any of abcd00000001, abcd00000002; name one of them"):
        wanted("id=abcd", several)  # type: ignore[arg-type]
    for word in ("abc", "student rate=0.7 seed=0", "ffff"):
        said = do("--only", f"id={word}")
        assert said.exit_code == 2 and "is no run in small" in said.stderr


@pytest.mark.parametrize("only", ["dropout=0.2", "rate", "rate=0.2,seeds=1", "=1", "rate=0.2,"])
def test_what_is_no_axis_is_refused_naming_those_there_are(only: str, do, tmp_path: Path) -> None:
    result = do("--only", only)
    assert result.exit_code == 2
    assert "rate, seed, role, id" in result.stderr
    assert result.stdout == "" and not (tmp_path / "results").exists()


def test_an_axis_that_is_written_twice(do, tmp_path: Path) -> None:
    result = do("--only", "seed=0,rate=0.2,seed=1")
    assert result.exit_code == 2 and "seed is written twice" in result.stderr and not (tmp_path / "results").exists()


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


def test_what_would_fail_is_told_before_anything_starts(do, file: Path, tmp_path: Path) -> None:
    wrong = "  epochs: 3\n  augmentation: {crop: {padding: 9, mode: reflect}}"
    file.write_text(
        SMALL.replace("  epochs: 3", wrong).replace("[accuracy]", "[accuracy, {shift: {folder: {path: s, name: s}}}]")
    )
    (tmp_path / "s" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "s" / "a" / "1.png")
    result = do("--only", "rate=0.2,seed=1")
    assert result.exit_code == 4
    first, *rest = result.stderr.strip().splitlines()
    assert first == "refused: 2 things would fail" and "must hold the classes" in rest[0]
    assert rest[1].startswith("  teacher rate=0.2 seed=0 and 3 more: ") and "cannot be reflected by 9" in rest[1]
    assert finished(tmp_path) == set()


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


@pytest.fixture
def two_arms(file: Path) -> Path:
    """Distilled or alone, in the teachers' own architecture: a student alone is one of the teachers (row A5)."""
    text = SMALL.replace("rate: [0.0, 0.2]", "d: [{alpha: 0.9, temperature: 4}, null]")
    text = text.replace("[8], dropout: $rate", "[8]").replace("tion: {alpha: 0.9, temperature: 4}", "tion: $d")
    file.write_text(text.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""))
    return file


def test_a_place_is_found_whose_run_has_others_too(two_arms: Path, do, tmp_path: Path) -> None:
    result = do("--only", "d=null,seed=1")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines()[1:] if not line.startswith(" ")]
    assert line.startswith("done      student d=null seed=1 ")
    assert len(finished(tmp_path)) == 1


@pytest.mark.parametrize(
    "only",
    [
        "d={alpha: 0.9, temperature: 4},seed=1",
        "seed=1,d={temperature: 4.0,alpha: 9e-1}",
        "d={alpha=0.9,temperature=4},seed=1",
        'd={"alpha": 0.9, "temperature": 4}, seed=1',
    ],
)
def test_a_mapping_may_be_asked_for(only: str, two_arms: Path) -> None:
    """Row D3: it was split at its commas."""
    plan = build_plan(load_sweep(two_arms), two_arms.parent)
    chosen = plan.only(wanted(only, plan))
    assert [place.name for place in chosen.places if place.role == "student"] == [
        "student d=alpha=0.9,temperature=4 seed=1"
    ]


def test_text_is_split_at_the_commas_between_parts_alone() -> None:
    assert parts("a=1,b=[1,2],c={x: {y: 1, z: 2}},d='1,2',e=\"}\"") == [
        "a=1", "b=[1,2]", "c={x: {y: 1, z: 2}}", "d='1,2'", 'e="}"',
    ]  # fmt: skip
    assert parts("a") == ["a"] and parts("a,") == ["a", ""]


def test_the_refusal_says_what_lists_them(do, file: Path, tmp_path: Path) -> None:
    result = do("--only", "rate=0.3")
    assert "no run has rate=0.3; kdtune plan -v lists them" in result.stderr
    where = ["--results", str(tmp_path / "results"), "--profile", "paper"]
    listed = CliRunner().invoke(main, ["plan", "-v", str(file), *where])
    assert listed.exit_code == 0 and listed.stdout.count(" student rate=0.2 seed=1") == 1
    result = do("--only", "rate=0.2", "--max-runs", "3")
    assert result.exit_code == 4 and "--max-runs" in result.stderr


def test_a_dozen_lines_and_where_the_rest_is(do) -> None:
    """Row D6: every metric of every run was printed, 510 lines for one student of fickle."""
    result = do("--only", "rate=0.2,seed=1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) <= 15 and any(line.strip().startswith("test/accuracy ") for line in lines)
    assert any("more metrics: --json" in line for line in lines)


def test_a_storage_that_goes_away_is_status_5(file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    gone = StorageError("cannot read s3://b: it does not answer")
    gone.gone = True
    monkeypatch.setattr("kdtune.cli.run.launch_here", lambda dispatch, *_: dispatch.without_storage(gone))
    options = Options(file, results=str(tmp_path / "results"), data=str(tmp_path), here=True)
    assert run_single(options, "seed=0", None, debug=False) == 5
    assert "stopped: cannot read s3://b" in capsys.readouterr().err
