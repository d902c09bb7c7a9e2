"""A run that does not get on is found by its own process; a process that does not live, by the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from kdtune.launch import heartbeats
from kdtune.launch.heartbeats import Heartbeats
from kdtune.launch.watchdog import Watchdog, write_down
from kdtune.store.claims import Claims
from kdtune.store.standing import Standing
from kdtune.store.store import Store

RUN = "0123456789ab"


def wait_for(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def test_silence_after_a_pulse_is_told_once_and_anew_after_the_next_pulse():
    found = []
    with Watchdog(lambda what, first: found.append((what, first)), silence=0.1) as dog:
        dog.pulse()
        assert wait_for(lambda: found)
        time.sleep(0.2)
        assert len(found) == 1 and found[0][0].startswith("no training step") and found[0][1] is False
        dog.pulse()
        assert wait_for(lambda: len(found) == 2, 60), "the longest silence so far was about 0.3 s: ten times that"


def test_before_the_first_pulse_it_says_so():
    found = []
    with Watchdog(lambda what, first: found.append(first), silence=0.2):
        assert wait_for(lambda: found)
    assert found == [True]


def test_who_gets_on_or_waits_for_the_driver_is_left_alone():
    found = []
    with Watchdog(lambda what, first: found.append(what), silence=0.6) as dog:
        for _ in range(100):
            dog.pulse()
            time.sleep(0.01)
        with dog.waiting():
            time.sleep(1.5)
    assert found == []


def test_a_run_whose_steps_are_slow_is_given_ten_times_as_long():
    found = []
    with Watchdog(lambda what, first: found.append(time.monotonic()), silence=0.3) as dog:
        dog.pulse()
        time.sleep(0.25)  # seen as two tenths of a second at least
        dog.pulse()
        last = time.monotonic()
        assert wait_for(lambda: found)
    assert found[0] - last > 1.2, "longer than is allowed at least"


def test_a_process_that_was_stopped_and_goes_on_was_not_silent(tmp_path):
    """Two seconds in which nothing runs, where one may be silent: only what is seen counts."""
    program = """
import sys, time
from kdtune.launch.watchdog import Watchdog
with Watchdog(lambda what, first: print("found", flush=True), silence=1.0) as dog:
    dog.pulse()
    print("ready", flush=True)
    sys.stdin.readline()
    dog.pulse()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGSTOP)
    time.sleep(2)
    child.stdin.write("\n")
    child.stdin.flush()
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=30)[0] == ""


def test_stacks_go_into_the_attempt_that_this_process_is_at(tmp_path):
    store = Store(tmp_path)
    with store.claim(RUN) as claim:
        write_down(store, RUN, "no training step")
        text = (tmp_path / "runs" / RUN / claim.attempt / "stacks.txt").read_text()
    assert text.startswith("no training step") and "most recent call first" in text
    assert Standing(store).look(RUN).failure is None
    write_down(store, RUN, "not ours any more")
    assert (tmp_path / "runs" / RUN / claim.attempt / "stacks.txt").read_text() == text


def test_a_stuck_process_says_why_and_ends(tmp_path):
    program = f"""
from kdtune.launch.watchdog import end_process
from kdtune.store.store import Store
store = Store({str(tmp_path)!r})
with store.claim({RUN!r}):
    end_process(store, {RUN!r}, "no training step for 300 s")
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 1
    failure = Standing(Store(tmp_path)).look(RUN).failure
    assert failure["type"] == "Stuck" and "300 s" in failure["message"]


@pytest.fixture
def quick(monkeypatch):
    """A store whose claims beat 20 times a second, and heartbeats that look as often."""

    def quick(folder) -> Store:
        store = Store(folder)
        store.claims = Claims(store.objects, beat=0.05)
        return store

    monkeypatch.setattr(heartbeats, "SILENCE_S", 1.0)
    return quick


def test_a_claim_that_beats_is_alive_and_one_that_does_not_is_told_once(quick, tmp_path):
    store = quick(tmp_path)
    watch, silent = Heartbeats(store), {}
    with store.claim(RUN) as claim:
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert watch.frozen([RUN]) == {}
            time.sleep(0.02)
        claim._stop.set()  # its thread does not run any more
        assert wait_for(lambda: silent.update(watch.frozen([RUN])) or silent)
        assert silent[RUN]["attempt"] == claim.attempt and silent[RUN]["pid"] == os.getpid()
        assert watch.frozen([RUN]) == {}


def test_a_driver_that_was_stopped_itself_does_not_count_that_time(quick, tmp_path):
    watch = Heartbeats(quick(tmp_path), silence=1.0)
    with Store(tmp_path).claim(RUN):  # beats every 15 s: silent, for this test
        time.sleep(0.11)
        assert watch.frozen([RUN]) == {}
        watch._looked -= 1000
        assert watch.frozen([RUN]) == {}


def test_a_frozen_process_of_this_machine_is_ended_and_its_attempt_says_why(tmp_path):
    program = f"""
import sys, time
from kdtune.store.store import Store
claim = Store({str(tmp_path)!r}).claim({RUN!r})
print("ready", flush=True)
time.sleep(100)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGSTOP)
    store = Store(tmp_path)
    watch = Heartbeats(store, silence=5)
    watch.bury(RUN, store.owner(RUN))
    assert child.wait(20) == -signal.SIGKILL
    failure = Standing(store).look(RUN).failure
    assert failure["type"] == "Stuck" and "no sign of life for 5 s" in failure["message"]


def test_another_process_with_its_number_is_left_alone(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    store = Store(tmp_path)
    with store.claim(RUN):
        claim = {**store.owner(RUN), "pid": child.pid}  # started at another time
    Heartbeats(store).bury(RUN, claim)
    time.sleep(0.2)
    assert child.poll() is None
    child.communicate(b"\n")


def test_where_a_run_hangs_before_its_first_step_is_told_by_the_driver(quick, tmp_path, caplog):
    store = quick(tmp_path)
    watch = Heartbeats(store)
    with store.claim(RUN):
        write_down(store, RUN, "no training step or evaluation batch for 300 s")
        for _ in range(3):
            time.sleep(0.11)
            watch.frozen([RUN], heard=())
    (said,) = [record.getMessage() for record in caplog.records]
    assert "first step" in said and "stacks.txt" in said


def test_damaged_claims_and_a_place_that_is_gone_are_no_sign_of_anything(quick, tmp_path):
    store = quick(tmp_path)
    watch = Heartbeats(store)
    for bad in (b"\xff", b"[]", b"{}", json.dumps({"attempt": 1}).encode()):
        store.objects.put(f"runs/claims/{RUN}", bad)
        time.sleep(0.11)
        assert watch.frozen([RUN]) == {}


def test_a_pulse_costs_next_to_nothing():
    """A training step takes a millisecond at least; a pulse may take a hundredth of that, however busy the machine."""
    dog = Watchdog(lambda what, first: None)
    best = min(_seconds(dog.pulse) for _ in range(20))
    assert best < 1e-5


def _seconds(call, times: int = 1000) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def test_threads_of_watchdogs_end_with_their_run():
    before = threading.active_count()
    for _ in range(5):
        with Watchdog(lambda what, first: None, silence=0.6):
            pass
    assert wait_for(lambda: threading.active_count() <= before)
