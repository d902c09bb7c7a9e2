"""`kdtune bundle` and `kdtune import`: a real sweep is handed on, to a folder and to a bucket."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import bundles
import pandas
import pytest
import stored
from click.testing import CliRunner, Result
from conftest import SMALL
from s3 import S3

import kdtune
import kdtune.training.run
from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import build_plan
from kdtune.store.importing import imported
from kdtune.store.objects import Objects
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A sweep, finished, and its bundle; neither to be changed."""
    root = tmp_path_factory.mktemp("swept")
    (root / "small.yaml").write_text(SMALL)
    flags = {"data": str(root), "here": True, "profile": "paper", "verbosity": -1}
    assert run(Options(root / "small.yaml", results=str(root / "results"), **flags)) == 0
    assert kd("bundle", root / "results/small", root / "small.tar").exit_code == 0
    plan = build_plan(load_sweep(root / "small.yaml"), root)
    return SimpleNamespace(
        root=root, results=root / "results", tar=root / "small.tar", file=root / "small.yaml", plan=plan, flags=flags
    )


@pytest.fixture
def results(swept: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of its results."""
    return shutil.copytree(swept.results, tmp_path / "copy")


def kd(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)], env={"RAY_ADDRESS": None, "KDTUNE_RESULTS": None})


def inside(uri: str, key: str) -> str:
    base, query, options = uri.partition("?")
    return f"{base}/{key}{query}{options}"


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something is trained or measured")

    for name in ("trained", "evaluate"):
        monkeypatch.setattr(kdtune.training.run, name, refuse)


def test_a_sweep_arrives_whole_and_its_own_command_trains_nothing(
    swept: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    done = kd("import", swept.tar, "--results", there)
    assert done.exit_code == 0, done.output
    assert re.match(r"small, profile paper, manifest [0-9a-f]{12}: 10 runs\n", done.stdout)
    assert f"10 new in {there}/runs" in done.stdout and f"its table is in {there}/small/paper" in done.stdout
    assert bundles.tree(there).items() >= bundles.opened(swept.tar.read_bytes()).items()
    assert imported(Objects(there)) == set(swept.plan.runs)

    theirs, ours = (kdtune.table(str(root / "small")) for root in (there, swept.results))
    pandas.testing.assert_frame_equal(theirs, ours)
    said = kd("status", there / "small").stdout
    assert "teachers: 6 done" in said and "students: 4 done" in said
    assert kd("table", there / "small").stdout == kd("table", swept.results / "small").stdout
    assert kd("report", there / "small").exit_code == 0
    assert "student rate=0.2" in (there / "small/paper/report.html").read_text()
    assert kdtune.load("student rate=0.2 seed=1", str(there / "small")).training is False

    forbid_training(monkeypatch)
    assert run(Options(swept.file, results=str(there), **swept.flags)) == 0
    assert kd("evaluate", there / "small", "--evaluation", "accuracy", "--here").exit_code == 0
    again = kd("import", swept.tar, "--results", there)
    assert again.exit_code == 0 and "everything is there already" in again.stdout
    assert "small/paper is there already, and stays as it is" in again.stdout


def test_the_default_place_is_that_of_all_commands(
    swept: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kd("import", swept.tar).exit_code == 0
    assert (tmp_path / "results/small/paper/plan.json").is_file()


def test_more_seeds_go_on_from_the_teachers_that_were_imported(swept: SimpleNamespace, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert kd("import", swept.tar, "--results", there).exit_code == 0
    before = stored.finished(Store(there))
    assert run(Options(swept.file, seeds=3, results=str(there), **swept.flags)) == 0
    assert len(stored.finished(Store(there)) - before) == 2, "a student a point; no teacher"


def test_a_profile_by_its_folder_or_its_name_and_the_same_bytes(swept: SimpleNamespace, tmp_path: Path) -> None:
    for number, words in enumerate(([swept.results / "small/paper"], [swept.results / "small", "--profile", "paper"])):
        path = tmp_path / f"{number}.tar"
        done = kd("bundle", *words[:1], path, *words[1:])
        assert done.exit_code == 0, done.output
        assert path.read_bytes() == swept.tar.read_bytes()
        assert "small on digits (8 x 8, scikit-learn), profile paper: 10 runs" in done.stdout
        assert re.search(rf"wrote {path}: \d+ files, \d\.\d MiB, manifest [0-9a-f]{{12}}\n", done.stdout)


def test_what_cannot_be_bundled(swept: SimpleNamespace, results: Path, tmp_path: Path) -> None:
    taken = kd("bundle", swept.results / "small", swept.tar)
    assert taken.exit_code == 4 and f"refused: {swept.tar} is there already" in taken.stderr
    assert kd("bundle", tmp_path / "nowhere", tmp_path / "x.tar").exit_code == 2
    assert kd("bundle", swept.results / "small", tmp_path / "x.tar", "--profile", "quick").exit_code == 2
    assert kd("bundle", swept.results / "small", tmp_path).exit_code == 2, "a folder"
    apart = shutil.copytree(results / "small", tmp_path / "apart/small")
    alone = kd("bundle", apart, tmp_path / "x.tar")
    assert alone.exit_code == 4 and "none of the 10 runs of" in alone.stderr, "its runs lie elsewhere"
    weights = next(results.glob("runs/*/*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = kd("bundle", results / "small", tmp_path / "x.tar")
    assert damaged.exit_code == 4 and f"refused: {weights} is damaged" in damaged.stderr
    (results / "small/paper/sweep.yaml").unlink()
    lacking = kd("bundle", results / "small", tmp_path / "x.tar")
    assert lacking.exit_code == 4 and "sweep.yaml is missing; the sweep's own command writes it" in lacking.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apart", "copy"]


def test_a_sweep_that_is_not_finished_is_handed_on_as_far_as_it_is(
    swept: SimpleNamespace, results: Path, tmp_path: Path
) -> None:
    student, other = [id for id, place in swept.plan.runs.items() if place.role == "student"][2:]
    for id in (student, other):
        (results / "runs/done" / id).unlink()
        shutil.rmtree(results / "runs" / id)
    Store(results).attempt(other).write_failure(ValueError("a cable was pulled"))
    done = kd("bundle", results / "small", tmp_path / "part.tar")
    assert done.exit_code == 0
    assert "profile paper: 8 runs\n  without 2 runs of its plan, not finished: 1 new, 1 failed\n" in done.stdout
    there = tmp_path / "there"
    assert kd("import", tmp_path / "part.tar", "--results", there).exit_code == 0
    assert "students: 2 done, 2 new" in kd("status", there / "small").stdout

    assert run(Options(swept.file, results=str(there), **swept.flags)) == 0, "the rest is done there"
    whole = kd("import", swept.tar, "--results", there)
    assert whole.exit_code == 0 and "everything is there already" in whole.stdout, "this machine trains the same bytes"
    assert stored.weights(Store(there), student) == stored.weights(Store(swept.results), student)


def test_the_rest_of_a_sweep_is_added_to_a_part(swept: SimpleNamespace, results: Path, tmp_path: Path) -> None:
    id = next(id for id, place in swept.plan.runs.items() if place.role == "student")
    evaluations = next(results.glob(f"runs/{id}/*/evaluations"))
    shutil.rmtree(evaluations)
    lost = [each for each, place in swept.plan.runs.items() if place.role == "student"][1]
    (results / "runs/done" / lost).unlink()
    done = kd("import", swept.tar, "--results", results)
    assert done.exit_code == 0
    assert (
        "1 new in" in done.stdout
        and "9 there already with the same weights, 1 of their evaluations added" in done.stdout
    )
    assert evaluations.is_dir() and stored.finished(Store(results)) == set(swept.plan.runs)


def test_other_weights_are_refused_by_name(swept: SimpleNamespace, tmp_path: Path) -> None:
    there = tmp_path / "there"
    store, id = Store(there), next(iter(swept.plan.runs))
    attempt = store.attempt(id)
    attempt.write_description(swept.plan.runs[id].run.description)
    attempt.finish("done", b"others", [], {})
    before = bundles.tree(there)
    done = kd("import", swept.tar, "--results", there)
    assert done.exit_code == 4 and f"run {id} has weights " in done.stderr and "nothing was written" in done.stderr
    assert bundles.tree(there) == before


def test_what_was_imported_can_be_forgotten_and_imported_again(swept: SimpleNamespace, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert kd("import", swept.tar, "--results", there).exit_code == 0
    id = next(id for id, place in swept.plan.runs.items() if place.role == "teacher")
    assert kd("forget", there, id, "--yes").exit_code == 0
    gone = set(swept.plan.runs) - stored.finished(Store(there))
    assert id in gone and len(gone) > 1
    done = kd("import", swept.tar, "--results", there)
    assert done.exit_code == 0 and f"{len(gone)} new in" in done.stdout
    assert stored.finished(Store(there)) == set(swept.plan.runs)


def test_results_that_cannot_be_written_are_refused(swept: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = kd("import", swept.tar, "--results", tmp_path / "file")
    assert done.exit_code == 4 and "a file stands where a folder should be" in done.stderr
    assert kd("import", swept.tar, "--results", "").exit_code == 4


def test_from_a_folder_to_a_bucket_and_back(
    swept: SimpleNamespace, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "data"))
    uri = s3.bucket("some/prefix")
    done = kd("import", swept.tar, "--results", uri)
    assert done.exit_code == 0, done.output
    assert "10 new in s3://" in done.stdout
    files = bundles.opened(swept.tar.read_bytes())
    objects = Objects(uri)
    assert {key: objects.get(key) for key in files} == files and imported(objects) == set(swept.plan.runs)
    sweep = inside(uri, "small")
    pandas.testing.assert_frame_equal(kdtune.table(sweep), kdtune.table(str(swept.results / "small")))
    assert "students: 4 done" in kd("status", sweep).stdout
    assert kdtune.load(next(iter(swept.plan.runs)), uri).training is False
    again = kd("import", swept.tar, "--results", uri)
    assert again.exit_code == 0 and "everything is there already" in again.stdout

    done = kd("bundle", sweep, tmp_path / "back.tar")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "back.tar").read_bytes() == swept.tar.read_bytes()

    forbid_training(monkeypatch)
    assert run(Options(swept.file, results=uri, **swept.flags)) == 0


def test_a_bucket_that_does_not_answer_is_told(swept: SimpleNamespace, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.bucket()
    monkeypatch.setattr("kdtune.store.bucket.IMPATIENCE_S", 0.2)
    s3.door.shut = True
    done = kd("import", swept.tar, "--results", uri)
    assert done.exit_code == 4 and "refused: cannot use" in done.stderr
