"""Real faults under a real local Ray: parts of it killed, processes stopped, runs that hang, memory that is short."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtune.launch import heartbeats, tuner, watchdog
from kdtune.launch.trainable import job
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.store.claims import started
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)


class Nobody:
    """A watcher that is told and tells nothing."""

    def started(self, id: str) -> None: ...
    def rows(self, id: str, rows: list[dict]) -> None: ...
    def ended(self, id: str, state: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


def launch(file: Path, results: Path, data: Path, runs: int | None = None) -> Dispatch:
    """Through Ray, in this process; of the plan the first `runs` alone."""
    plan = build_plan(load_sweep(file), data)
    plan = plan.of(list(plan.runs)[:runs])
    dispatch = Dispatch(plan, Standing(Store(results), plan.evaluators))
    tuner.launch(dispatch, lambda planned: job(planned, plan, str(results), data, 60.0), Nobody())
    return dispatch


def sweep(file: Path, results: Path, *flags: str, **environment: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "kdtune.sweep", str(file), "--results", str(results), "--profile", "paper", *flags]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def wait_for(condition: Callable[[], object], driver: subprocess.Popen | None = None) -> None:
    """For minutes, if need be: a busy machine takes long to start Ray."""
    deadline = time.monotonic() + 240
    while not condition():
        assert driver is None or driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def descendants(pid: int) -> dict[int, str]:
    """All processes below this one, with their names."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        parents[int(stat.parent.name)], names[int(stat.parent.name)] = int(rest.split()[1]), head.partition("(")[2]
    below: dict[int, str] = {}
    while more := {each for each, parent in parents.items() if parent in {pid, *below} and each not in below}:
        below |= {each: names[each] for each in more}
    return below


def owners(store: Store) -> dict[str, int]:
    """Processes that hold runs now, by run."""
    names = [key.rsplit("/", 1)[1] for key in store.objects.list("runs/claims") if key.count("/") == 2]
    return {name: owner["pid"] for name in names if (owner := store.owner(name))}


@pytest.mark.faults
@pytest.mark.parametrize("part", ["raylet", "gcs_server"])
def test_a_sweep_whose_ray_is_gone_ends_within_a_minute(write_sweep, small_sweep, tmp_path, part):
    file = write_sweep(small_sweep.replace("epochs: 3", "epochs: 20000"))
    driver = sweep(file, tmp_path / "results", "--checkpoint-every", "1")
    wait_for(lambda: list((tmp_path / "results" / "runs").glob("*/*/checkpoints/*.json")), driver)
    family = descendants(driver.pid)
    born = {pid: started(pid) for pid in family}
    (victim,) = [pid for pid, name in family.items() if name == part]
    os.kill(victim, signal.SIGKILL)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 3, err
    assert f"Ray is gone: its {part} ended" in err and "stopped" in out
    assert "go on" in out.splitlines()[-1] and str(file) in out.splitlines()[-1]
    assert (tmp_path / "results" / "small" / "paper" / "results.csv").exists(), "the table of what there is"
    wait_for(lambda: not [pid for pid, when in born.items() if when and started(pid) == when])


@pytest.mark.faults
def test_a_cluster_whose_head_is_lost_is_left_within_a_minute(write_sweep, small_sweep, tmp_path):
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(tmp_path_short()))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            file = write_sweep(small_sweep.replace("epochs: 3", "epochs: 20000"))
            driver = sweep(
                file,
                tmp_path / "results",
                "--address",
                cluster.address,
                "--gpus-per-run",
                "0",
                "--checkpoint-every",
                "1",
            )
            wait_for(lambda: list((tmp_path / "results" / "runs").glob("*/*/checkpoints/*.json")), driver)
            cluster.head_node.kill_gcs_server()
            began = time.monotonic()
            out, err = driver.communicate(timeout=90)
            assert driver.returncode == 3, err
            assert time.monotonic() - began < 60
            assert "Ray does not answer" in err and "go on" in out
        finally:
            cluster.shutdown()


def tmp_path_short() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="kdt", dir="/tmp")  # sockets lie there: at most 107 bytes


@pytest.mark.faults
def test_a_process_that_is_stopped_is_ended_and_its_run_is_done_by_another(
    write_sweep, small_sweep, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(heartbeats, "SILENCE_S", 40.0)  # claims beat every 15 s
    store, stopped = Store(tmp_path / "results"), {}

    def stop_the_first() -> None:
        wait_for(lambda: owners(store) and list((tmp_path / "results" / "runs").glob("*/*/run.yaml")))
        id, pid = next(iter(owners(store).items()))
        os.kill(pid, signal.SIGSTOP)
        stopped.update(id=id, pid=pid, started=started(pid))

    thread = threading.Thread(target=stop_the_first)
    thread.start()
    file = write_sweep(small_sweep.replace("epochs: 3", "epochs: 300"))
    dispatch = launch(file, tmp_path / "results", tmp_path, runs=3)
    thread.join()
    assert dispatch.counts == {"done": 3}, dispatch.reasons
    assert started(stopped["pid"]) != stopped["started"], "it does not stay behind"
    (record,) = (tmp_path / "results" / "runs" / stopped["id"]).glob("*/failure.json")
    assert "no sign of life" in record.read_text()
    assert "tried again (1 of 2)" in caplog.text


@pytest.mark.faults
@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_hangs_is_ended_tried_again_once_and_then_failed(
    write_sweep, small_sweep, tmp_path, monkeypatch, times
):
    """In its third epoch the first teacher hangs, as often as `times` says."""
    file = write_sweep(small_sweep)
    first = next(iter(build_plan(load_sweep(file), tmp_path).runs))
    place = str(tmp_path)

    def hanging(config) -> None:
        import time
        from pathlib import Path

        import kdtune.training.loop as loop
        from kdtune.launch.trainable import trial

        def train_epoch(network, optimizer, split, recipe, lesson, seed, epoch, capture=None):
            hung = [Path(place, f"hung-{number}") for number in range(times)]
            if config["id"] == first and epoch == 2 and (left := [each for each in hung if not each.exists()]):
                left[0].touch()
                time.sleep(3600)
            return original(network, optimizer, split, recipe, lesson, seed, epoch)

        original = loop.train_epoch
        loop.train_epoch = train_epoch
        try:
            trial(config)
        finally:
            loop.train_epoch = original

    monkeypatch.setattr(tuner, "trial", hanging)
    monkeypatch.setattr(watchdog, "SILENCE_S", 6.0)
    dispatch = launch(file, tmp_path / "results", tmp_path, runs=3)
    attempts = sorted((tmp_path / "results" / "runs" / first).glob("*/stacks.txt"))
    assert len(attempts) == times
    assert all("train_epoch" in each.read_text() and "perform" in each.read_text() for each in attempts)
    if times == 1:
        assert dispatch.counts == {"done": 3} and not dispatch.reasons
    else:
        assert dispatch.counts == {"done": 2, "failed": 1}
        assert "no training step or evaluation batch for" in dispatch.reasons[first]


@pytest.mark.faults
def test_short_of_memory_fewer_run_and_what_is_too_large_alone_is_failed(
    write_sweep, small_sweep, tmp_path, monkeypatch
):
    """Two runs hold so much that they fit alone and not together; a third fits never."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(facts[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))  # GiB
    if free < 9:
        pytest.skip(f"{free:.0f} GiB of memory are free; 9 are needed")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(total - free + 5) / total:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    file = write_sweep(small_sweep)
    ids = list(build_plan(load_sweep(file), tmp_path).runs)[:3]
    sizes = {ids[0]: 3.2, ids[1]: 3.2, ids[2]: 8.0}  # GiB, of 5

    def hungry(config) -> None:
        import time

        import numpy as np

        from kdtune.launch.trainable import trial

        held = []
        for _ in range(int(sizes[config["id"]] * 16)):
            held.append(np.ones(2**23))  # 64 MiB
            time.sleep(0.05)
        time.sleep(2)
        trial(config)

    monkeypatch.setattr(tuner, "trial", hungry)
    dispatch = launch(file, tmp_path / "results", tmp_path, runs=3)
    assert dispatch.counts == {"done": 2, "failed": 1}
    assert "memory" in dispatch.reasons[ids[2]] and "3 times" in dispatch.reasons[ids[2]]


def test_runs_that_all_fail_alike_are_stopped_after_five(write_sweep, small_sweep, tmp_path, monkeypatch):
    def failing(config) -> None:
        import kdtune.training.run as run
        from kdtune.launch.trainable import trial

        def broken(*_, **__):
            raise KeyError("no such column")

        original, run.train = run.train, broken
        try:
            trial(config)
        finally:
            run.train = original

    monkeypatch.setattr(tuner, "trial", failing)
    file = write_sweep(small_sweep.replace("seeds: 3", "seeds: 8"))
    dispatch = launch(file, tmp_path / "results", tmp_path)
    assert dispatch.counts["failed"] == 5 and dispatch.counts["stopped"] + dispatch.counts["skipped"] == 15
    assert "KeyError: 'no such column'" in dispatch.stopped
    assert dispatch.over


@pytest.mark.parametrize("place", ["RAY_ADDRESS", "--address"])
def test_an_address_where_nothing_listens_is_refused_in_seconds(write_sweep, tmp_path, place):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        flags, environment = ([], {place: address}) if place == "RAY_ADDRESS" else ([place, address], {})
        driver = sweep(write_sweep(), tmp_path / "results", *flags, **environment)
        _, err = driver.communicate(timeout=60)
    assert driver.returncode == 4
    assert address in err and place in err and "--address local" in err and "Traceback" not in err


@pytest.mark.faults
@pytest.mark.parametrize("patient", [True, False], ids=["waited for", "Ctrl-C"])
def test_an_address_where_something_else_listens_is_refused_and_ctrl_c_is_heard(write_sweep, tmp_path, patient):
    with socket.create_server(("", 0)) as server:  # on all interfaces: Ray asks at this machine's public one
        address = f"127.0.0.1:{server.getsockname()[1]}"
        driver = sweep(write_sweep(), tmp_path / "results", "--address", address)
        if not patient:
            server.settimeout(90)
            server.accept()[0].close()  # the knock
            server.accept()  # Ray itself
            driver.send_signal(signal.SIGINT)
        _, err = driver.communicate(timeout=90)
    assert driver.returncode == (4 if patient else 130), err
    assert "Traceback" not in err
    assert ("does not answer as a Ray" in err) is patient


@pytest.mark.faults  # long: a minute of Ray
def test_local_is_an_address_too(write_sweep, tmp_path, monkeypatch):
    """--address local where RAY_ADDRESS leads nowhere: a Ray of this machine's own."""
    driver = sweep(write_sweep(), tmp_path / "results", "--address", "local", RAY_ADDRESS="127.0.0.1:1")
    _, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err


@pytest.mark.faults
def test_a_search_killed_again_and_again_proposes_what_it_would_have(write_sweep, search_sweep, tmp_path):
    path = write_sweep(search_sweep.replace("epochs: 3", "epochs: 60"))
    tables = []
    for name, kills in {"whole": (), "killed": (1, 3)}.items():
        results = tmp_path / name
        for proposals in kills:  # drawn so far
            driver = sweep(path, results)
            wait_for(lambda: len([*results.glob("searches/*/*.json")]) >= proposals, driver)  # noqa: B023
            driver.kill()
            driver.wait()
        driver = sweep(path, results)
        assert driver.wait(timeout=300) == 0, driver.communicate()
        tables.append([(results / "small" / "paper" / file).read_bytes() for file in ("search.csv", "results.csv")])
    assert tables[0] == tables[1]
