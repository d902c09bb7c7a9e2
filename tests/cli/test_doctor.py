"""`kdtune doctor`, as typed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdtune.__main__ import main
from kdtune.doctor import machine
from kdtune.doctor.finding import failure

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process that loads torchvision, which takes seconds."""
    monkeypatch.setattr(machine, "vision", lambda: iter(()))


def doctor(*words: object) -> tuple[int, list[str]]:
    done = CliRunner().invoke(main, ["doctor", *map(str, words)], env={"RAY_ADDRESS": None})
    return done.exit_code, done.output.splitlines()


def test_this_machine(tmp_path: Path) -> None:
    status, lines = doctor("--results", tmp_path / "results", "--data", tmp_path)
    assert status == 0 and lines[-1] == "nothing that would fail was found", lines
    assert any("can be written, read and tidied" in line for line in lines)
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").rglob("*.*"))


def test_a_sweep(quick: None, tmp_path: Path, write_sweep) -> None:
    status, lines = doctor(write_sweep(), "--results", tmp_path / "results", "--data", tmp_path)
    assert status == 0, lines
    assert any(
        "digits (8 x 8, scikit-learn) is what it should be: 80 training images, 20 held out" in line for line in lines
    )
    assert any("every kind of network" in line for line in lines)


def test_a_sweep_that_would_fail(quick: None, tmp_path: Path, write_sweep, small_sweep: str) -> None:
    file = write_sweep(small_sweep.replace("digits: {}", f"folder: {{path: {tmp_path / 'nowhere'}, name: mine}}"))
    status, lines = doctor(file, "--results", tmp_path / "results", "--data", tmp_path)
    assert status == 4 and any("nowhere" in line for line in lines), lines


def test_a_cluster_file_with_placeholders() -> None:
    status, lines = doctor(ROOT / "cluster.yaml")
    assert status == 4 and lines[-1].endswith("would fail")
    assert any(line.startswith("FAILURE") and "ami-REPLACE_ME" in line for line in lines)


def test_a_sweep_file_that_cannot_be_read(quick: None, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: [")
    assert doctor(tmp_path / "s.yaml")[0] == 2


def test_a_cluster_that_is_not_there(quick: None, tmp_path: Path) -> None:
    status, lines = doctor("--address", "127.0.0.1:1", "--results", tmp_path / "results", "--data", tmp_path)
    assert status == 4 and any("no Ray at 127.0.0.1:1" in line for line in lines)


def test_its_cheap_part_is_asked_before_every_sweep(tmp_path: Path, write_sweep, monkeypatch) -> None:
    monkeypatch.setattr(machine, "packages", lambda *_: iter([failure("ray 1.0 is installed, kdtune needs >=2.60")]))
    words = ["sweep", str(write_sweep()), "--here", "--results", str(tmp_path / "results"), "--data", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 4 and "refused: ray 1.0 is installed, kdtune needs >=2.60" in done.output
    shutil.rmtree(tmp_path / "results", ignore_errors=True)


def test_one_that_is_too_large_and_one_from_a_pipe(quick: None, tmp_path: Path, small_sweep: str) -> None:
    (tmp_path / "s.yaml").write_text(small_sweep.replace("seeds: 2", "seeds: 900000"))
    status, lines = doctor(tmp_path / "s.yaml")
    assert status == 4 and lines[0].startswith("refused: grid and seeds ask for"), lines
    words = [sys.executable, "-m", "kdtune", "doctor", "-", "--results", tmp_path / "results", "--data", tmp_path]
    done = subprocess.run(words, input=small_sweep, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0 and "80 training images" in done.stdout, done.stdout + done.stderr
