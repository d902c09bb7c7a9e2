"""Whole sweeps in a bucket that fails, goes away and comes back, or does not: what is finished is as without that."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
import stored
from launch.test_faults import ROOT, sweep, wait_for
from s3 import CREDENTIALS, S3

from kdtune.planning.plan import build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep and its results on this disk."""
    from conftest import SMALL

    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "small.yaml").write_text(SMALL)
    driver = sweep(folder / "small.yaml", folder / "results", "--data", str(folder))
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, out + err
    return folder


def timeless(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in history]


def same(uri: str, undisturbed: Path) -> None:
    """All runs are there, with the bytes that they have without any fault."""
    plan = build_plan(load_sweep(undisturbed / "small.yaml"), undisturbed)
    here, there = Store(undisturbed / "results"), Store(uri)
    assert stored.finished(there) == set(plan.runs)
    for id in plan.runs:
        assert stored.weights(there, id) == stored.weights(here, id)
        assert timeless(stored.history(there, id)) == timeless(stored.history(here, id))
    assert not any(there.owner(id) for id in plan.runs), "all claims are given back"


def test_every_fifth_request_fails_and_some_answers_are_lost(s3: S3, undisturbed: Path) -> None:
    uri = s3.bucket()
    s3.door.failing, s3.door.unheard = 0.2, 0.05
    driver = sweep(undisturbed / "small.yaml", uri, "--data", str(undisturbed))
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0 and "10 done" in out, out + err
    assert s3.door.refused > 20
    s3.door.open_again()
    same(uri, undisturbed)
    assert not any(secret in out + err for secret in CREDENTIALS.values())


def test_it_is_away_for_75_seconds(s3: S3, undisturbed: Path) -> None:
    uri = s3.bucket()
    driver = sweep(undisturbed / "small.yaml", uri, "--data", str(undisturbed))
    store = Store(uri)
    wait_for(lambda: stored.finished(store), driver)
    s3.door.shut = True
    threading.Timer(75.0, s3.door.open_again).start()
    began = time.monotonic()
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0 and "10 done" in out, out + err
    assert time.monotonic() - began > 70, "it was away while runs were left"
    same(uri, undisturbed)


def test_it_does_not_come_back_and_the_command_says_what_is_kept(
    s3: S3, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import kdtune.store.backend as backend; backend.PATIENCE_S = 8.0")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    uri = s3.bucket()
    driver = sweep(undisturbed / "small.yaml", uri, "--data", str(undisturbed))
    store = Store(uri)
    wait_for(lambda: stored.finished(store), driver)
    s3.door.shut = True
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 5, out + err
    assert "stopped: cannot " in err and "What was finished is stored there" in err
    assert "python -m kdtune.sweep" in err.splitlines()[-1] and uri.partition("?")[0] in err.splitlines()[-1]
    s3.door.open_again()
    driver = sweep(undisturbed / "small.yaml", uri, "--data", str(undisturbed))
    out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0 and "10 done" in out, out + err
    same(uri, undisturbed)


def test_two_ctrl_c_end_it_while_the_bucket_is_away(s3: S3, undisturbed: Path) -> None:
    """In the very process that waits for it."""
    uri = s3.bucket()
    driver = sweep(undisturbed / "small.yaml", uri, "--data", str(undisturbed), "--here")
    wait_for(lambda: stored.finished(Store(uri)), driver)
    s3.door.shut = True
    time.sleep(3)
    began = time.monotonic()
    for _ in range(2):
        driver.send_signal(signal.SIGINT)
        time.sleep(1)
    _, err = driver.communicate(timeout=100)
    assert driver.returncode == 130, err
    assert time.monotonic() - began < 15
