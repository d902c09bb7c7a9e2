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

import pytest
from obstore.store import MemoryStore

from kdtune.store.claims import Claims, identity, new_attempt, started
from kdtune.store.layout import CLAIMS, claim_key
from kdtune.store.objects import Objects, StorageError

RUN = "0123456789ab"


@pytest.fixture(params=["local", "memory", "s3"])
def objects(request, tmp_path) -> Objects:
    if request.param == "local":
        return Objects(tmp_path / "results")
    return (
        Objects(request.getfixturevalue("s3").bucket()) if request.param == "s3" else Objects("memory", MemoryStore())
    )


def claims(objects: Objects, **more) -> Claims:
    return Claims(objects, **more)


def put(objects: Objects, age: float = 0.0, **changes) -> None:
    """A claim as this process would have written it `age` seconds ago, but for the changes."""
    record = {**identity(), "attempt": new_attempt(), "heartbeat": time.time() - age, **changes}
    objects.put(claim_key(RUN), json.dumps(record).encode())


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


def test_a_storage_that_has_gone_is_not_asked_to_take_the_claim_back(objects):
    """It was waited for, four minutes; whoever comes next finds the claim stale."""
    claims, lost = Claims(objects), StorageError("it does not answer")
    for gone in (True, False):
        lost.gone = gone
        with pytest.raises(StorageError), claims.claim(f"run{gone}"):
            raise lost
        assert (claims.owner(f"run{gone}") is not None) == gone


def test_a_call_that_never_returns_does_not_keep_the_claim(objects, caplog):
    """row C14: Tune ends a function inside its report, and a process that is kept for the next trial lives on."""
    never, returned = threading.Event(), threading.Event()
    mine = claims(objects, beat=0.05, stale=0.3)
    with mine.claim(RUN) as claim:
        claim.resting(time.sleep, 0.12)  # longer than a beat, and back: it beats again
        time.sleep(0.5)
        assert mine.owner(RUN)["attempt"] == claim.attempt
        stuck = threading.Thread(target=lambda: (claim.resting(lambda event: event.wait(), never), returned.set()))
        stuck.start()
        time.sleep(0.6)
        with claims(objects, stale=0.3).claim(RUN) as other:
            assert other is not None, "taken over"
            never.set()
            assert returned.wait(1.0)
            time.sleep(0.2)
            assert claims(objects).owner(RUN)["attempt"] == other.attempt, "what comes back late leaves it to the other"
            assert caplog.text.count("was taken over by another process") == 1
        stuck.join()


def test_a_sweep_folder_can_be_claimed_beside_runs(objects):
    mine = claims(objects)
    with mine.claim("sweep/fickle/laptop"), mine.claim("sweep/fickle/quick"), mine.claim(RUN):
        assert mine.claim("sweep/fickle/laptop") is None


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", ""])
def test_a_name_that_leads_out_is_refused(objects, name):
    with pytest.raises(ValueError):
        claims(objects).claim(name)


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
    objects.put(claim_key(RUN), garbage)
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
        assert other.owner(RUN)["attempt"] == claim.attempt


def test_an_owner_that_was_taken_over_says_so_and_leaves_the_new_claim_alone(objects, caplog):
    late = claims(objects, beat=0.05).claim(RUN)
    put(objects, **OTHER)
    assert eventually(lambda: "was taken over by another process" in caplog.text)
    late.release()
    assert claims(objects).owner(RUN)["host"] == "another"


def test_a_storage_that_fails_for_a_while_ends_neither_claim_nor_work(objects, monkeypatch, caplog):
    real = objects.replace

    def fail(key, data, version):
        raise StorageError("gone for a while")

    with claims(objects, beat=0.02).claim(RUN) as claim:
        monkeypatch.setattr(objects, "replace", fail)
        assert eventually(lambda: caplog.text.count("no heartbeat") > 3)
        monkeypatch.setattr(objects, "replace", real)
        before = claims(objects).owner(RUN)["heartbeat"]
        assert eventually(lambda: (claims(objects).owner(RUN) or {"heartbeat": 0.0})["heartbeat"] > before)
        assert claims(objects).owner(RUN)["attempt"] == claim.attempt
    assert "no heartbeat" in caplog.text and "gone for a while" in caplog.text


def test_the_command_that_a_run_was_claimed_for_may_evict_the_claim_of_a_lost_machine(objects):
    theirs = claims(objects, by="a command").claim(RUN)
    theirs._stop.set()
    mine = claims(objects)
    for other in ("", "another command"):
        mine.evict(RUN, other)
        assert mine.owner(RUN) is not None
    mine.evict(RUN, "a command")
    assert mine.owner(RUN) is None
    mine.evict(RUN, "a command")
    mine.claim(RUN).release()


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
            objects.put(claim_key(f"run-{number}"), b"garbage")
        if number % 3 == 2:
            dead = {**identity(), "pid": 2**22 + 1, "attempt": "x", "heartbeat": time.time()}
            objects.put(claim_key(f"run-{number}"), json.dumps(dead).encode())
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
    assert objects.list(CLAIMS) == []


def test_of_threads_that_ask_at_once_one_wins(objects):
    barrier = threading.Barrier(4)
    won = []

    def ask() -> None:
        mine = Claims(objects)
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
