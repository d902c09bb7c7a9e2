"""Whether a cluster is joined, told before Ray is loaded: no server, no Ray, no token, another token."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from kdtune.launch.door import CHECK, CannotConnect, enter, own_token


class Head(grpc.GenericRpcHandler):
    """Answers as Ray 2.60's head does: only who has the token, if it has one, learns anything."""

    def __init__(self, token: str = "") -> None:
        self.token, self.asked = token, 0

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.unary_unary_rpc_method_handler(self._check) if call.method == CHECK else None

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked += 1
        if self.token and dict(context.invocation_metadata()).get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""


@pytest.fixture
def head() -> Iterator[tuple[Head, str]]:
    server, here = grpc.server(ThreadPoolExecutor(2)), Head()
    server.add_generic_rpc_handlers([here])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield here, f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(autouse=True)
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody at home nowhere, who has not loaded Ray."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)


def keep(token: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{token}\n")


def test_an_open_door_asks_for_nothing(head: tuple[Head, str]) -> None:
    enter(head[1])
    assert head[0].asked == 1 and "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize("where", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home"])
def test_a_token_that_fits_is_used_wherever_ray_looks(
    head: tuple[Head, str], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head begun with plain `ray start --head` asks for one by itself, and joining it with --address alone works."""
    head[0].token = "secret"
    path = tmp_path / (".ray/auth_token" if where == "home" else "elsewhere")
    keep("secret", path)
    if where != "home":
        keep("another", tmp_path / ".ray/auth_token")
        monkeypatch.setenv(where, "secret" if where == "RAY_AUTH_TOKEN" else str(path))
    enter(head[1])
    assert os.environ["RAY_AUTH_MODE"] == "token" and own_token()[0] == "secret"


def test_no_token_and_another_token_are_named(head: tuple[Head, str], tmp_path: Path) -> None:
    head[0].token = "secret"
    with pytest.raises(
        CannotConnect, match=r"asks for a token, and there is none here \(.*auth_token: No such file"
    ) as no:
        enter(head[1])
    assert "RAY_AUTH_TOKEN_PATH" in str(no.value)
    keep("another", tmp_path / ".ray/auth_token")
    with pytest.raises(CannotConnect, match=r"does not take that of .*auth_token: another cluster's\?") as other:
        enter(head[1])
    assert "secret" not in str(other.value) and "another\n" not in str(other.value)
    assert "RAY_AUTH_MODE" not in os.environ


def test_with_ray_loaded_it_is_too_late_for_a_token(head: tuple[Head, str], monkeypatch: pytest.MonkeyPatch) -> None:
    head[0].token = "secret"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setitem(sys.modules, "ray", sys)
    with pytest.raises(CannotConnect, match="set RAY_AUTH_MODE=token before this process imports ray"):
        enter(head[1])
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    enter(head[1])


def test_what_is_no_ray_is_told_within_ten_seconds() -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(CannotConnect, match="not answer as a Ray"):
        enter(f"127.0.0.1:{silent.getsockname()[1]}")
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with pytest.raises(CannotConnect, match=r"not answer as a Ray \(unimplemented\)"):
        enter(f"127.0.0.1:{port}")
    other.stop(None)
    assert time.monotonic() - began < 10
