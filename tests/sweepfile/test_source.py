"""A sweep file read once: from a path, a pipe, standard input; and the names of its profiles."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.source import read_source
from kdtune.sweepfile.tree import SweepFileError

ROOT = Path(__file__).parents[2]


def test_a_file_lies_somewhere(write_sweep, tmp_path, monkeypatch) -> None:
    path = write_sweep()
    monkeypatch.chdir(tmp_path.parent)
    source = read_source(os.path.relpath(path))
    assert (source.name, source.folder, source.file) == (os.path.relpath(path), str(tmp_path), str(path))
    assert list(source.profiles) == ["paper"]


def test_a_pipe_is_read_once_and_lies_nowhere(tmp_path, small_sweep, monkeypatch) -> None:
    """Row D4: `K <(envsubst < f)` had nothing in it the second time. Its paths are relative to the current folder."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=pipe.write_text, args=(small_sweep.replace("{digits: {}", "{folder: {path: images, name: x}"),)
    )
    writer.start()
    monkeypatch.chdir(tmp_path.parent)
    source = read_source(pipe)
    writer.join()
    assert (source.name, source.folder, source.file) == (str(pipe), str(tmp_path.parent), None)
    file = load_sweep(source)
    assert file.origin is None and file.name == "small"
    assert file.points[0].sweep.dataset.path == str(tmp_path.parent / "images")
    assert load_sweep(source, overrides=["seeds=1"]).points, "what was read can be asked more than once"


def test_standard_input_is_a_dash(small_sweep, monkeypatch) -> None:
    typed = io.BytesIO(small_sweep.replace("alpha", "alfa").encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=typed))
    with pytest.raises(SweepFileError, match=r"standard input:17: student\.distillation\.alfa: unknown key"):
        load_sweep("-")


@pytest.mark.parametrize(
    "how", ["<(cat small.yaml)", "- < small.yaml", "/dev/stdin < small.yaml", "/dev/fd/3 3< small.yaml"]
)
def test_the_command_takes_them_all(how, write_sweep, tmp_path) -> None:
    write_sweep()
    command = f"{sys.executable} -m kdtune.sweep {how} --dry-run --profile paper --results {tmp_path / 'results'}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "6 teachers: 6 new" in done.stdout


@pytest.mark.parametrize(
    "name", ["../x", "a b", "runs", "TensorBoard", "figures", "nul", "com1.x", "x.", "x" * 65, "a+b", ".x"]
)
def test_a_profile_is_a_folder_and_named_like_one(name, write_sweep, small_sweep) -> None:
    """Row C10. Whether it is asked for or not."""
    path = write_sweep(f"{small_sweep}profiles:\n  fine: {{seeds: 1}}\n  '{name}': {{seeds: 1}}\n")
    with pytest.raises(SweepFileError) as caught:
        load_sweep(path, "fine")
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (22, ("profiles", name)), problem


def test_profiles_that_are_no_overlays_have_their_line(write_sweep, small_sweep) -> None:
    with pytest.raises(SweepFileError, match=":20: profiles: takes a mapping from profile names to overlays"):
        read_source(write_sweep(f"{small_sweep}profiles: [1]\n")).profiles  # noqa: B018
