"""Ray at arm's length: whatever hangs or ends in there, the caller comes back in bounded time. The Ray is a fake."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdtune.launch import connection, guard
from kdtune.launch.causes import cause_of, in_words
from kdtune.launch.connection import ray_at
from kdtune.launch.door import CannotConnect, knock
from kdtune.launch.guard import RayLost, with_ray
from kdtune.launch.interrupt import LEFT_BEHIND
from kdtune.planning.setbacks import Cause

HANG = threading.Event()  # set only when a test is over


@pytest.fixture
def fake(monkeypatch):
    """A Ray that does as `fake` says: how connecting goes, which nodes it knows, what was done to it."""
    fake = SimpleNamespace(connecting=lambda: None, nodes=lambda: [{"NodeID": "me", "Alive": True}], calls=[])

    @contextlib.contextmanager
    def ray_at(address, folder):
        fake.connecting()
        yield

    ray = SimpleNamespace(
        nodes=lambda: fake.nodes(),
        shutdown=lambda: fake.calls.append("shutdown"),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "me"),
    )
    monkeypatch.setattr(guard, "ray_at", ray_at)
    monkeypatch.setattr(guard, "ray", ray)
    monkeypatch.setattr(guard, "ended_parts", lambda: [])
    monkeypatch.setattr(guard, "POLL_S", 0.02)
    monkeypatch.setattr(guard, "ASK_EVERY_S", 0.05)
    for name in ("CONNECT_S", "SILENT_S", "ENDING_S"):
        monkeypatch.setattr(guard, name, 0.5)
    yield fake
    HANG.set()
    for thread in threading.enumerate():  # one that stays behind would end the next command of this process at once
        if thread.name == LEFT_BEHIND:
            thread.join(30)
            assert not thread.is_alive()
    HANG.clear()


def never(stop) -> None:
    HANG.wait()


def politely(stop) -> None:
    stop.wait()


def go(work, address=None, interrupted=lambda: False) -> float:
    """Seconds it took."""
    began = time.monotonic()
    try:
        with_ray(address, "nowhere", work, interrupted)
    finally:
        took = time.monotonic() - began
        assert took < 20, took
    return took


def test_work_is_done_in_another_thread_and_ray_is_shut_down(fake):
    did = []
    go(lambda stop: did.append(threading.current_thread()))
    assert did[0] is not threading.current_thread() and fake.calls == ["shutdown"]


def test_what_work_raises_comes_out(fake):
    with pytest.raises(ZeroDivisionError):
        go(lambda stop: 1 / 0)
    assert fake.calls == ["shutdown"]


def test_an_address_where_something_else_listens_is_not_waited_for(fake):
    fake.connecting = HANG.wait
    with pytest.raises(CannotConnect, match="does not answer as a Ray"):
        go(never, address="here:1")


def test_a_ray_that_comes_up_too_late_is_not_worked_with(fake):
    late, did = threading.Event(), []
    fake.connecting = late.wait
    with pytest.raises(CannotConnect):
        go(lambda stop: did.append(1), address="here:1")
    late.set()
    deadline = time.monotonic() + 10
    while not fake.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fake.calls == ["shutdown"] and did == []


def test_ones_own_ray_may_take_its_time(fake):
    fake.connecting = lambda: time.sleep(1)
    go(lambda stop: None)


@pytest.mark.parametrize("work", [never, politely])
def test_a_head_that_does_not_answer_ends_it_whether_or_not_the_work_hangs(fake, work):
    fake.nodes = HANG.wait
    with pytest.raises(RayLost, match="does not answer"):
        go(work)


@pytest.mark.parametrize("nodes", [[], [{"NodeID": "me", "Alive": False}, {"NodeID": "other", "Alive": True}]])
def test_so_does_a_machine_that_the_cluster_has_lost(fake, nodes):
    fake.nodes = lambda: nodes
    with pytest.raises(RayLost, match="lost this machine"):
        go(never)


def test_so_does_a_part_of_ray_that_ended(fake, monkeypatch):
    monkeypatch.setattr(guard, "ended_parts", lambda: ["gcs_server"])
    with pytest.raises(RayLost, match="its gcs_server ended"):
        go(politely)


def test_an_error_of_the_work_that_a_lost_ray_explains_is_told_as_that(fake, monkeypatch):
    def falls(stop):
        monkeypatch.setattr(guard, "ended_parts", lambda: ["raylet"])
        raise RuntimeError("ninety lines of Ray")

    with pytest.raises(RayLost, match="its raylet ended"):
        go(falls)


@pytest.mark.parametrize("connecting", [lambda: None, HANG.wait])
@pytest.mark.parametrize("work", [never, politely])
def test_ctrl_c_is_heard_while_it_connects_works_or_hangs(fake, connecting, work):
    fake.connecting = connecting
    began = time.monotonic()
    go(work, address="here:1", interrupted=lambda: time.monotonic() - began > 0.2)


def test_a_slow_answer_is_an_answer(fake):
    fake.nodes = lambda: time.sleep(0.2) or [{"NodeID": "me", "Alive": True}]
    go(lambda stop: time.sleep(1.5))


def test_the_parts_of_ray_are_asked_for_where_this_ray_keeps_them():
    from ray._private.node import Node

    assert callable(Node.dead_processes)
    assert guard.ended_parts() == [], "no Ray of our own runs here"


# Addresses


PORTS = ["head", "head:", "head:port", "head:0", "head:70000", "head:6379/x", ":6379"]
OTHERS = ["ray://head:10001", "http://127.0.0.1:8265", "::1:6379", "[::1]", "[head]:6379", "", "a b:1"]


@pytest.mark.parametrize("address", [*PORTS, *OTHERS])
def test_what_is_no_address_is_said_to_be_none(address):
    with pytest.raises(CannotConnect, match="HOST:PORT"):
        knock(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_where_nothing_listens_nothing_is_asked(host):
    free = socket.socket()
    free.bind(("127.0.0.1", 0))  # bound and not listening: refused
    with pytest.raises(CannotConnect, match="nothing answers there"):
        knock(f"{host}:{free.getsockname()[1]}")
    free.close()


@pytest.mark.parametrize("name", ["no-such-host.invalid", "x" * 70 + ".invalid", "a..b"])
def test_a_name_that_does_not_resolve_is_an_answer_too(name):
    with pytest.raises(CannotConnect, match="nothing answers there"):
        knock(f"{name}:6379")


def test_a_machine_that_says_nothing_is_given_up_in_seconds(monkeypatch):
    def silent(address, timeout):
        assert timeout <= 10
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(CannotConnect, match="timed out"):
        knock("10.255.255.1:6379")


def test_where_something_listens_ray_may_be_asked():
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock(f"127.0.0.1:{server.getsockname()[1]}")
    knock("auto")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="a machine without IPv6")
def test_six_is_a_version_too():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        knock(f"[::1]:{server.getsockname()[1]}")


def test_another_version_is_told_in_one_line_and_loggers_are_as_before(monkeypatch):
    def other(**options):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1")

    monkeypatch.setattr(connection.ray, "init", other)
    before = logging.getLogger("ray._private.worker").level
    said = r"^Version mismatch: .* Ray: 2\.59\.0 Python: 3\.12\.1$"
    with pytest.raises(CannotConnect, match=said), ray_at("auto", "nowhere"):
        pytest.fail("not connected")
    assert logging.getLogger("ray._private.worker").level == before


# Ray's texts, as Tune wrote them down in runs of Ray 2.60

LOST = """\
Failure # 1 (occurred at 2026-11-26_01-44-51)
The actor died unexpectedly before finishing this task.
\tclass_name: ImplicitFunc
\tactor_id: 6303009265e6e63e8fa13e7301000000
\tpid: 24135
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR
"""
GONE = """\
Failure # 1 (occurred at 2026-11-26_01-44-51)
The actor died because its node has died. Node Id: 4f2b
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats
"""
OWN = """\
Failure # 1 (occurred at 2026-11-26_01-44-25)
\x1b[36mray::ImplicitFunc.train()\x1b[39m (pid=23582, ip=192.0.2.2, actor_id=8c05, repr=fn)
  File "fn.py", line 9, in fn
ValueError: no memory of that; due to the node running low on memory
"""
BROKEN = OWN.replace(
    "ValueError: no memory of that; due to the node running low on memory",
    """\
torch.AcceleratorError: CUDA error: an illegal memory access was encountered
CUDA kernel errors might be asynchronously reported at some other API call""",
)
SHORT = "2 worker(s) were killed due to the node running low on memory.\nTop 10: 25258 1.12 ray::ImplicitFunc"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", Cause.LOST),
        (LOST, Cause.LOST),
        (GONE, Cause.LOST),
        (GONE.replace("terminated unexpectedly", "preempted"), Cause.PREEMPTED),
        (OWN, Cause.ITSELF),
        (LOST + OWN, Cause.ITSELF),
        (BROKEN, Cause.GPU),
        (BROKEN.replace("an illegal memory access was encountered", "out of memory"), Cause.ITSELF),
        (BROKEN.replace("torch.A", "RuntimeError: not even torch.A"), Cause.ITSELF),
        (SHORT, Cause.MEMORY),
        ("The actor died because of an error raised in its creation task, ray::F.__init__()", Cause.ITSELF),
        ("The actor 63 is unavailable: RpcError: Socket closed rpc_code: 14.", Cause.LOST),
    ],
)
def test_causes_are_read_from_what_ray_says(text, cause):
    assert cause_of(text) is cause


def test_in_words_a_lost_process_is_one_line_and_an_exception_is_whole():
    assert in_words(LOST) == (
        "its process was lost: The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
    )
    assert "node was terminated unexpectedly" in in_words(GONE) or "its node has died" in in_words(GONE)
    assert in_words(OWN).splitlines()[-1].startswith("ValueError") and len(in_words(OWN).splitlines()) == 3
    assert in_words(BROKEN) == (
        "its GPU had an error: torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
    )
    assert in_words("") == "its process was lost, without a word"
