"""Fifteen minutes of a sweep whose processes are killed all the time: nothing is lost, nothing is different.

Ray's own nodes on this machine, and somebody who kills processes of runs, raylets, machines and the command itself, in
an order and at intervals that a seed decides (`SOAK_SEED`, 0 by default). The command is given again whenever it ends;
a sweep that is done before the time is over gets more seeds, as a user would do it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stored
from launch.test_faults import owners, sweep
from launch.test_storage import timeless
from s3 import S3

from kdtune.planning.plan import build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
SEED = int(os.environ.get("SOAK_SEED", "0"))
MINUTES = float(os.environ.get("SOAK_MINUTES", "15"))
KILLS = 20  # at least, in a quarter of an hour
DECK = ["worker"] * 3 + ["raylet", "node", "driver"]  # shuffled again and again: every kind has its turn
PAUSE_S = (8.0, 32.0)  # between two kills: from hardly begun to a few runs done
MACHINES = 2  # of a core each

SWEEP = """\
name: soak
dataset: {{digits: {{}}, train_size: 400, validation: 0.2}}
seeds: {seeds}
grid: {{rate: [0.0, 0.2]}}
recipe:
  optimizer: {{sgd: {{lr: 0.05, momentum: 0.9}}}}
  schedule: {{step: {{milestones: [0.5], factor: 0.1}}}}
  augmentation: {{crop: {{padding: 1, mode: zero}}}}
  precision: float32
  batch_size: 20
  epochs: 400
teacher:
  model: {{mlp: {{hidden: [32], dropout: $rate}}}}
  seeds: 3
  select: {{rule: best, metric: val/accuracy}}
student:
  model: {{mlp: {{hidden: [16]}}}}
  distillation: {{alpha: 0.9, temperature: 4}}
  noise: {{teacher: {{dropout: {{rate: $rate}}}}}}
evaluation:
  - accuracy
  - pgd: {{eps: 0.1, step: 0.02, steps: 10, images: 50}}
"""


class Machines:
    """Ray's own nodes: a head without a core, and machines that come back when they were killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.address = self.cluster.address
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(MACHINES)]

    def kill(self, which: int, *, raylet_alone: bool) -> None:
        """Without warning; another machine stands in its place some seconds later."""
        node = self.nodes[which]
        if raylet_alone:
            node.kill_raylet()
            time.sleep(2)
        self.cluster.remove_node(node, allow_graceful=False)
        time.sleep(2)
        self.nodes[which] = self.cluster.add_node(num_cpus=1)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="kdt", dir="/tmp"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    machines = Machines()
    try:
        yield machines
    finally:
        machines.cluster.shutdown()


class Soak:
    """One sweep under the killer. `seeds` grows whenever it is done too early."""

    def __init__(self, machines: Machines, folder: Path, results: str) -> None:
        self.machines, self.folder, self.results, self.store = machines, folder, results, Store(results)
        self.random = random.Random(SEED)
        self.deck: list[str] = []
        self.kills: Counter[str] = Counter()
        self.ends: Counter[int] = Counter()
        self.seeds = 16
        self.said: list[str] = []

    def file(self) -> Path:
        (self.folder / "soak.yaml").write_text(SWEEP.format(seeds=self.seeds))
        return self.folder / "soak.yaml"

    def begin(self) -> subprocess.Popen:
        words = ["--address", self.machines.address, "--gpus-per-run", "0", "--checkpoint-every", "2", "--yes"]
        return sweep(self.file(), self.results, "--data", str(self.folder), *words)

    def ended(self, driver: subprocess.Popen) -> int:
        out, err = driver.communicate(timeout=900)
        self.ends[driver.returncode] += 1
        self.said.append(f"status {driver.returncode}\n{out}\n{err}")
        assert driver.returncode in (0, 3, -signal.SIGKILL), self.said[-1]
        assert "Traceback" not in out + err, self.said[-1]
        return driver.returncode

    def kill(self, driver: subprocess.Popen) -> None:
        if not self.deck:
            self.deck = self.random.sample(DECK, len(DECK))
        kind = self.deck.pop()
        if kind == "driver":
            driver.kill()
        elif kind == "worker":
            pids = sorted(owners(self.store).values())
            if not pids:  # none trains at the moment
                return self.deck.append(kind)
            os.kill(self.random.choice(pids), signal.SIGKILL)
        else:
            self.machines.kill(self.random.randrange(MACHINES), raylet_alone=kind == "raylet")
        self.kills[kind] += 1
        return None

    def run(self) -> None:
        """Kills until the time is over, then lets the sweep come to its end."""
        until = time.monotonic() + 60 * MINUTES
        driver = self.begin()
        while time.monotonic() < until:
            due = time.monotonic() + self.random.uniform(*PAUSE_S)
            while driver.poll() is None and time.monotonic() < due:
                time.sleep(0.2)
            if driver.poll() is None:
                self.kill(driver)
            else:
                if self.ended(driver) == 0:
                    self.seeds += 8
                driver = self.begin()
        for _ in range(3):  # a run that was lost four times in one command is left to the next
            if self.ended(driver) == 0:
                return
            driver = self.begin()
        raise AssertionError("\n".join(self.said))


def same(soak: Soak, undisturbed: Path) -> int:
    """The same command undisturbed elsewhere: the same runs, weights, histories and table. Returns how many runs."""
    driver = sweep(soak.file(), undisturbed, "--data", str(soak.folder), "--yes")
    out, err = driver.communicate(timeout=1800)
    assert driver.returncode == 0, out + err
    plan = build_plan(load_sweep(soak.file()), soak.folder)
    here = Store(undisturbed)
    assert stored.finished(soak.store) == stored.finished(here) == set(plan.runs)
    for id, planned in plan.runs.items():
        history = stored.history(soak.store, id)
        assert [row["epoch"] for row in history] == list(range(1, planned.run.recipe.epochs + 1))
        assert stored.weights(soak.store, id) == stored.weights(here, id)
        assert timeless(history) == timeless(stored.history(here, id))
    tables = [store.objects.get("soak/paper/results.csv") for store in (soak.store, here)]
    assert tables[0] == tables[1]
    assert not any(soak.store.owner(id) for id in plan.runs), "all claims are given back"
    return len(plan.runs)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_killed_all_the_time_and_everything_is_as_if_not(machines: Machines, s3: S3, tmp_path: Path, place: str):
    soak = Soak(machines, tmp_path, str(tmp_path / "results") if place == "folder" else s3.bucket())
    if place == "bucket":
        s3.door.failing, s3.door.unheard = 0.05, 0.02
    try:
        soak.run()
    finally:
        print(
            f"\n{place}: seed {SEED}, {MINUTES:g} minutes, killed {dict(soak.kills)}, ends by status {dict(soak.ends)}"
        )
    refused = s3.door.refused
    s3.door.open_again()
    print(f"{same(soak, tmp_path / 'undisturbed')} runs as undisturbed; {refused} requests refused or unheard")
    assert sum(soak.kills.values()) >= KILLS * MINUTES / 15
    assert set(soak.kills) == set(DECK)
