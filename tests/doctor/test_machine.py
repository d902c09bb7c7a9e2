"""What `kdtune doctor` says of this machine; each finding with what raises it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kdtune.doctor import machine
from kdtune.doctor.finding import Finding, Level
from kdtune.store.store import Store


def only(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    return found


def test_packages_as_installed_here_and_a_missing_and_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = only(machine.packages())
    assert fine.level is Level.OK and "torch 2." in fine.what
    needed = machine.requires("kdtune")
    more = [*needed, "no-such-package>=2", "ray<2", "dev-only-package; extra == 'dev'"]
    monkeypatch.setattr(machine, "requires", lambda name: more)
    found = only(machine.packages())
    assert found.level is Level.FAILURE
    assert found.what.startswith("no-such-package is not installed; ray 2.")
    assert "kdtune needs <2: pip install --constraint constraints.txt" in found.what and "dev-only" not in found.what

    def missing(name: str) -> list[str]:
        raise machine.PackageNotFoundError(name)

    monkeypatch.setattr(machine, "requires", missing)
    assert only(machine.packages()).level is Level.WARNING


def test_torch_and_torchvision_of_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(machine.vision()).level is Level.OK
    said = "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"
    broken = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(machine.subprocess, "run", lambda *words, **flags: broken)
    found = only(machine.vision())
    assert found.level is Level.FAILURE and "operator torchvision::nms does not exist): reinstall both" in found.what


@pytest.mark.parametrize(("usable", "level"), [(True, Level.OK), (False, Level.FAILURE)])
def test_a_card_that_torch_can_use_or_cannot(monkeypatch: pytest.MonkeyPatch, usable: bool, level: Level) -> None:
    monkeypatch.setattr(machine.Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    monkeypatch.setattr(machine, "has_usable_gpu", lambda: usable)
    monkeypatch.setattr(machine, "_driver", lambda: "NVIDIA H100, 81559 MiB, 550.54.15")
    found = only(machine.gpu())
    assert found.level is level and "550.54.15" in found.what


def test_a_store_that_works_and_one_that_cannot(tmp_path: Path) -> None:
    assert only(machine.storage(Store(tmp_path / "results"))).level is Level.OK
    (tmp_path / "file").write_text("")
    assert only(machine.storage(Store(tmp_path / "file" / "results"))).level is Level.FAILURE


def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_BYTES", 0)
    assert only(machine.room([tmp_path / "not" / "yet"])).level is Level.OK
    monkeypatch.setattr(machine, "LEAST_BYTES", 1e18)
    assert only(machine.room([tmp_path])).level is Level.WARNING


def test_a_token_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert only(machine.token()).what.startswith("no token of a cluster here")
    file.write_text("0" * 64)
    file.chmod(0o644)
    found = only(machine.token())
    assert found.level is Level.WARNING and f"chmod 600 {file}" in found.what
    file.chmod(0o600)
    assert only(machine.token()).level is Level.OK


def test_a_port_on_all_addresses_is_seen_and_one_on_loopback_is_not() -> None:
    with closing(socket.create_server(("0.0.0.0", 0))) as far, closing(socket.create_server(("127.0.0.1", 0))) as near:
        seen = machine.open_ports()
        assert far.getsockname()[1] in seen and near.getsockname()[1] not in seen


def test_a_head_a_dashboard_and_a_tensorboard_that_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "open_ports", lambda: {22, 6379, 8265, 6006, 10001})
    monkeypatch.setattr(machine.door, "answer", lambda address, token: "OK")
    monkeypatch.setattr(machine, "_dashboard_asks_nothing", lambda: True)
    levels = [found.level for found in machine.ports()]
    assert levels == [Level.FAILURE, Level.FAILURE, Level.WARNING, Level.WARNING]
    assert all(found.level is Level.WARNING for found in machine.ports(insecure=True))
    assert "--insecure" in next(machine.ports()).what
    monkeypatch.setattr(machine.door, "answer", lambda address, token: "UNAUTHENTICATED")
    monkeypatch.setattr(machine, "_dashboard_asks_nothing", lambda: False)
    assert [found.level for found in machine.ports()] == [Level.OK, Level.WARNING, Level.WARNING]
    monkeypatch.setattr(machine, "open_ports", lambda: {22})
    assert only(machine.ports()).level is Level.OK
