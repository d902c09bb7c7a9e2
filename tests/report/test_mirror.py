"""Results in a bucket, read like those in a folder: tables, status, figures, late measurements, TensorBoard's files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from s3 import S3

import kdtune
from kdtune.__main__ import main
from kdtune.cli.options import Options
from kdtune.cli.sweep import run
from kdtune.planning.plan import build_plan
from kdtune.report.folder import View
from kdtune.report.mirror import mirror, results_of
from kdtune.report.table import TableError, profile_folder
from kdtune.store.objects import Objects
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bucket(s3: S3, write_sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of the results of a small sweep."""
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "data"))
    uri = s3.bucket("some/prefix")
    assert run(Options(write_sweep(), results=uri, here=True, profile="paper", verbosity=-1)) == 0
    return uri


def inside(uri: str, key: str) -> str:
    base, query, options = uri.partition("?")
    return f"{base}/{key}{query}{options}"


def typed(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*words], env={"RAY_ADDRESS": None})
    return done.exit_code, done.output


def test_what_reads_a_folder_reads_a_bucket(bucket: str, tmp_path: Path) -> None:
    sweep = inside(bucket, "small")
    table = kdtune.table(sweep)
    assert len(table) == 10 and set(table["state"]) == {"done"}
    assert kdtune.table(inside(bucket, "small/paper")).equals(table)
    place = profile_folder(sweep)
    assert results_of(place) == bucket, "with endpoint and region"
    status, said = typed("status", sweep)
    assert status == 0 and "teachers: 6 done" in said and "students: 4 done" in said
    status, said = typed("table", sweep)
    assert status == 0 and len(said.splitlines()) == 11
    drawn = [sys.executable, "analysis/generic.py", sweep, "--output", str(tmp_path / "figures")]
    done = subprocess.run(drawn, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and list((tmp_path / "figures").glob("*.png")), done.stderr
    assert kdtune.load(table["id"][0], bucket).training is False


def test_what_changes_a_folder_changes_a_bucket(bucket: str) -> None:
    sweep = inside(bucket, "small")
    status, said = typed("evaluate", sweep, "--evaluation", "{accuracy: {}, label: again}", "--here")
    assert status == 0, said
    assert any("again" in name for name in kdtune.table(sweep).columns)
    id = kdtune.table(sweep).query("role == 'student'")["id"].iloc[0]
    status, said = typed("forget", sweep, id, "--yes")
    assert status == 0, said
    assert "students: 1 new, 3 done" in typed("status", sweep)[1]


def test_tensorboards_files_are_where_the_results_are(bucket: str) -> None:
    objects = Objects(bucket)
    events = [key for key in objects._backend.names("small/paper/tensorboard") if "tfevents" in key]
    assert len(events) >= 10
    for key in events:
        assert objects._backend.read(key) == (mirror(bucket) / key).read_bytes()


def test_a_sweeps_folder_that_was_deleted_is_whole_again(bucket: str, write_sweep) -> None:
    """But for its log, which is nobody's view: this command had nothing to do."""
    objects = Objects(bucket)
    before = set(objects._backend.names("small"))
    for key in before:
        objects._backend.delete(key)
    assert run(Options(write_sweep(), results=bucket, here=True, profile="paper", verbosity=-1)) == 0
    assert set(objects._backend.names("small")) == before - {"small/paper/log"}


def test_a_sweep_that_has_begun_nothing_has_nothing_to_upload(s3: S3, write_sweep, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "data"))
    plan, store = build_plan(load_sweep(write_sweep()), tmp_path), Store(s3.bucket())
    View(Standing(store, plan.evaluators), plan).upload()
    assert store.objects.list() == []


def test_two_buckets_have_two_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path))
    places = {
        mirror(uri)
        for uri in (
            "s3://a/x",
            "s3://b/x",
            "gs://a/x",
            "s3://a/x?endpoint=http://127.0.0.1:1",
            "s3://a/../x",
            "s3://a/x/y",
            "s3://a/x%20y",
            "s3://a/x_20y",
        )
    }
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    places.add(mirror("s3://a/x"))
    assert len(places) == 9 and all(place.resolve().is_relative_to(tmp_path / "mirror") for place in places)


def test_where_nothing_lies_or_nobody_answers(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.bucket()
    with pytest.raises(TableError, match=r"s3://bucket-\w+/prefix/small: no results here"):
        kdtune.table(inside(uri, "small"))
    assert typed("status", inside(uri, "small"))[0] == 2
    monkeypatch.setattr("kdtune.store.bucket.IMPATIENCE_S", 0.5)
    nobody = f"s3://b/x?region=us-east-1&endpoint=http:{2 * '/'}127.0.0.1:1"
    for words in (["status"], ["table"]):
        status, said = typed(*words, nobody)
        assert status == 4 and "cannot use s3://b/x" in said


def test_what_is_printed_for_a_bucket_can_be_typed(bucket: str, write_sweep, capsys) -> None:
    """With endpoint and region, without which another service is asked."""
    plan = build_plan(load_sweep(write_sweep()), Path())
    uri = View(Standing(Store(bucket), plan.evaluators), plan).uri
    assert uri == inside(bucket, "small/paper")
    assert typed("status", uri)[0] == 0
