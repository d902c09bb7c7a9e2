"""Claims: one owner at a time, whoever dies is succeeded, whoever lives is not."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kdtune.store import claims as module
from kdtune.store.claims import FOLDER, Claims, identity, new_attempt, started
from kdtune.store.objects import Objects, StorageError

RUN = "0123456789ab"


@pytest.fixture(params=["local", "subtree", "mock"])
def objects(request, tmp_path) -> Objects:
    if request.param == "local":
        return Objects(tmp_path / "results")
    return subtree(tmp_path) if request.param == "subtree" else Objects("mock:///bucket/prefix")


def subtree(folder: Path) -> Objects:
    from pyarrow import fs  # here, since every spawned process imports this file

    return Objects("", fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()))


def claims(objects: Objects, **more) -> Claims:
    return Claims(objects, **{"settle": 0.02, **more})


def put(objects: Objects, age: float = 0.0, **changes) -> None:
    """A claim as this process would have written it `age` seconds ago, but for the changes."""
    record = {**identity(), "attempt": new_attempt(), "heartbeat": time.time() - age, **changes}
    objects.put(f"{FOLDER}/{RUN}", json.dumps(record).encode())


def test_a_claim_is_exclusive_until_released(objects):
    mine = claims(objects)
    assert mine.owner(RUN) is None
    with mine.claim(RUN) as claim:
        assert claims(objects).claim(RUN) is None
        owner = claims(objects).owner(RUN)
        assert (owner["pid"], owner["attempt"]) == (os.getpid(), claim.attempt)
    assert mine.owner(RUN) is None
    with claims(objects).claim(RUN) as again:
        assert again is not None


def test_a_claim_is_released_when_its_block_raises(objects):
    with pytest.raises(RuntimeError), claims(objects).claim(RUN):
        raise RuntimeError
    assert claims(objects).owner(RUN) is None


def test_a_sweep_folder_can_be_claimed_beside_runs(objects):
    mine = claims(objects)
    with mine.claim("sweep/fickle/laptop"), mine.claim("sweep/fickle/quick"), mine.claim(RUN):
        assert mine.claim("sweep/fickle/laptop") is None


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", ""])
def test_a_name_that_leads_out_is_refused(objects, name):
    with pytest.raises(ValueError):
        claims(objects).claim(name)


def test_waiting_ends_when_the_owner_releases(objects, monkeypatch):
    monkeypatch.setattr(module, "POLL", 0.02)
    first = claims(objects).claim(RUN)
    threading.Timer(0.2, first.release).start()
    start = time.monotonic()
    with claims(objects).claim(RUN, wait=True) as second:
        assert second.attempt != first.attempt
    assert time.monotonic() - start > 0.15


# Whose claim is stale

OTHER = {"host": "another", "pid": 1, "started": 5}


@pytest.mark.parametrize(
    "changes",
    [
        {**OTHER},
        {**OTHER, "boot": "another"},
        {"boot": "another", "pid": 2**22},
        {"pids": "pid:[1]", "pid": 2**22},  # another container's process cannot be seen from here
        {},
        {**OTHER, "age": 60},
        {**OTHER, "age": -60},
    ],
)
def test_a_live_claim_is_never_taken(objects, changes):
    put(objects, **changes)
    assert claims(objects).claim(RUN) is None
    assert claims(objects).owner(RUN) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {**OTHER, "age": 91},
        {"age": 91},  # alive but stopped
        {**OTHER, "age": -3600},  # the clock was wrong
        {"pid": 2**22 + 1},
        {"started": 1},  # the process number was given to another process
        {"pid": None},
        {"heartbeat": None},
        {"heartbeat": "soon"},
        {"heartbeat": True},
    ],
)
def test_a_stale_claim_is_taken_over(objects, changes):
    put(objects, **changes)
    assert claims(objects).owner(RUN) is None
    with claims(objects).claim(RUN) as claim:
        assert claims(objects).owner(RUN)["attempt"] == claim.attempt


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b"\xff\x00", b"7", b'{"host": 3}', b"[" * 100_000])
def test_garbage_is_a_stale_claim(objects, garbage):
    objects.put(f"{FOLDER}/{RUN}", garbage)
    assert claims(objects).owner(RUN) is None
    with claims(objects).claim(RUN) as claim:
        assert claim is not None


def eventually(true) -> bool:
    deadline = time.monotonic() + 20
    while not (holds := true()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds


def test_a_live_owner_stays_alive_by_its_heartbeat(objects):
    clock = [time.time()]
    owner, other = (claims(objects, beat=0.02, clock=lambda: clock[0]) for _ in range(2))
    with owner.claim(RUN) as claim:
        for _ in range(5):
            clock[0] += 80
            assert eventually(lambda: (other.owner(RUN) or {}).get("heartbeat") == clock[0])
            assert other.claim(RUN) is None
        assert not claim.lost


def test_an_owner_that_was_taken_over_knows_and_leaves_the_new_claim_alone(objects):
    late = claims(objects, beat=0.05).claim(RUN)
    put(objects, **OTHER)
    assert eventually(lambda: late.lost)
    late.release()
    assert claims(objects).owner(RUN)["host"] == "another"


def test_a_storage_that_fails_for_a_while_ends_neither_claim_nor_work(objects, monkeypatch, caplog):
    real = objects.put

    def fail(key, data, durable):
        raise StorageError("gone for a while")

    with claims(objects, beat=0.02).claim(RUN) as claim:
        monkeypatch.setattr(objects, "put", fail)
        assert eventually(lambda: caplog.text.count("no heartbeat") > 3)
        monkeypatch.setattr(objects, "put", real)
        before = claims(objects).owner(RUN)["heartbeat"]
        assert eventually(lambda: (claims(objects).owner(RUN) or {"heartbeat": 0.0})["heartbeat"] > before)
        assert not claim.lost
    assert "no heartbeat" in caplog.text and "gone for a while" in caplog.text


# Real processes

OWNER = """
import sys, time
from kdtune.store.claims import Claims
from kdtune.store.objects import Objects
claim = Claims(Objects(sys.argv[1])).claim(sys.argv[2])
print(claim.attempt, flush=True)
time.sleep(60)
"""


def start_owner(root) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(root), RUN], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip()
    return process


@pytest.mark.parametrize("collected", [True, False])
def test_a_killed_owner_is_succeeded_at_once(tmp_path, collected):
    process = start_owner(tmp_path)
    mine = Claims(Objects(tmp_path))
    try:
        assert mine.claim(RUN) is None
        assert mine.owner(RUN)["pid"] == process.pid
        process.send_signal(signal.SIGKILL)
        if collected:
            process.wait()
        else:  # a zombie: dead, but its parent has not asked yet
            assert eventually(lambda: started(process.pid) is None)
        with mine.claim(RUN) as claim:
            assert claim is not None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_stopped_owner_keeps_its_claim_while_its_heartbeat_is_fresh(tmp_path):
    process = start_owner(tmp_path)
    try:
        process.send_signal(signal.SIGSTOP)
        assert Claims(Objects(tmp_path)).claim(RUN) is None
        assert Claims(Objects(tmp_path), clock=lambda: time.time() + 100).owner(RUN) is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


ROUNDS = 9


def contend(root, barrier, queue) -> None:
    """Each round all ask at once; a third of the names is free, a third garbage, a third held by the dead."""
    objects = Objects(root)
    for number in range(ROUNDS):
        barrier.wait()
        claim = Claims(objects).claim(f"run-{number}")
        queue.put((number, claim is not None))
        barrier.wait()  # nobody releases before all have asked
        if claim:
            claim.release()
    queue.put(None)


@pytest.mark.parametrize("processes", [2, 8])
def test_of_many_contenders_exactly_one_wins(tmp_path, processes):
    objects = Objects(tmp_path)
    for number in range(ROUNDS):
        if number % 3 == 1:
            objects.put(f"{FOLDER}/run-{number}", b"garbage")
        if number % 3 == 2:
            dead = {**identity(), "pid": 2**22 + 1, "attempt": "x", "heartbeat": time.time()}
            objects.put(f"{FOLDER}/run-{number}", json.dumps(dead).encode())
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=contend, args=(tmp_path, barrier, queue)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    answers, ended = [], 0
    while ended < processes:
        item = queue.get(timeout=60)
        ended += item is None
        answers += [item] if item else []
    for worker in workers:
        worker.join()
    for number in range(ROUNDS):
        won = [win for name, win in answers if name == number]
        assert (len(won), sum(won)) == (processes, 1)
    assert objects.list(FOLDER) == []


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_of_threads_that_ask_at_once_one_wins(tmp_path, kind):
    objects = Objects(tmp_path) if kind == "local" else subtree(tmp_path)
    barrier = threading.Barrier(4)
    won = []

    def ask() -> None:
        mine = Claims(objects, settle=0.5)
        barrier.wait()
        won.append(mine.claim(RUN))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [claim for claim in won if claim is not None]
    assert len(winners) == 1
    assert Claims(objects).owner(RUN)["attempt"] == winners[0].attempt
    winners[0].release()


def test_attempts_are_unique_and_sort_by_time():
    names = [new_attempt() for _ in range(200)]
    assert len(set(names)) == 200
    assert [name[:21] for name in names] == sorted(name[:21] for name in names)


def test_this_process_runs_and_a_dead_one_does_not():
    assert started(os.getpid()) == started(os.getpid()) > 0
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert started(process.pid) is None
