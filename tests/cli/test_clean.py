"""`kdtune clean`: which runs nothing refers to, what is said of them, and that nothing else is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stored
from click.testing import CliRunner, Result
from conftest import SMALL

from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import build_plan
from kdtune.store.encoding import seal
from kdtune.store.importing import imported
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.store.unreferred import unreferred
from kdtune.sweepfile.load import load_sweep

OTHER = SMALL.replace("name: small", "name: other").replace("alpha: 0.9", "alpha: 0.5")  # the same teachers
OLD_S = 7200.0


def do(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["clean", *map(str, words)])


def sweep(file: Path, results: str | Path) -> int:
    return run(Options(file, (), "paper", results=str(results), data=str(file.parent), here=True, verbosity=-1))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two sweeps that share their six teachers, four students each, to be copied."""
    root = tmp_path_factory.mktemp("clean")
    plans = {}
    for name, text in (("small", SMALL), ("other", OTHER)):
        (root / f"{name}.yaml").write_text(text)
        assert sweep(root / f"{name}.yaml", root / "results") == 0
        plans[name] = build_plan(load_sweep(root / f"{name}.yaml"), root)
    students = {name: {id for id, each in plan.runs.items() if each.role == "student"} for name, plan in plans.items()}
    return SimpleNamespace(root=root, students=students, runs={id for plan in plans.values() for id in plan.runs})


def age(path: Path, seconds: float = OLD_S) -> None:
    for each in (path, *path.rglob("*")):
        os.utime(each, (time.time() - seconds,) * 2)


@pytest.fixture
def results(swept: Any, tmp_path: Path) -> Path:
    copy = shutil.copytree(swept.root / "results", tmp_path / "results")
    age(copy)
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    """But for the lock."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name != ".lock"}


def names(results: Path) -> set[str]:
    return {path.name for path in (results / "runs").iterdir() if len(path.name) == 12}


def test_where_all_is_referred_to_there_is_nothing_to_clean(results) -> None:
    before = contents(results)
    said = do(results, "--yes")
    assert said.exit_code == 0 and said.stdout.splitlines() == [
        f"nothing to clean in {results}: something refers to each run, or it changed just now"
    ]
    assert contents(results) == before


def test_runs_of_a_sweep_whose_folder_is_gone_are_listed_and_moved_when_that_is_asked_for(swept, results) -> None:
    shutil.rmtree(results / "other")
    before = contents(results)
    said = do(results)
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert {line.split("  ")[1] for line in lines[:4]} == swept.students["other"], "the teachers stay: small has them"
    assert all(line.startswith("student mlp seed=") and "kB, last written 2.0 h ago" in line for line in lines[:4])
    assert lines[4].startswith("4 runs to which no sweep's folder refers, ")
    assert "nothing was moved: --yes" in lines[5] and contents(results) == before
    said = do(results, "--yes")
    assert said.exit_code == 0 and "moved to" in said.stdout
    (trash,) = (results / "runs/trash").iterdir()
    after = contents(results)
    moved = {name.replace(f"runs/trash/{trash.name}/", "runs/"): data for name, data in after.items()}
    assert moved == before, "nothing is lost, and nothing but these has moved"
    assert names(results) == swept.runs - swept.students["other"]
    assert do(results).stdout.startswith("nothing to clean")
    command = next(line for line in said.stdout.splitlines() if "cp -rn" in line).partition("cp -rn ")[2].split()[:2]
    subprocess.run(["cp", "-rn", *command], check=True)
    assert stored.finished(Store(results)) == swept.runs


def test_both_sweeps_gone_teachers_go_with_their_students(swept, results) -> None:
    shutil.rmtree(results / "other")
    shutil.rmtree(results / "small")
    assert "14 runs" in do(results, "--yes").stdout
    assert names(results) == set() and stored.finished(Store(results)) == set()
    again = do(results)
    assert again.exit_code == 0 and again.stdout == f"nothing to clean in {results}: it has no runs\n"


def test_the_sweep_that_is_given_again_trains_what_was_moved(swept, results) -> None:
    shutil.rmtree(results / "other")
    assert do(results, "--yes").exit_code == 0
    assert sweep(swept.root / "other.yaml", results) == 0
    assert stored.finished(Store(results)) == swept.runs


def test_what_changed_within_the_hour_stays_with_its_teachers(swept, results) -> None:
    shutil.rmtree(results / "other")
    shutil.rmtree(results / "small")
    fresh = sorted(swept.students["other"])[0]
    age(results / "runs" / fresh, 3000)
    teachers = Standing(Store(results)).look(fresh).provenance["teacher"]["id"]
    said = do(results, "--yes")
    assert "1 run more changed within the last hour" in said.stdout
    assert {fresh, teachers} <= names(results) and len(names(results)) == 1 + 3, "it chose from three"


def test_who_is_at_work_keeps_its_run_and_its_teachers(swept, results) -> None:
    shutil.rmtree(results / "other")
    ours = sorted(swept.students["other"])[0]
    with Store(results).claim(ours):
        assert do(results, "--yes").exit_code == 0
    assert swept.students["other"] & names(results) == {ours}


def test_an_import_refers_to_its_runs(swept, results) -> None:
    shutil.rmtree(results / "other")
    ours = sorted(swept.students["other"])[:2]
    store = Store(results)
    store.objects.put("runs/imports/0123456789ab", seal({"runs": ours, "from": "elsewhere"}))
    assert imported(store.objects) == {*ours}
    assert do(results, "--yes").exit_code == 0
    assert swept.students["other"] & names(results) == {*ours}


def test_a_plan_that_was_put_aside_refers_to_its_runs_still(swept, results) -> None:
    (results / "archive").mkdir()
    (results / "other").rename(results / "archive/other")
    assert do(results, "--yes").stdout.startswith("nothing to clean")


def break_plan(results: Path) -> str:
    (results / "other/paper/plan.json").write_text('{"runs": [{"id": "no"}]}')
    return "other/paper/plan.json"


def cut_plan(results: Path) -> str:
    plan = results / "other/paper/plan.json"
    plan.write_bytes(plan.read_bytes()[:100])
    return "other/paper/plan.json"


def break_import(results: Path) -> str:
    Store(results).objects.put("runs/imports/0123456789ab", b"{}")
    return "runs/imports/0123456789ab"


def link_away(results: Path) -> str:
    (results / "other").rename(results.parent / "other")
    (results / "other").symlink_to(results.parent / "other")
    return "other is a link"


def begin(results: Path) -> str:
    claim = Store(results).claim("sweep/third/paper")
    assert claim is not None
    claim.abandon()  # no more heartbeats, and none is missed yet
    return "third/paper"


def break_description(results: Path) -> str:
    plan = json.loads((results / "small/paper/plan.json").read_bytes())
    shutil.rmtree(results / "small")
    shutil.rmtree(results / "other")
    (first,) = (run["id"] for run in plan["runs"][-1:])
    for path in (results / "runs" / first).rglob("run.yaml"):
        path.write_text("[")
    age(results / "runs" / first, 60)
    return f"runs/{first}"


@pytest.mark.parametrize("harm", [break_plan, cut_plan, break_import, link_away, begin, break_description])
def test_what_may_refer_to_anything_is_named_and_nothing_is_moved(results, harm) -> None:
    where = harm(results)
    before = contents(results)
    said = do(results, "--yes")
    assert said.exit_code == 4 and said.stderr.startswith("refused: ") and where in said.stderr, said.output
    assert "nothing was moved" in said.stderr and contents(results) == before


def test_a_run_that_is_in_a_plan_needs_no_description_of_its_own(swept, results) -> None:
    (one, *_) = sorted(swept.students["small"])
    for path in (results / "runs" / one).rglob("run.yaml"):
        path.unlink()
    age(results)
    shutil.rmtree(results / "other")
    assert do(results, "--yes").exit_code == 0
    assert names(results) == swept.runs - swept.students["other"]


def test_stored_answers_stay_and_that_is_said(results) -> None:
    Store(results).objects.put("runs/responses/abcdef/attempt/000", bytes(2_000_000))
    said = do(results, "--yes").stdout
    assert "stored answers of teachers stay too (2.0 MB)" in said
    assert (results / "runs/responses/abcdef/attempt/000").is_file()


def test_no_results_are_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    place = tmp_path / "results"
    said = do(place, "--yes")
    assert said.exit_code == 2 and "there is no such folder" in said.stderr and not place.exists()
    place.mkdir()
    said = do(place, "--yes")
    assert said.exit_code == 0 and said.stdout == f"nothing to clean in {place}: it has no runs\n"
    assert not [*place.iterdir()]


@pytest.mark.parametrize("place", ["small", "small/paper", "small/paper/plan.json"])
def test_a_part_of_results_is_told_from_results(results, place) -> None:
    said = do(results / place, "--yes")
    assert said.exit_code == 2 and "runs are those of all results: kdtune clean " in said.stderr
    assert place.endswith(".json") or f"kdtune clean {results}" in said.stderr


def test_a_bucket(swept, s3) -> None:
    bucket = s3.bucket()
    store = Store(bucket)
    for name, data in contents(swept.root / "results").items():
        if not name.startswith("other/") and not Path(name).name.startswith(".") and "tensorboard" not in name:
            store.objects.put(name, data)
    fresh = do(bucket)
    assert fresh.exit_code == 0 and "4 runs more changed within the last hour" in fresh.stdout, fresh.output
    found = unreferred(store.objects, store.claims, now=time.time() + OLD_S)
    assert {*found.runs} == swept.students["other"] and not found.recent
    assert all(found.sizes[id] > 0 for id in found.runs)
