"""Kinds of faults that peers' users reported, each as an input."""

from __future__ import annotations

import fcntl
import io
import json
import os
import struct
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL
from PIL import Image
from torch import nn

import kdtune
import kdtune.launch.here
import kdtune.training.run
from kdtune import paths
from kdtune.cli.sweep import Options, run
from kdtune.data.error import DataError
from kdtune.data.loading import load
from kdtune.data.pixels import read_pixels
from kdtune.data.sets.folder import Folder
from kdtune.planning.setbacks import said
from kdtune.store.objects import Objects, StorageError
from kdtune.training import weights
from kdtune.training.provenance import _git


@pytest.fixture
def go(tmp_path, write_sweep):
    def go(text: str = SMALL, **flags) -> int:
        return run(
            Options(write_sweep(text), results=str(tmp_path / "r"), data=str(tmp_path / "d"), here=True, **flags)
        )

    return go


def tree(root: Path, **classes: int) -> Path:
    for split in ("train", "test"):
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8, 8), number).save(root / split / name / f"{number:02}.png")
    return root


def test_a_hook_of_another_repository(tmp_path, monkeypatch):
    def git(folder, *words):
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        return subprocess.run(
            ["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        git(tmp_path, "init", "-q", folder)
        git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    head = git(ours, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert _git(ours, "rev-parse", "HEAD") == head


def test_asking_for_the_state_writes_nothing_into_the_repository(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "a").write_text("x")
    subprocess.run(["git", "-C", tmp_path, "add", "a"], check=True)
    os.utime(tmp_path / "a", (1, 1))
    before = (tmp_path / ".git" / "index").stat()
    _git(tmp_path, "status", "--porcelain")
    assert (tmp_path / ".git" / "index").stat().st_ino == before.st_ino


def test_layers_that_share_their_weights():
    def tied() -> nn.Module:
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        network[1].weight = network[0].weight
        return network

    first, second = tied(), tied()
    weights.load(second, weights.save(first))
    assert torch.equal(first[1].weight, second[0].weight) and second[0].weight is second[1].weight


def test_a_network_that_cannot_be_kept_is_told_before_it_is_trained(go, monkeypatch, capsys):
    monkeypatch.setattr(nn.Linear, "get_extra_state", lambda self: {"n": 3}, raising=False)
    monkeypatch.setattr(nn.Linear, "set_extra_state", lambda self, state: None, raising=False)
    assert go() == 4
    assert "refused: " in capsys.readouterr().err


def noted(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A JPEG of 8 x 4 whose EXIF holds these (tag, type, count, value or offset)."""
    tags = b"".join(struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries)) + tags + bytes(4)
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    return file.getvalue()


TURNED = (274, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize("broken", [(282, 2, 3, b"72\0\0"), (256, 2, 3, b"ab\0\0")])
def test_a_camera_whose_other_notes_are_broken(broken):
    assert read_pixels(noted(*sorted([TURNED, broken]))).shape == (3, 8, 4)


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "TIFF", "BLP"])
def test_damage_in_any_format_is_one_sentence(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert("P" if kind == "BLP" else "RGB").save(file, kind)
    whole, numbers = file.getvalue(), np.random.default_rng(1)
    for _ in range(400):
        data = bytearray(whole)
        for place in numbers.integers(0, min(len(data), 400), 3):
            data[place] = numbers.integers(256)
        try:
            read_pixels(bytes(data))
        except ValueError as error:
            assert str(error)


def test_numbers_that_are_names_of_classes(tmp_path):
    names = sorted(map(str, range(11)))
    tree(tmp_path, **dict.fromkeys(names, 2))
    for labels, fits in ((np.repeat(np.arange(11), 2), True), (np.repeat([int(name) for name in names], 2), False)):
        np.save(tmp_path / "l.npy", labels)
        folder = Folder.model_validate(
            {"path": str(tmp_path), "name": "n", "labels": {"file": {"path": str(tmp_path / "l.npy")}}}
        )
        if fits:
            assert load(folder, tmp_path / "d").noise == {"labels.file": 0.0}
        else:
            with pytest.raises(DataError, match=r"names of classes.*0, 1, 10, 2"):
                load(folder, tmp_path / "d")


def test_class_names_that_look_alike(tmp_path):
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    tree(tmp_path, a=1, **{name: 1})
    (tmp_path / "test" / name).rename(tmp_path / "test" / unicodedata.normalize("NFD", name))
    with pytest.raises(DataError, match=r"u0301.*xe9"):
        Folder(path=str(tmp_path), name="n").listing()


def test_a_place_without_locks_is_refused(tmp_path, monkeypatch, go, capsys):
    def none(file, how):
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(StorageError, match="No locks available; no file can be locked there"):
        Objects(str(tmp_path / "r")).probe()


def test_nobodys_home_and_a_path_of_pathlib(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.results_folder("~nobody-of-this-name/r") == str(tmp_path / "~nobody-of-this-name" / "r")
    assert paths.results_folder(tmp_path / "r") == str(tmp_path / "r")
    assert paths.data_folder("~nobody-of-this-name") == tmp_path / "~nobody-of-this-name"


def test_a_sweep_of_another_thread(go):
    found = []
    thread = threading.Thread(target=lambda: found.append(go()))
    thread.start()
    thread.join()
    assert found == [0]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_callers_autocast_and_generator_are_no_matter(go, tmp_path, two_threads):
    torch.manual_seed(5)
    before, switches = torch.get_rng_state(), (2, torch.backends.cudnn.deterministic)
    assert go(SMALL.replace("[0.0, 0.2]", "[0.2]").replace("seeds: 2", "seeds: 1").replace("seeds: 3", "seeds: 1")) == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.get_num_threads(), torch.backends.cudnn.deterministic) == switches
    made = [json.loads(path.read_text()) for path in tmp_path.glob("r/runs/*/*/provenance.json")]
    assert {each["threads"] for each in made} == {1}, "as through Ray, so that the numbers are the same"
    table = (tmp_path / "r/small/paper/results.csv").read_bytes()
    with torch.autocast("cpu"):
        assert kdtune.run_sweep(tmp_path / "small.yaml", here=True, results=str(tmp_path / "again")) == 0
    assert (tmp_path / "again/small/paper/results.csv").read_bytes() == table


def test_a_terminal_that_lacks_letters(tmp_path):
    tree(tmp_path / "data", a=6, b=6)
    own = f"{{folder: {{path: {tmp_path}/data, name: \N{CHECK MARK}}}, validation: 0.4}}"
    text = SMALL.replace("{digits: {}, train_size: 100, validation: 0.2}", own)
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    words = ["-m", "kdtune.sweep", tmp_path / "x.yaml", "--here", "--dry-run", "--results", tmp_path / "r"]
    environ = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, capture_output=True)
    assert done.returncode == 0 and rb"small on \u2713" in done.stdout


def test_a_folder_that_is_gone_at_the_end(go, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    performed = kdtune.launch.here.performed

    def without_it(*what):
        (tmp_path / "gone").exists() and (tmp_path / "gone").rmdir()
        return performed(*what)

    monkeypatch.setattr(kdtune.launch.here, "performed", without_it)
    assert go() == 0


def test_the_cause_is_not_the_last_line_of_a_long_message():
    try:
        raise RuntimeError("CUDA error: device-side assert triggered\nFor debugging consider X\nCompile with Y\n")
    except RuntimeError as error:
        text = kdtune.training.run.Outcome("failed", error).traceback
    assert said(text) == "RuntimeError: CUDA error: device-side assert triggered"
    assert said("one\ntwo") == "two"


def test_dollars_in_a_name_are_no_mathematics(go, tmp_path):
    tree(tmp_path / "data", a=6, b=6)
    digits = "{digits: {}, train_size: 100, validation: 0.2}"
    own = f'{{folder: {{path: {tmp_path}/data, name: "cost $1_2_3$"}}, validation: 0.4}}'
    text = SMALL.replace(digits, "$data").replace("[0.0, 0.2]}", f"[0.0, 0.2], data: [{digits}, {own}]}}")
    assert go(text) == 0
    words = [sys.executable, ROOT / "analysis/generic.py", tmp_path / "r/small"]
    script = subprocess.run(words, capture_output=True, text=True)
    assert script.returncode == 0, script.stderr


def test_loading_a_network_leaves_the_generator_alone(go, tmp_path):
    assert go() == 0
    id = kdtune.table(tmp_path / "r/small")["id"][0]
    before = torch.get_rng_state()
    kdtune.load(id, str(tmp_path / "r"))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_that_numpys_old_generators_refuse(go, tmp_path):
    big, evaluators = [2**32, 2**63 - 1], "[accuracy, {corruptions: {images: 2}}, {pgd: {images: 2}}]"
    text = SMALL.replace("seeds: 2", f"seeds: {big}").replace("[accuracy]", evaluators).replace("  seeds: 3\n", "")
    assert go(text.replace("{rule: best, metric: val/accuracy}", "{rule: paired}")) == 0
    assert set(kdtune.table(tmp_path / "r/small")["seed"]) == set(big)


@pytest.mark.faults  # for its 20 s
@pytest.mark.parametrize("width", [0, 1])
def test_a_terminal_of_hardly_any_width(width, tmp_path):
    import pty
    import termios

    (tmp_path / "x.yaml").write_text(SMALL)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", width, width, 0, 0))
    words = [sys.executable, "-m", "kdtune.sweep", tmp_path / "x.yaml", "--here", "--results", tmp_path / "r"]
    with subprocess.Popen(words, cwd=ROOT, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}) as child:
        os.close(theirs)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # it has ended
            pass
    os.close(ours)
    assert child.returncode == 0
