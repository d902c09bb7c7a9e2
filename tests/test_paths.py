"""Where results and data lie: flag, then environment, then a default."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtune.paths import data_folder, results_folder


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without settings, in an empty folder."""
    for name in ("KDTUNE_RESULTS", "KDTUNE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_lie_where_the_command_is_given(bare: Path) -> None:
    assert results_folder() == str(bare / "results")


def test_the_flag_goes_before_the_environment(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_RESULTS", "elsewhere")
    monkeypatch.setenv("KDTUNE_DATA", "sets")
    assert results_folder() == str(bare / "elsewhere")
    assert results_folder("mine") == str(bare / "mine")
    assert data_folder() == bare / "sets"
    assert data_folder("mine") == bare / "mine"


def test_an_empty_variable_says_nothing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KDTUNE_RESULTS", "KDTUNE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert results_folder() == str(bare / "results")
    assert data_folder() == bare / "user" / ".cache" / "kdtune"


def test_a_folder_is_absolute_because_other_processes_work_elsewhere(bare: Path) -> None:
    assert results_folder("a/../b/.") == str(bare / "b")
    assert results_folder("~/r") == str(bare / "user" / "r")
    assert data_folder("~/d") == bare / "user" / "d"


def test_a_uri_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_folder("s3://bucket/prefix//x") == "s3://bucket/prefix//x"
    monkeypatch.setenv("KDTUNE_RESULTS", "s3://bucket/other")
    assert results_folder() == "s3://bucket/other"


def test_data_lie_in_the_cache_folder_of_the_user(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() == bare / "user" / ".cache" / "kdtune"
    monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "cache"))
    assert data_folder() == bare / "cache" / "kdtune"


def test_asking_makes_nothing(bare: Path) -> None:
    results_folder()
    data_folder()
    assert list(bare.iterdir()) == []
