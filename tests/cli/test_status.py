"""What `kdtune status` says of runs that are done, at work, waiting, failed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdtune.cli.status import print_status
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    from conftest import SMALL

    root = tmp_path_factory.mktemp("status")
    (root / "small.yaml").write_text(SMALL)
    options = Options(root / "small.yaml", results=str(root / "r"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    return root / "r", build_plan(load_sweep(root / "small.yaml"), root)


@pytest.fixture
def results(done: tuple[Path, Plan], tmp_path: Path) -> Path:
    shutil.copytree(done[0], tmp_path / "r")
    return tmp_path / "r"


@pytest.fixture
def said(results: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    def said() -> str:
        assert print_status(results / "small", None) == 0
        return capsys.readouterr().out

    return said


def named(plan: Plan, name: str) -> str:
    return next(place.id for place in plan.places if place.name == name)


def undo(results: Path, id: str) -> None:
    (results / "runs/done" / id).unlink()
    shutil.rmtree(results / "runs" / id)


def test_all_done_needs_few_words(said: Callable[[], str]) -> None:
    text = said()
    assert text.splitlines()[1:] == ["  teachers: 6 done", "  students: 4 done"]


def test_what_waits_for_whom_and_what_is_left(done: Any, results: Path, said: Callable[[], str]) -> None:
    plan = done[1]
    teacher = named(plan, "teacher rate=0.2 seed=1")
    for id in (teacher, *(named(plan, f"student rate=0.2 seed={seed}") for seed in (0, 1))):
        undo(results, id)
    text = said()
    assert "teachers: 5 done, 1 new" in text and f"2 runs wait for teacher rate=0.2 seed=1 ({teacher}, new)" in text
    assert re.search(r"left: about \d+ s of a device, by what finished runs took\n", text)


def test_a_run_at_work_with_its_sign_of_life(done: Any, results: Path, said: Callable[[], str]) -> None:
    student = named(done[1], "student rate=0 seed=0")
    undo(results, student)
    claim = Store(results).claim(student)
    assert claim is not None
    with claim:
        text = said()
    assert re.search(rf"running {student} student rate=0 seed=0: process \d+ on \S+, sign of life \d s ago", text)
    assert "1 running" in text and "another command works on runs" in text


def test_the_first_failure_in_full_and_the_others_in_a_line(done: Any, results: Path, said: Callable[[], str]) -> None:
    for seed in (0, 1):
        student = named(done[1], f"student rate=0 seed={seed}")
        undo(results, student)
        attempt = Store(results).attempt(student)
        try:
            raise ValueError(f"a cable was pulled, {seed}")
        except ValueError as error:
            attempt.write_failure(error)
    text = said()
    assert "2 failed, 2 done" in text
    assert text.count("ValueError: a cable was pulled, 0") == 2, "in its line, and at the end of its traceback"
    assert text.count("ValueError: a cable was pulled, 1") == 1 and text.count("Traceback (most recent call last)") == 1
