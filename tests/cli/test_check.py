"""What would fail, found by a process of its own: the same words, and torch is gone with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtune import extensions
from kdtune.cli import check
from kdtune.cli.refused import Refused
from kdtune.planning.plan import build_plan
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

OWN = """
from typing import ClassVar
from kdtune.noise.input import InputKnob
from kdtune.settings import Scale

class Loud(InputKnob):
    strength: ClassVar[str] = "sigma"
    sigma: Scale

    def __call__(self, images, labels, network, draw, teacher=None, space=None):
        print("a knob that prints")
        DOES

    def measure(self, before, after):
        return self.sigma
"""
Told = tuple[list[str], list[str]]


@pytest.fixture
def both(small_sweep: str, write_sweep: Callable[..., Path], tmp_path: Path) -> Callable[..., Told]:
    """What is said of a sweep in this process, and apart from it."""

    def both(before: str = "", after: str = "") -> Told:
        assert before in small_sweep
        plan = build_plan(load_sweep(write_sweep(small_sweep.replace(before, after))), tmp_path)
        standing = Standing(Store(tmp_path / "results"))
        asked = (plan, standing, standing.states(plan.runs), tmp_path / "data")
        return check.failing(*asked), check.failing_apart(*asked)

    return both


def test_apart_it_is_the_same(both: Callable[..., Told]) -> None:
    assert both() == ([], [])
    here, apart = both("{digits: {}, train_size: 100, validation: 0.2}", "{cifar10: {}, validation: 0.2}")
    assert len(here) == 1 and "cifar" in here[0].lower() and apart == here


@pytest.mark.parametrize("does", ["return images + self.sigma", "raise KeyError(str(self.sigma))"])
def test_code_of_the_user_s_own_travels_and_may_print(
    does: str, both: Callable[..., Told], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "loud.py"
    own.write_text(OWN.replace("DOES", does))
    extensions.use(extensions.read([own]))
    try:
        here, apart = both("  noise: {teacher", "  noise: {input: {loud: {sigma: 0.1}}, teacher")
    finally:
        extensions.use(())
    assert apart == here and len(here) == does.startswith("raise")
    assert all("loud.py" in problem and "KeyError" in problem for problem in here)
    assert "a knob that prints" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("ends", "told"),
    [("os.kill(os.getpid(), 9)", "signal 9"), ("sys.exit()", "status 0"), ("os._exit(0)", "status 0")],
)
def test_a_process_that_dies_is_told(ends: str, told: str, both: Callable[..., Told], tmp_path: Path) -> None:
    """As one is that runs out of memory: no answer is not the answer that nothing would fail."""
    own = tmp_path / "deadly.py"
    deadly = f"import os, sys; os.getpid() == {os.getpid()} or {ends}; return images"
    own.write_text(OWN.replace("DOES", deadly))
    extensions.use(extensions.read([own]))
    try:
        with pytest.raises(Refused, match=f"ended with {told}"):
            both("  noise: {teacher", "  noise: {input: {loud: {sigma: 0.1}}, teacher")
    finally:
        extensions.use(())


def test_modules_are_found_where_this_process_finds_them(
    both: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in its path: Python passes over what is no text, and a folder's name may be no UTF-8."""
    monkeypatch.setattr(sys, "path", ["", tmp_path, os.fsdecode(b"\xff"), *sys.path])
    assert both() == ([], [])


LEAN = """
import sys
from pathlib import Path
from kdtune.cli import check
from kdtune.planning.plan import build_plan
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

plan, standing = build_plan(load_sweep(Path(sys.argv[1])), Path("data")), Standing(Store("results"))
assert check.failing_apart(plan, standing, standing.states(plan.runs), Path("data")) == []
assert "torch" not in sys.modules
check.failing(plan, standing, standing.states(plan.runs), Path("data"))
assert "torch" in sys.modules
"""


def test_the_process_that_asks_does_without_torch(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAN, write_sweep()], cwd=tmp_path, check=True)


def test_ctrl_c_that_comes_while_it_is_loading_leaves_no_traceback(
    both: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The process takes this kdtune for ours."""
    (tmp_path / "kdtune").mkdir()
    (tmp_path / "kdtune" / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(Refused, match="ended with signal 2"):
        both()
    assert "Traceback" not in capfd.readouterr().err
