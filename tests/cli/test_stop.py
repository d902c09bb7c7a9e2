"""`kdtune stop` and `kdtune sweep --retry`: what is typed, what is said, what the next command does."""

from __future__ import annotations

import shutil
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
from kdtune.store.standing import Standing
from kdtune.store.stopping import is_stopped, stop_of
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

OTHER = SMALL.replace("name: small", "name: other").replace("alpha: 0.9", "alpha: 0.5")  # the same teachers


def do(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sweep, undisturbed."""
    root = tmp_path_factory.mktemp("stop")
    (root / "small.yaml").write_text(SMALL)
    assert (
        run(Options(root / "small.yaml", (), "paper", results=str(root / "r"), data=str(root), here=True, verbosity=-1))
        == 0
    )
    return root / "r"


@pytest.fixture
def small(tmp_path: Path) -> Any:
    """Two sweeps that share their teachers, not begun; how `kdtune sweep` is given for each."""
    files = {"small": tmp_path / "small.yaml", "other": tmp_path / "other.yaml"}
    files["small"].write_text(SMALL)
    files["other"].write_text(OTHER)
    where = ["--results", tmp_path / "results", "--data", tmp_path, "--profile", "paper"]
    plan = build_plan(load_sweep(files["small"]), tmp_path)
    return SimpleNamespace(
        file=files["small"],
        where=where,
        results=tmp_path / "results",
        store=Store(tmp_path / "results"),
        plan=plan,
        id=lambda name: next(place.id for place in plan.places if place.name == name),
        sweep=lambda name="small", *more: do("sweep", files[name], *where, "--here", *more),
    )


def test_a_sweep_that_has_not_begun_leaves_a_stopped_run_out_until_it_is_told_to_retry(small, finished) -> None:
    teacher = small.id("teacher rate=0.2 seed=1")
    said = do("stop", small.file, "teacher rate=0.2 seed=1", "--reason", "too slow", *small.where)
    assert said.exit_code == 0, said.output
    assert f"teacher rate=0.2 seed=1  {teacher}: stopped; nobody trains it now" in said.stdout
    assert "--retry" in said.stdout and "kdtune.sweep" in said.stdout
    swept = small.sweep()
    assert swept.exit_code == 3, swept.output
    assert "1 stopped" in swept.stdout and "2 skipped" in swept.stdout and "7 done" in swept.stdout
    by = str(stop_of(small.store.objects, teacher))
    assert by.endswith(": too slow")
    assert f"stopped: teacher rate=0.2 seed=1 ({teacher}): {by}" in swept.stdout
    assert f"its teacher {teacher} was stopped {by}" in swept.stdout
    last = swept.stdout.splitlines()[-1]
    assert last.startswith("go on") and last.endswith("--retry")
    once_more = small.sweep()
    assert once_more.exit_code == 3 and once_more.stdout.splitlines()[-1] == last
    assert not small.store.objects.list(f"runs/{teacher}")
    retried = small.sweep("small", "--retry")
    assert retried.exit_code == 0, retried.output
    assert "1 stopped run taken up again" in retried.stdout and "--retry" not in retried.stdout.splitlines()[-1]
    for id in small.plan.runs:
        assert stored.weights(small.store, id) == stored.weights(Store(finished), id)


def test_another_sweep_of_the_same_teacher_skips_its_own_students_and_says_why(small) -> None:
    teacher = small.id("teacher rate=0.2 seed=1")
    assert do("stop", small.file, teacher, *small.where).exit_code == 0
    other = small.sweep("other")
    assert (
        other.exit_code == 3 and "2 skipped" in other.stdout and f"its teacher {teacher} was stopped by" in other.stdout
    )
    assert small.sweep("other", "--retry").exit_code == 0
    assert small.sweep().exit_code == 0, "it is free for both"


def test_retry_takes_up_the_runs_of_its_own_plan_alone(small) -> None:
    ours, theirs = small.id("student rate=0.2 seed=0"), "0123456789ab"
    assert do("stop", small.file, ours, *small.where).exit_code == 0
    small.store.objects.put(f"runs/stopped/{theirs}", b"whatever")
    assert small.sweep("small", "--retry").exit_code == 0
    assert not is_stopped(small.store.objects, ours) and is_stopped(small.store.objects, theirs)


def test_a_dry_run_says_what_is_stopped_and_takes_nothing_away(small) -> None:
    assert do("stop", small.file, "--only", "rate=0.2,role=teacher", *small.where).exit_code == 0
    said = do("plan", small.file, *small.where)
    assert "6 teachers: 3 new, 3 stopped" in said.stdout and "3 stopped by hand" in said.stdout
    said = do("sweep", small.file, *small.where, "--dry-run", "--retry")
    assert "6 teachers: 6 new" in said.stdout
    assert len(small.store.objects.list("runs/stopped")) == 3


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "results")


@pytest.mark.parametrize("place", ["small", "small/paper", "."])
def test_a_finished_run_stays_what_it_is(small, results, place) -> None:
    id = small.id("student rate=0.2 seed=0")
    before = sorted(small.store.objects.list("runs"))
    said = do("stop", results / place, id, "--data", small.results.parent)
    assert said.exit_code == 0 and "finished (done), nothing changes" in said.stdout, said.output
    assert "--retry" not in said.stdout
    assert sorted(small.store.objects.list("runs")) == before


@pytest.mark.parametrize("place", ["small", "."])
def test_runs_are_named_by_id_its_beginning_or_name_in_a_folder_and_in_all_results(small, results, place) -> None:
    name = "student rate=0.2 seed=1"
    id = small.id(name)
    for path in (results / "runs/done" / id, results / "runs" / id):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    for word in (name, id[:7], id):
        said = do("stop", results / place, word, "--data", small.results.parent)
        assert said.exit_code == 0, said.output
        assert id in said.stdout and "stopped" in said.stdout
    assert said.stdout.count("already stopped by") == 1
    assert Standing(small.store).state(id) == "stopped"


def test_who_holds_it_now_is_told(small) -> None:
    id = small.id("student rate=0.2 seed=0")
    with small.store.claim(id):
        said = do("stop", small.file, id, *small.where).stdout
    assert "ends it when its epoch is over" in said


def test_what_is_not_there_is_refused_and_nothing_is_written(small, results) -> None:
    before = sorted(small.store.objects.list("runs"))
    where = ("--data", small.results.parent)
    for words, message in (
        ((results / "small", "0123456789ab"), "has a run 0123456789ab"),
        ((results / "small", "student rate=0.7 seed=0"), "is no run in"),
        ((results / "small",), "which runs?"),
        ((results / "small", "0123456789ab", "--only", "rate=0.2"), "which runs?"),
        ((results / "small", "--only", "rate=0.7"), "no run has rate=0.7"),
        ((results / "small", "--only", "ratte=0.2"), "rate, seed, role, id"),
        ((results, "--only", "rate=0.2"), "here runs have ids and names alone"),
        ((results.parent / "nowhere", "0123456789ab"), "nowhere"),
    ):
        said = do("stop", *words, *where)
        assert said.exit_code == 2 and message in said.stderr, (words, said.output)
    assert sorted(small.store.objects.list("runs")) == before


def test_status_says_who_stopped_what_and_when(small) -> None:
    teacher = small.id("teacher rate=0.2 seed=1")
    assert do("stop", small.file, teacher, "--reason", "too slow", *small.where).exit_code == 0
    assert small.sweep().exit_code == 3
    said = do("status", small.results / "small").stdout
    assert "teachers: 3 done, 1 stopped" in said or "1 stopped" in said.splitlines()[1]
    assert f"stopped {teacher} teacher rate=0.2 seed=1: {stop_of(small.store.objects, teacher)}" in said
    assert "--retry" in said


def test_a_single_run_says_that_it_is_stopped(small) -> None:
    id = small.id("teacher rate=0.2 seed=1")
    assert do("stop", small.file, id, *small.where).exit_code == 0
    said = do("run", small.file, "--only", "rate=0.2,seed=0,role=student", *small.where)
    assert said.exit_code == 3
    assert str(stop_of(small.store.objects, id)) in said.stdout and "was stopped by" in said.stdout


def test_a_stopped_run_that_is_forgotten_begins_anew(small, results) -> None:
    id = small.id("student rate=0.2 seed=0")
    (results / "runs/done" / id).unlink()
    assert do("stop", results / "small", id, "--data", small.results.parent).exit_code == 0
    assert do("forget", results / "small", id, "--data", small.results.parent).exit_code == 0
    assert Standing(small.store).state(id) == "new"


def test_runs_of_a_bucket(small, s3) -> None:
    bucket, student = s3.bucket(), "student rate=0.2 seed=0"
    where = ["--results", bucket, "--data", small.results.parent, "--profile", "paper"]
    assert do("stop", small.file, student, *where).exit_code == 0
    swept = do("sweep", small.file, *where, "--here")
    assert swept.exit_code == 3 and "1 stopped" in swept.stdout, swept.output
    for place in (bucket, bucket.replace("/prefix?", "/prefix/small?")):
        said = do("stop", place, student, "--data", small.results.parent)
        assert said.exit_code == 0 and "already stopped by" in said.stdout, said.output
    assert do("sweep", small.file, *where, "--here", "--retry").exit_code == 0
