"""Where a result comes from: commit, libraries, machine, time, the teacher chosen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdtune.training.provenance import LIBRARIES, TRAVELLED, code, origin, provenance

ROOT = Path(__file__).parents[2]
DATA: Any = SimpleNamespace(shape=(1, 8, 8), classes=10)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@localhost", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def installed(folder: Path) -> Path:
    """A package of the name of ours below `folder`, with the module alone."""
    (folder / "kdtune" / "training").mkdir(parents=True)
    for package in (folder / "kdtune", folder / "kdtune" / "training"):
        (package / "__init__.py").write_text("")
    shutil.copy(ROOT / "kdtune" / "training" / "provenance.py", folder / "kdtune" / "training")
    return folder


def code_of(folder: Path) -> dict[str, Any]:
    """What `code` says of the package below `folder`, in a process of its own."""
    program = "import json; from kdtune.training import provenance; print(json.dumps(provenance.code()))"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = installed(tmp_path / "clone")
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("__pycache__/\n.venv/\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_record_holds_what_it_takes_to_repeat_a_run() -> None:
    began = time.monotonic() - 2.5
    record = provenance(DATA, "cpu", began, {})
    assert json.loads(json.dumps(record, allow_nan=False)) == record, "plain values"
    assert record["libraries"] == {name: version(name) for name in (*LIBRARIES, "kdtune")}
    assert record["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["seconds"] == pytest.approx(2.5, abs=1)
    assert record["threads"] == torch.get_num_threads()
    assert record["device"].endswith("CPU")
    assert (record["shape"], record["classes"]) == ([1, 8, 8], 10), "a network can be built from it again"
    finished = datetime.strptime(record["finished"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - finished).total_seconds()) < 60
    assert {"commit", "dirty", "python", "host"} <= set(record)


def test_the_teacher_stands_in_it_only_where_there_is_one() -> None:
    assert "teacher" not in provenance(DATA, "cpu", time.monotonic(), {})
    teacher = {"id": "0" * 12, "score": 93.0}
    assert provenance(DATA, "cpu", time.monotonic(), teacher)["teacher"] == teacher


def test_the_epoch_whose_weights_were_kept_is_part_of_it_where_it_was_chosen() -> None:
    kept = {"epoch": 2, "metric": "val/accuracy", "score": 81.5}
    assert provenance(DATA, "cpu", time.monotonic(), {}, kept)["kept"] == kept
    assert "kept" not in provenance(DATA, "cpu", time.monotonic(), {})


def test_the_commit_of_this_code() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of kdtune has no git history")
    origin.cache_clear()
    assert code()["commit"] == git(ROOT, "rev-parse", "HEAD")


def test_code_that_travelled_to_another_machine_is_what_it_was_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"commit": "c" * 40, "dirty": True, "version": "0.2.0"}
    monkeypatch.setenv(TRAVELLED, json.dumps(told))
    assert code_of(installed(tmp_path / "elsewhere")) == {"commit": "c" * 40, "dirty": True}


def test_a_clean_checkout_a_changed_file_and_a_new_one(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert code_of(checkout) == {"commit": head, "dirty": False}
    (checkout / "new.txt").write_text("x")
    assert code_of(checkout) == {"commit": head, "dirty": True}
    (checkout / "new.txt").unlink()
    (checkout / "kdtune" / "__init__.py").write_text("changed = True\n")
    assert code_of(checkout) == {"commit": head, "dirty": True}


def test_without_a_history_there_is_no_commit(tmp_path: Path) -> None:
    assert code_of(installed(tmp_path / "plain")) == {"commit": None, "dirty": None}


def test_installed_below_another_project_its_commit_is_not_taken_for_ours(checkout: Path) -> None:
    """`~/project/.venv/lib/.../site-packages/kdtune` lies inside the project's own repository."""
    shutil.rmtree(checkout / "kdtune")
    site_packages = installed(checkout / ".venv" / "lib" / "site-packages")
    assert code_of(site_packages) == {"commit": None, "dirty": None}


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_of(checkout) == {"commit": None, "dirty": None}
