"""Machines of a real cluster that cannot train, that come late, that go: Ray's own nodes, all on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch.test_faults import ROOT, owners, sweep, wait_for

from kdtune.store.store import Store

pytestmark = [pytest.mark.timeout(600)]
# What each broken machine says of itself, as its Python starts.
OLD_TORCH = """
import importlib.metadata as metadata
own = metadata.version
metadata.version = lambda name: "2.0.1" if name == "torch" else own(name)
"""
WITHOUT_SAFETENSORS = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "safetensors":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without a core."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="kdt", dir="/tmp"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def broken(folder: Path, how: str) -> dict[str, str]:
    """The environment of a machine whose Python is so."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(how)
    return {"PYTHONPATH": str(folder)}


def ended(driver: subprocess.Popen) -> tuple[int, str, str]:
    out, err = driver.communicate(timeout=300)
    return driver.returncode, out, err


@pytest.mark.faults
def test_what_is_wrong_with_which_machine_is_told_at_once_and_before_anything_starts(
    cluster: Any, write_sweep, small_sweep: str, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1, env_vars=broken(tmp_path / "old", OLD_TORCH))
    cluster.add_node(num_cpus=1, env_vars=broken(tmp_path / "bare", WITHOUT_SAFETENSORS))
    words = ["--address", cluster.address, "--gpus-per-run", "0"]
    status, out, err = ended(sweep(write_sweep(small_sweep), tmp_path / "results", *words))
    assert status == 4, out + err
    told = [line for line in err.splitlines() if line.strip() and "waiting for" not in line]
    (first, *others) = [line for line in told if not line.startswith("warning: ")]
    assert first == "refused: 2 things would fail" and len(others) == 2, err
    assert any("machine " in line and "torch 2.0.1, not 2." in line and "constraints.txt" in line for line in others)
    assert any("No module named 'safetensors': install" in line for line in others)
    assert not list((tmp_path / "results").glob("runs/*/*/run.yaml")), "nothing was begun"
    asked = [sys.executable, "-m", "kdtune", "doctor", tmp_path / "small.yaml", "--profile", "paper"]
    asked += ["--address", cluster.address, "--results", tmp_path / "results"]
    looked = subprocess.run([*asked, "--insecure"], capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    lines = looked.stdout.splitlines()
    assert looked.returncode == 4 and lines[-1] == "3 would fail", looked.stdout + looked.stderr
    assert sum(line.startswith("FAILURE  machine") for line in lines) == 2
    assert any("a student asks for 1 CPU, 0.25 GPU, but no machine has more" in line for line in lines), lines
    assert sum(line.startswith("ok       machine ") for line in lines) == 2, "the head and the one that is well"
    assert any(line.startswith("warning  the Ray at") and "asks for no token" in line for line in lines)


@pytest.mark.faults
def test_machines_leave_and_join_and_one_that_cannot_train_ends_the_sweep_which_then_goes_on(
    cluster: Any, write_sweep, small_sweep: str, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    leaves = cluster.add_node(num_cpus=1)
    words = ["--address", cluster.address, "--gpus-per-run", "0", "--checkpoint-every", "1"]
    file = write_sweep(small_sweep.replace("epochs: 3", "epochs: 400"))
    driver = sweep(file, results, *words)
    wait_for(lambda: list(results.glob("runs/*/*/checkpoints/*.json")), driver)
    (id,) = owners(Store(results))
    stays = cluster.add_node(num_cpus=1)
    claim = results / "runs" / "claims" / id
    cluster.remove_node(leaves, allow_graceful=False)
    began = time.monotonic()
    # On a machine of its own a claim would look alive for 90 s; it is given up as soon as Ray has seen its process go.
    wait_for(lambda: not claim.exists(), driver)
    assert time.monotonic() - began < 30
    wait_for(lambda: list(results.glob("runs/done/*")), driver)
    bad = cluster.add_node(num_cpus=2, env_vars=broken(tmp_path / "old", OLD_TORCH))
    status, out, err = ended(driver)
    assert status == 3 and "no further run is started: machine" in err and "torch 2.0.1, not 2." in err, out + err
    counted = [line for line in err.splitlines() if line.endswith((" failed", " left"))]
    assert all(", 0 failed" in line for line in counted) and "failed" not in out, "no run is to blame"
    cluster.remove_node(bad)
    status, out, err = ended(sweep(file, results, *words))
    assert status == 0 and "10 done" in out, out + err
    assert stays in cluster.list_all_nodes()


@pytest.fixture
def soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives up a machine that does not answer after about 12 s, instead of 70."""
    for name, value in (("period_ms", 1000), ("timeout_ms", 3000), ("failure_threshold", 3)):
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))


@pytest.mark.faults
@pytest.mark.parametrize(("seconds", "lost"), [(5, False), (45, True)])
def test_a_machine_that_stands_still_for_a_while_changes_nothing(
    soon_given_up: None, cluster: Any, write_sweep, small_sweep: str, tmp_path: Path, seconds: float, lost: bool
) -> None:
    """Its raylet is stopped: for so long that nobody minds, and for so long that Ray gives the machine up."""
    epochs = 6000 if lost else 1500  # 20 s: a run must not be over before Ray gives its machine up
    file = write_sweep(small_sweep.replace("epochs: 3", f"epochs: {epochs}"))
    stalls, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    words = ["--address", cluster.address, "--gpus-per-run", "0", "--checkpoint-every", "1"]
    driver = sweep(file, tmp_path / "stalled", *words)
    store = Store(tmp_path / "stalled")
    # A run on each machine, both with a checkpoint: the first may be that of the other one.
    wait_for(lambda: sum(bool(store.objects.list(f"runs/{id}")) for id in owners(store)) == 2, driver)
    wait_for(lambda: len({path.parts[-4] for path in (tmp_path / "stalled").glob("runs/*/*/checkpoints/*.json")}) == 2)
    raylet = stalls.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(raylet, signal.SIGCONT)
    status, out, err = ended(driver)
    assert status == 0 and "10 done" in out, out + err
    assert ("is tried again" in err) == lost, err
    undisturbed = sweep(file, tmp_path / "undisturbed")
    assert ended(undisturbed)[0] == 0
    tables = [tmp_path / where / "small" / "paper" / "results.csv" for where in ("stalled", "undisturbed")]
    assert tables[0].read_bytes() == tables[1].read_bytes()


# A knob, a loss and an evaluator of the user's own; each machine says which process it is in.
OWN = """\
from typing import ClassVar

import torch

from kdtune.evaluation.evaluator import Evaluator, Measurement, predict
from kdtune.losses.loss import Loss
from kdtune.noise.input import InputKnob
from kdtune.settings import Scale, Temperature


class Brightness(InputKnob):
    strength: ClassVar[str] = "sigma"
    sigma: Scale

    def __call__(self, images, labels, network, draw, teacher, space):
        return images + self.sigma * draw.normal(images[:, :1, :1, :1])

    def measure(self, before, after):
        return float((after - before).mean(dim=(1, 2, 3)).std())


class Squares(Loss):
    needs_teacher: ClassVar[bool] = True
    temperature: Temperature

    def __call__(self, views):
        squares = ((views.shown.logits - views.teacher_clean.logits) / self.temperature).square().mean()
        return squares, {"squares": squares}


class Margin(Evaluator):
    version: ClassVar[int] = 1

    def measure(self, subject):
        top = predict(subject.network, subject.split.images).topk(2).values
        return Measurement({"logits/margin": float((top[:, 0] - top[:, 1]).mean())})
"""
WITH_OWN = (
    ("  distillation: {alpha: 0.9, temperature: 4}\n", "  loss: {squares: {temperature: 2.0}}\n"),
    ("{teacher: {dropout: {rate: $rate}}}", "{input: {brightness: {sigma: $rate}}}"),
    (", dropout: $rate", ""),
    ("[accuracy]", "[accuracy, margin]"),
)


@pytest.mark.faults
def test_classes_of_ones_own_reach_machines_that_do_not_have_their_file(
    cluster: Any, write_sweep, small_sweep: str, tmp_path: Path
) -> None:
    """The same table as in one process; no machine reads the file, which is gone as soon as the command has it."""
    file, own = small_sweep, tmp_path / "own.py"
    for there, instead in WITH_OWN:
        assert there in file
        file = file.replace(there, instead)
    own.write_text(OWN)
    alone = sweep(write_sweep(file), tmp_path / "alone", "--here", "--with", str(own))
    status, out, err = ended(alone)
    assert status == 0, out + err
    cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    words = ["--address", cluster.address, "--gpus-per-run", "0", "--with", str(own)]
    driver = sweep(write_sweep(file), tmp_path / "results", *words)
    wait_for(lambda: list(tmp_path.glob("results/runs/claims/sweep/*/*")), driver)
    own.unlink()
    status, out, err = ended(driver)
    assert status == 0, out + err
    tables = [tmp_path / where / "small" / "paper" / "results.csv" for where in ("alone", "results")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert b"logits/margin" in tables[0].read_bytes() and b"loss.squares.temperature" in tables[0].read_bytes()


@pytest.mark.faults
def test_a_machine_that_lacks_what_a_file_of_ones_own_imports_is_told(
    cluster: Any, write_sweep, small_sweep: str, tmp_path: Path
) -> None:
    own = tmp_path / "own.py"
    own.write_text("import sklearn\n" + OWN)
    without = WITHOUT_SAFETENSORS.replace("safetensors", "sklearn")
    cluster.add_node(num_cpus=1, env_vars=broken(tmp_path / "bare", without))
    file = write_sweep(small_sweep.replace("[accuracy]", "[accuracy, margin]"))
    words = ["--address", cluster.address, "--gpus-per-run", "0", "--with", str(own)]
    status, out, err = ended(sweep(file, tmp_path / "results", *words))
    assert status == 4 and "No module named 'sklearn'" in err and "own.py: line 1" in err, out + err
    assert not list((tmp_path / "results").glob("runs/*/*/run.yaml")), "nothing was begun"
