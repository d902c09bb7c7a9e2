"""Through a real local Ray: order, speed, kills, two sweeps at once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import stored
from launch.test_faults import descendants, wait_for
from world import SOURCED, at, performed

from kdtune.cli.options import Options
from kdtune.cli.sweep import run
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.store.claims import started
from kdtune.store.standing import Standing
from kdtune.store.stopping import stop
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.provenance import code

ROOT = Path(__file__).parents[2]

# Teachers of rate 0.0 train long, those of 0.2 quickly: students of 0.2 need not wait for the others.
UNEVEN = """\
name: uneven
dataset: {digits: {}, train_size: 100, validation: 0.2}
seeds: 2
grid:
  - {rate: 0.2, long: 3}
  - {rate: 0.0, long: 600}
recipe:
  optimizer: {sgd: {lr: 0.1}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 20
  epochs: 3
teacher:
  model: {mlp: {hidden: [8], dropout: $rate}}
  recipe: {epochs: $long}
  seeds: 1
  select: {rule: best, metric: val/accuracy}
student:
  model: {mlp: {hidden: [8]}}
  distillation: {alpha: 0.9, temperature: 4}
  noise: {teacher: {dropout: {rate: $rate}}}
evaluation: [accuracy]
"""


class Diary:
    """A watcher that writes down what happens."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.seen: dict[str, list[dict]] = {}

    def started(self, id: str) -> None:
        self.entries.append(("started", id))

    def rows(self, id: str, rows: list[dict]) -> None:
        self.seen.setdefault(id, []).extend(rows)

    def ended(self, id: str, state: str) -> None:
        self.entries.append((state, id))

    def tick(self) -> None:
        pass


def launch(text_or_file, results: Path, data: Path, watcher: Diary | None = None, **flags) -> tuple[Dispatch, Diary]:
    from kdtune.launch import tuner
    from kdtune.launch.trainable import job

    plan = build_plan(load_sweep(text_or_file), data)
    dispatch, diary = Dispatch(plan, Standing(Store(results), plan.evaluators)), watcher or Diary()
    tuner.launch(dispatch, lambda planned: job(planned, plan, str(results), data, 60.0), diary, **flags)
    return dispatch, diary


def sweep(file: Path, results: Path, *flags: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "kdtune.sweep", str(file), "--results", str(results), "--profile", "paper", *flags]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_no_barrier_between_groups_and_every_row_arrives(write_sweep, tmp_path):
    dispatch, diary = launch(write_sweep(UNEVEN), tmp_path / "results", tmp_path)
    assert dispatch.counts == {"done": 6}
    runs = dispatch.plan.runs
    started = [id for what, id in diary.entries if what == "started"]
    slow = [id for id, planned in runs.items() if planned.role == "teacher" and planned.parameters["rate"] == 0]
    quick = [id for id, planned in runs.items() if planned.role == "student" and planned.parameters["rate"] == 0.2]
    first_student = diary.entries.index(("started", next(id for id in started if id in quick)))
    last_teacher = max(diary.entries.index(("done", id)) for id in slow)
    assert first_student < last_teacher, "a student of one group started while a teacher of another still trained"
    for id, planned in runs.items():
        assert [row["epoch"] for row in diary.seen[id]] == list(range(1, planned.run.recipe.epochs + 1))
        assert stored.provenance(Store(tmp_path / "results"), id)["threads"] == 1, "CPU threads match the trial's CPUs"


def test_an_untrained_teacher_a_source_and_its_students_are_the_runs_that_they_are_here(tmp_path):
    dispatch, diary = launch(planned_file(SOURCED, tmp_path), tmp_path / "results", tmp_path)
    assert dispatch.counts == {"done": 6}
    plan, here = dispatch.plan, at(tmp_path, "here")
    performed(plan, here)
    for id, place in plan.runs.items():
        assert stored.weights(Store(tmp_path / "results"), id) == stored.weights(here.store, id)
        assert len(diary.seen.get(id, [])) == (0 if place.role == "teacher" else 3)
        if place.role == "student":
            (source,) = place.run.source.runs
            assert diary.entries.index(("done", source)) < diary.entries.index(("started", id))


def planned_file(text: str, root: Path) -> Path:
    (root / "world.yaml").write_text(text)
    return root / "world.yaml"


def test_a_runs_own_exception_ends_its_trial_and_nothing_else(write_sweep, small_sweep, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"nothing": torch.zeros(1)}, tmp_path / "own.safetensors")
    own = small_sweep.replace(
        "  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n", "  checkpoint: own.safetensors\n"
    )
    dispatch, diary = launch(write_sweep(own), tmp_path / "results", tmp_path)
    assert dispatch.counts == {"failed": 2, "skipped": 4}
    assert "these weights do not fit" in next(iter(dispatch.reasons.values()))
    assert len([what for what, _ in diary.entries if what == "failed"]) == 2, "not retried"


def test_a_run_that_is_stopped_by_hand_ends_with_its_epoch_and_the_others_go_on(write_sweep, tmp_path):
    class Stopping(Diary):
        def rows(self, id: str, rows: list[dict]) -> None:
            if id == slow and id not in self.seen:
                stop(store.objects, id)
            super().rows(id, rows)

    file = write_sweep(UNEVEN.replace("long: 600", "long: 1000000"))
    store, plan = Store(tmp_path / "results"), build_plan(load_sweep(file), tmp_path)
    (slow,) = [id for id, each in plan.runs.items() if each.role == "teacher" and each.parameters["rate"] == 0]
    dispatch, diary = launch(file, tmp_path / "results", tmp_path, watcher=Stopping())
    assert dispatch.over and dispatch.counts == {"done": 3, "stopped": 1, "skipped": 2}
    assert dispatch.by_hand == {slow} and ("stopped", slow) in diary.entries
    epoch, _ = stored.checkpoint(store, slow) or (0, b"")
    assert epoch == diary.seen[slow][-1]["epoch"] > 1, "the last epoch that was told of is kept"
    assert store.owner(slow) is None and Standing(store).state(slow) == "stopped"
    again, diary = launch(file, tmp_path / "results", tmp_path)
    assert again.counts == dispatch.counts and diary.entries == [], "nothing starts, and nothing is waited for"


def test_a_request_that_nothing_can_hold_is_refused_before_anything_starts(write_sweep, tmp_path):
    from kdtune.launch.resources import CannotHold

    with pytest.raises(CannotHold, match="4 GPU"):
        launch(write_sweep(), tmp_path / "results", tmp_path, gpus_per_run=4)
    assert not (tmp_path / "results").exists()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_run_whose_process_is_lost_is_tried_again(write_sweep, small_sweep, tmp_path):
    """The first process that claims a run is killed; the run is done all the same, in a second attempt."""
    file = write_sweep(small_sweep.replace("epochs: 3", "epochs: 300"))
    store, killed = Store(tmp_path / "results"), []

    def kill_the_first() -> None:
        deadline = time.monotonic() + 200
        while not killed and time.monotonic() < deadline:
            for key in store.objects.list("runs/claims"):
                owner = store.owner(key.rsplit("/", 1)[1])
                if owner and owner["pid"] != os.getpid():
                    os.kill(owner["pid"], signal.SIGKILL)
                    killed.append(key.rsplit("/", 1)[1])
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    dispatch, _ = launch(file, tmp_path / "results", tmp_path)
    killer.join()
    assert killed, "nothing was killed, so nothing was tested"
    assert dispatch.counts == {"done": 10}
    attempts = {key.split("/")[2] for key in store.objects.list(f"runs/{killed[0]}") if key.endswith("/run.yaml")}
    assert len(attempts) <= 2 and store.done(killed[0]) is not None


def metrics(results: Path) -> bytes:
    return (results / "small" / "paper" / "results.csv").read_bytes()


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_killed_driver_costs_nothing_but_time(write_sweep, small_sweep, tmp_path):
    """SIGKILL in the middle, then the same command: the same metrics, byte for byte, as an undisturbed sweep."""
    file = write_sweep(small_sweep.replace("epochs: 3", "epochs: 30"))
    undisturbed = sweep(file, tmp_path / "a")
    assert undisturbed.wait(280) == 0, undisturbed.communicate()[1]
    killed = sweep(file, tmp_path / "b", "--checkpoint-every", "0")
    deadline = time.monotonic() + 200
    while len(stored.finished(Store(tmp_path / "b"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    left = {pid: started(pid) for pid in descendants(killed.pid)}
    assert left
    killed.kill()
    killed.wait()
    wait_for(lambda: not [pid for pid, when in left.items() if when and started(pid) == when])
    finished = len(stored.finished(Store(tmp_path / "b")))
    assert 3 <= finished < 10, "the kill came too late to test anything"
    again = sweep(file, tmp_path / "b")
    assert again.wait(280) == 0, again.communicate()[1]
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_two_sweeps_at_once_train_each_shared_run_once(write_sweep, small_sweep, tmp_path):
    """Two drivers, one results folder, the same clean teachers: whoever comes second waits for the first one's runs."""
    text = small_sweep.replace("epochs: 3", "epochs: 40")
    files = [write_sweep(text.replace("name: small", f"name: {name}"), f"{name}.yaml") for name in ("one", "two")]
    both = [sweep(file, tmp_path / "results", "--json") for file in files]
    said = []
    for each in both:
        out, err = each.communicate(timeout=280)
        assert each.returncode == 0, err
        said.append(json.loads(out))
    assert [each["counts"] for each in said] == [{"done": 10}] * 2
    store = Store(tmp_path / "results")
    trained = [key for key in store.objects.list("runs") if key.endswith("/model.safetensors")]
    assert len(trained) == len(stored.finished(store)) == 10


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("signals", "status"), [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130)])
def test_a_signal_ends_it_and_the_command_that_is_printed_goes_on(
    write_sweep, small_sweep, tmp_path, monkeypatch, signals, status
):
    """SIGTERM politely, two Ctrl-C at once; nothing of Ray stays behind."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    file = write_sweep(small_sweep.replace("epochs: 3", "epochs: 400"))
    driver = sweep(file, tmp_path / "results", "--checkpoint-every", "0")
    wait_for(lambda: list((tmp_path / "results" / "runs").glob("*/*/checkpoints/*.json")), driver)
    left = {pid: started(pid) for pid in descendants(driver.pid)}
    for number in signals:
        driver.send_signal(number)
        time.sleep(0.3)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == status, err
    wait_for(lambda: not [pid for pid, when in left.items() if when and started(pid) == when])
    again = ["python", "-m", "kdtune.sweep", str(file), "--profile", "paper", "--results", str(tmp_path / "results")]
    again += ["--checkpoint-every", "0"]
    if len(signals) == 1:
        (line,) = [line for line in out.splitlines() if line.startswith("go on ")]
        assert shlex.split(line)[2:] == again and "stopped" in out
    done = subprocess.run([sys.executable, *again[1:]], cwd=ROOT, timeout=280, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.faults
def test_another_ray_and_the_stale_address_of_one_are_left_alone(write_sweep, tmp_path, monkeypatch):
    """faults 25: without --address nobody's Ray is joined, whatever was left behind or runs here."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="kdt", dir="/tmp"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for address in (cluster.address, "127.0.0.1:1"):
            left = Path(ray._private.utils.get_ray_address_file(None))
            left.parent.mkdir(parents=True, exist_ok=True)
            left.write_text(address)
            driver = sweep(write_sweep(), tmp_path / address)
            out, err = driver.communicate(timeout=200)
            assert driver.returncode == 0 and "10 done" in out, err  # the other one has no core to do it
            assert left.read_text() == address
    finally:
        cluster.shutdown()


def test_damaged_or_planted_tune_state_is_never_read():
    """Tune's state is pickled: whoever restored it would run what somebody planted. Nothing here does."""
    for path in sorted((ROOT / "kdtune").rglob("*.py")):
        assert "Tuner.restore" not in path.read_text().replace("`Tuner.restore`", ""), path


@pytest.mark.faults  # long: a minute of Ray
def test_both_slots_are_used_by_short_runs_after_a_wait_for_the_last_teacher(write_sweep, small_sweep, tmp_path):
    """Tune by itself keeps one process over such a wait, and short runs then use one slot to the end."""
    text = (
        small_sweep.replace("[0.0, 0.2]", "[0.1]").replace("seeds: 2", "seeds: 12").replace("epochs: 3", "epochs: 60")
    )
    dispatch, diary = launch(write_sweep(text), tmp_path / "results", tmp_path)
    assert dispatch.counts == {"done": 15}
    students = {id for id, planned in dispatch.plan.runs.items() if planned.role == "student"}
    running, most = set(), []
    for _, id in diary.entries:
        running ^= {id} if id in students else set()
        most.append(len(running))
    assert most.count(2) >= 8, f"running students over time: {most}"


@pytest.mark.soak
def test_sixty_runs_of_about_a_second_on_two_slots_stay_under_40_s(write_sweep, small_sweep, tmp_path):
    """Sixty one-second runs on two slots need 30 s; Ray and Tune may add ten. Counted from Ray's start."""
    text = (
        small_sweep.replace("[0.0, 0.2]", "[0.1]").replace("seeds: 2", "seeds: 50").replace("  seeds: 3", "  seeds: 10")
    )
    began = time.monotonic()
    dispatch, _ = launch(write_sweep(text.replace("epochs: 3", "epochs: 150")), tmp_path / "results", tmp_path)
    wall = time.monotonic() - began
    seconds = [stored.provenance(Store(tmp_path / "results"), id)["seconds"] for id in dispatch.plan.runs]
    assert dispatch.counts == {"done": 60}
    print(f"60 runs of {sum(seconds) / 60:.2f} s: {wall:.1f} s")
    assert wall - sum(seconds) / 2 < 20, "what Ray and Tune add; machines are shared, so not the 40 s themselves"


def test_no_more_runs_at_a_time_than_asked_for(write_sweep, tmp_path):
    from kdtune.launch.searcher import PlanSearcher

    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    dispatch, diary = Dispatch(plan, Standing(Store(tmp_path / "results"), plan.evaluators)), Diary()
    searcher = PlanSearcher(dispatch, lambda planned: {"id": planned.id}, diary, max_concurrent=2)
    assert searcher.suggest("a") and searcher.suggest("b")
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", {"error": ""})
    assert searcher.suggest("c") is not None


@pytest.mark.faults  # long: a minute of Ray
def test_a_running_cluster_is_joined_and_left_running(write_sweep, tmp_path, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="kdt", dir="/tmp"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        where = {"results": str(tmp_path / "results"), "data": str(tmp_path), "address": cluster.address}
        assert run(Options(write_sweep(), **where, gpus_per_run=0)) == 0
        store = Store(tmp_path / "results")
        records = [stored.provenance(store, Path(key).name) for key in store.objects.list("runs/done")]
        assert len(records) == 10 and all(record["commit"] == code()["commit"] for record in records)
        assert not store.objects.list("runs/claims/sweep")
        ray.init(address=cluster.address, log_to_driver=False)
        assert ray.cluster_resources()["CPU"] == 2
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_search_through_ray_proposes_what_it_does_in_one_process(write_sweep, search_sweep, tmp_path):
    """However many runs are under way, whichever ends first."""
    path, tables = write_sweep(search_sweep), []
    for name, flags in {"ray": {"max_concurrent": 2}, "here": {"here": True}}.items():
        results = tmp_path / name
        assert run(Options(path, profile="paper", results=str(results), data=str(tmp_path), verbosity=-1, **flags)) == 0
        tables.append([(results / "small" / "paper" / file).read_bytes() for file in ("search.csv", "results.csv")])
    assert tables[0] == tables[1]
