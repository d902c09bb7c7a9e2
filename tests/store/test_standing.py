"""One look at the store: how often it is listed and read in a command, and that everybody tells the same state."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from kdtune.cli.status import print_status
from kdtune.cli.sweep import Options, run, sweep
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.report.folder import View
from kdtune.store.objects import Objects
from kdtune.store.standing import READERS, Look, Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep

FOUR = "[accuracy, pgd, corruptions, masking]"
HISTORY = [{"epoch": 1, "train/loss": 1.0, "lr": 0.1}, {"epoch": 2, "train/loss": 0.5, "lr": 0.1}]
PROVENANCE = {"seconds": 1.5, "device": "CPU", "teacher": {"id": "0123456789ab", "metric": "val/accuracy"}}


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr("kdtune.store.folder.os.fsync", lambda descriptor: None)


@pytest.fixture
def file(write_sweep) -> SweepFile:
    """10 runs and 4 evaluators."""
    return load_sweep(write_sweep(SMALL.replace("[accuracy]", FOUR)))


@pytest.fixture
def plan(file, tmp_path) -> Plan:
    plan = build_plan(file, tmp_path)
    assert (len(plan.runs), len(plan.evaluators)) == (10, 4)
    return plan


def measure(store: Store, plan: Plan, id: str, evaluators: list[str] | None = None) -> None:
    done = store.done(id)
    assert done is not None
    for evaluator in plan.evaluators if evaluators is None else evaluators:
        store.evaluations(id, done).write(evaluator, {}, {f"test/{evaluator}": 50.0}, {})


def finish(store: Store, plan: Plan, *ids: str, outcome: str = "done") -> None:
    """As a trained run leaves it."""
    for id in ids or plan.runs:
        attempt = store.attempt(id)
        attempt.write_description(plan.runs[id].run.description)
        attempt.finish(outcome, b"weights" if outcome == "done" else None, HISTORY, PROVENANCE)
        if outcome == "done" and store.done(id).outcome == "done":  # else it had diverged before
            measure(store, plan, id)


class Counted(Objects):
    """Objects that note what is asked of them and when; a read of a run's record takes `seconds`."""

    def __init__(self, root: Any, store: Any = None) -> None:
        super().__init__(root, store)
        self.seconds = 0.0
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.listings: list[str] = []
        self.reads: list[tuple[str, float, float]] = []

    def list(self, folder: str = "") -> list[str]:
        self.listings.append(folder)
        return super().list(folder)

    def get(self, key: str) -> bytes | None:
        began = time.perf_counter()
        time.sleep(self.seconds if self.is_record(key) else 0.0)
        data = super().get(key)
        with self.lock:
            self.reads.append((key, began, time.perf_counter()))
        return data

    @staticmethod
    def is_record(key: str) -> bool:
        """Whether a run left it; not the sweep's own claim and folder."""
        return key.startswith("runs/") and not key.startswith("runs/claims/")

    @property
    def of_runs(self) -> list[tuple[str, float, float]]:
        return [each for each in self.reads if self.is_record(each[0])]


def local(folder: Path) -> Counted:
    return Counted(folder / "results")


def remote(folder: Path) -> Counted:
    return Counted("memory", MemoryStore())


def command(objects: Objects, file: SweepFile, plan: Plan, folder: Path) -> int:
    """A whole sweep command."""
    store = Store(objects)
    options = Options(folder / "small.yaml", data=str(folder), verbosity=-1)
    view = View(Standing(store, plan.evaluators), plan)
    return sweep(options, file, plan, view, lambda value: None, "python -m kdtune.sweep")


@pytest.mark.parametrize(("make", "seconds"), [(local, 0.0), (remote, 0.1)])
def test_a_second_command_lists_once_and_reads_each_record_once(make, seconds, file, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "data"))
    objects = make(tmp_path)
    finish(Store(objects), plan)
    objects.seconds = seconds
    assert command(objects, file, plan, tmp_path) == 0
    objects.clear()
    assert command(objects, file, plan, tmp_path) == 0
    assert objects.listings == ["runs"]
    keys = Counter(key for key, *_ in objects.of_runs)
    assert set(keys.values()) == {1}
    for id in plan.runs:
        mine = [key for key in keys if id in key]
        assert len(mine) <= 2 + len(plan.evaluators), mine
    assert len(objects.of_runs) <= len(plan.runs) * (2 + len(plan.evaluators))
    assert not any("history" in key or f"claims/{id}" in key for key, *_ in objects.reads for id in plan.runs)


def test_where_a_place_is_remote_no_read_waits_for_another(file, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "data"))
    objects = remote(tmp_path)
    finish(Store(objects), plan)
    objects.seconds = 0.4  # on a machine that is busy a thread may begin a tenth of a second late
    for _ in range(2):  # the first reads histories too
        objects.clear()
        assert command(objects, file, plan, tmp_path) == 0
        for key, began, ended in objects.of_runs:
            beside = sum(other < ended and began < end for _, other, end in objects.of_runs)
            assert beside > 1, f"{key} was read alone"


def test_a_dry_run_of_new_runs_reads_nothing(plan, tmp_path):
    objects = local(tmp_path)
    assert set(Standing(Store(objects), plan.evaluators).states(plan.runs).values()) == {State.NEW}
    assert (objects.listings, objects.reads) == (["runs"], [])


def test_a_few_runs_can_be_looked_at_without_listing_all(plan, tmp_path):
    objects = local(tmp_path)
    first, second, *_ = plan.runs
    finish(Store(objects), plan, first)
    objects.clear()
    standing = Standing(Store(objects), plan.evaluators)
    standing.refresh(first, second)
    assert standing.states([first, second]) == {first: State.DONE, second: State.NEW}
    assert objects.listings == [f"runs/{first}", f"runs/{second}"]


@pytest.mark.parametrize("how", [b"", b"[1]", b'{"epoch": 1}\n', None])
def test_a_damaged_history_is_a_warning_and_no_rows(plan, tmp_path, caplog, how):
    store = Store(local(tmp_path))
    one, other, *_ = plan.runs
    finish(store, plan, one, other)
    key = f"runs/{one}/{store.done(one).attempt}/history.jsonl"
    store.objects.put(key, how) if how is not None else store.objects.delete(key)
    standing = Standing(store, plan.evaluators)
    for _ in range(2):
        assert standing.histories([one, other]) == {one: [], other: HISTORY}
    assert standing.state(one) is State.DONE
    assert [record.getMessage() for record in caplog.records if one in record.getMessage()] == [caplog.messages[0]]
    assert "without its history" in caplog.text


def test_a_run_that_ends_while_the_store_is_listed_is_no_damage(plan, tmp_path, caplog):
    """Its folder was listed before its files were there, `done` after it."""
    store, id = Store(tmp_path / "results"), next(iter(plan.runs))
    look = Look(store, id, (), done=True, claim=False)
    finish(store, plan, id)
    assert look.state(()) is State.DONE and not caplog.records


def test_damaged_records_are_set_aside_and_never_used(plan, tmp_path, caplog):
    store = Store(remote(tmp_path))
    finish(store, plan)
    one, two, three, *_ = plan.runs
    evaluator = next(iter(plan.evaluators))
    origin = f"runs/{three}/{store.done(three).attempt}/provenance.json"
    measured = f"runs/{two}/{store.done(two).attempt}/evaluations/{evaluator}.json"
    for key in (f"runs/done/{one}", measured, origin):
        store.objects.put(key, b"{}")
    standing = Standing(store, plan.evaluators)
    states = standing.states(plan.runs)
    assert (states[one], states[two], states[three]) == (State.NEW, State.PARTIAL, State.NEW)
    assert Counter(states.values()) == {State.NEW: 2, State.PARTIAL: 1, State.DONE: 7}
    assert standing.missing(two) == [evaluator]
    assert standing.look(three).provenance == {}
    assert store.objects.exists(f"runs/done/{one}.damaged")
    assert store.done(three) is not None, "whoever looks takes nothing away: what lacks may come back"
    assert len(caplog.records) == 3
    assert f"run {three} counts as not done, for" in caplog.text


# Everybody tells the same


def nothing(store: Store, plan: Plan, id: str) -> None: ...


def described(store: Store, plan: Plan, id: str) -> None:
    store.attempt(id).write_description(plan.runs[id].run.description)


def checkpoint(store: Store, plan: Plan, id: str) -> None:
    store.attempt(id).save_checkpoint(1, b"state")


def failure(store: Store, plan: Plan, id: str) -> None:
    store.attempt(id).write_failure(ValueError("no"))


def unmeasured(store: Store, plan: Plan, id: str) -> None:
    if store.attempt(id).finish("done", b"weights", HISTORY, PROVENANCE):
        measure(store, plan, id, list(plan.evaluators)[1:])


def whole(store: Store, plan: Plan, id: str) -> None:
    finish(store, plan, id)


def diverged(store: Store, plan: Plan, id: str) -> None:
    finish(store, plan, id, outcome="diverged")


def gone(store: Store, plan: Plan, id: str) -> None:
    finish(store, plan, id)
    for key in store.objects.list(f"runs/{id}"):
        store.objects.delete(key)


def without_weights(store: Store, plan: Plan, id: str) -> None:
    finish(store, plan, id)
    store.objects.delete(f"runs/{id}/{store.done(id).attempt}/model.safetensors")


def without_origin(store: Store, plan: Plan, id: str) -> None:
    finish(store, plan, id)
    store.objects.put(f"runs/{id}/{store.done(id).attempt}/provenance.json", b"")


def without_history(store: Store, plan: Plan, id: str) -> None:
    finish(store, plan, id)
    store.objects.delete(f"runs/{id}/{store.done(id).attempt}/history.jsonl")


CASES: list[tuple[Callable, bool, str, str]] = [
    (nothing, False, "new", "new"),
    (described, False, "new", "new"),
    (checkpoint, False, "partial", "partial"),
    (failure, False, "failed", "new"),  # a dispatch tries it again
    (failure, True, "elsewhere", "elsewhere"),
    (unmeasured, False, "partial", "partial"),
    (unmeasured, True, "elsewhere", "elsewhere"),
    (whole, False, "done", "done"),
    (whole, True, "done", "done"),
    (diverged, False, "diverged", "diverged"),
    (gone, False, "new", "new"),
    (without_weights, False, "new", "new"),
    (without_origin, False, "new", "new"),
    (without_history, False, "done", "done"),
]


@pytest.mark.parametrize(("left", "claimed", "told", "dispatched"), CASES)
def test_status_dry_run_and_dispatch_tell_the_same(left, claimed, told, dispatched, file, plan, tmp_path, capsys):
    results, id = tmp_path / "results", next(iter(plan.runs))
    store = Store(results)
    View(Standing(store, plan.evaluators), plan).write(file, dict.fromkeys(plan.runs, State.NEW))
    left(store, plan, id)
    with store.claim(id) if claimed else nullcontext():
        assert Dispatch(plan, Standing(store, plan.evaluators)).states[id] == dispatched
        options = Options(tmp_path / "small.yaml", profile="paper", results=str(results), data=str(tmp_path))
        assert run(Options(**{**vars(options), "dry_run": True})) == 0
        dry = capsys.readouterr().out
        assert print_status(results / "small", None) == 0
        status = capsys.readouterr().out
    counts = "6 new" if told == "new" else f"1 {told}, 5 new"
    assert f"6 teachers: {counts}" in dry
    assert f"teachers: {counts.replace('elsewhere', 'running')}" in status
    assert ("another command works on runs that it shares" in status) == (told == "elsewhere") == ("running" in status)
    assert ("ValueError: no" in status) == (left is failure)


STEPS: list[Callable[[Store, Plan, str], None]] = [described, checkpoint, failure, unmeasured, whole, diverged, gone]


@settings(max_examples=40, deadline=None)
@given(done=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), max_size=8), looked=st.integers(0, 8))
def test_a_refreshed_standing_is_a_new_one(done: list, looked: int, few: tuple[Plan, Path]) -> None:
    """Whatever happened since it looked."""
    plan, folder = few
    shutil.rmtree(folder / "results", ignore_errors=True)
    store, ids = Store(folder / "results"), list(plan.runs)[:4]
    standing = Standing(store, plan.evaluators)
    for number, (step, run_number) in enumerate(done):
        if number == looked:
            standing.states(ids)
        step(store, plan, ids[run_number])
    standing.states(ids)
    standing.refresh(*ids)
    new = Standing(store, plan.evaluators)
    for each in (Standing.state, Standing.missing, Standing.measured):
        assert [each(standing, id) for id in ids] == [each(new, id) for id in ids]
    for id in ids:
        one, other = standing.look(id), new.look(id)
        assert (one.done, one.untried, one.failure) == (other.done, other.untried, other.failure)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Iterator[tuple[Plan, Path]]:
    folder = tmp_path_factory.mktemp("few")
    (folder / "small.yaml").write_text(SMALL)
    yield build_plan(load_sweep(folder / "small.yaml"), folder), folder


def test_plan_json_names_the_evaluators_that_status_asks_for(file, plan, tmp_path):
    store = Store(tmp_path / "results")
    View(Standing(store, plan.evaluators), plan).write(file, dict.fromkeys(plan.runs, State.NEW))
    written = json.loads((tmp_path / "results" / "small" / "paper" / "plan.json").read_bytes())
    assert written["evaluators"] == plan.evaluators


class Distant:
    """An obstore store that notes what is asked of it."""

    def __init__(self) -> None:
        self.store, self.asked, self.lock = MemoryStore(), Counter(), threading.Lock()

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **more: Any) -> Any:
            with self.lock:
                self.asked[name] += 1
            return getattr(self.store, name)(*args, **more)

        return ask


def test_a_start_over_thousands_of_finished_runs_costs_seconds(write_sweep, small_sweep, tmp_path, monkeypatch):
    """At 20 ms a request: 1,000 finished runs under 10 s, 10,000 under 60 s. Requests are counted, for 48 runs; what
    does not grow with their number, and listings of 1,000 keys each, come on top."""
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "data"))
    text = small_sweep.replace("seeds: 3", "seeds: 12").replace("seeds: 2\n", "seeds: 12\n", 1)
    text = text.replace("evaluation: [accuracy]", "evaluation: [accuracy, masking, corruptions, pgd]")
    path = write_sweep(text)
    file = load_sweep(path)
    plan = build_plan(file, tmp_path)
    distant = Distant()
    objects = Objects("memory", distant)
    finish(Store(objects), plan)
    keys = len(objects.list("runs"))
    assert (len(plan.runs), len(plan.evaluators)) == (48, 4)
    assert command(objects, file, plan, tmp_path) == 0
    distant.asked.clear()
    assert command(objects, file, plan, tmp_path) == 0
    assert distant.asked["put"] + distant.asked["delete"] <= 5 and distant.asked["list"] == 1
    fixed = 40  # one after the other
    each = (sum(distant.asked.values()) - fixed) / len(plan.runs)
    assert each <= 2 + len(plan.evaluators)
    for runs, seconds in ((1_000, 10.0), (10_000, 60.0)):
        listed = runs * keys / len(plan.runs) / 1_000
        assert 0.02 * (fixed + listed + runs * (2 + len(plan.evaluators)) / READERS) < seconds
