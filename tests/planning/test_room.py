"""Row B5: a disk that is too small for what a plan writes is refused before the start (faults 9)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kdtune.cli.sweep import Options, run
from kdtune.planning import room
from kdtune.planning.plan import build_plan
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10  # of the two-layer network
CHECKPOINT = 4 * 2 * PARAMETERS  # weights and momentum
STAYS = 10 * 4 * PARAMETERS + 10 * 4 * 10 * 466  # ten runs' weights, and their softmax of 466 test images


@pytest.fixture
def standing(write_sweep, tmp_path):
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    return Standing(Store(tmp_path / "results"), plan.evaluators), plan


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that so many bytes are free."""

    def free(size: int) -> None:
        monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=size))

    return free


def test_what_is_needed_is_three_checkpoints_a_run_and_all_that_stays(standing, free) -> None:
    where, plan = standing
    states = where.states(plan.runs)
    for at_once in (1, 2, 20):
        needed = STAYS + 3 * CHECKPOINT * min(at_once, 10)
        free(needed)
        assert room.shortage(plan, states, where, at_once) is None
        free(needed - 1)
        assert room.shortage(plan, states, where, at_once)


def test_it_says_what_is_needed_what_is_free_where_and_what_would_do(standing, free, tmp_path) -> None:
    where, plan = standing
    states = where.states(plan.runs)
    free(STAYS + 3 * CHECKPOINT * 2)
    said = room.shortage(plan, states, where, 4)
    assert said == (
        f"{tmp_path / 'results'}: about 0 MB are needed, 0 MB of it for checkpoints (runs at a time: 4), and "
        "0 MB are free; take fewer runs at a time, --max-concurrent 2, or name another place, --results DIR"
    )
    free(STAYS)
    assert "--max-concurrent" not in (room.shortage(plan, states, where, 4) or ""), "not even one would do"


def test_what_is_done_needs_no_room(standing, free) -> None:
    where, plan = standing
    free(0)
    assert room.shortage(plan, dict.fromkeys(plan.runs, "done"), where, 2) is None


def test_an_object_store_is_never_full(standing, free) -> None:
    where, plan = standing
    free(0)
    remote = SimpleNamespace(store=SimpleNamespace(objects=SimpleNamespace(local=None)))
    assert room.shortage(plan, where.states(plan.runs), remote, 2) is None


def test_a_sweep_that_does_not_fit_is_not_started(write_sweep, small_sweep, tmp_path, capsys) -> None:
    """Half a million MB of checkpoints were announced, then begun."""
    text = small_sweep.replace("model: {mlp: {hidden: [8]}}", "model: {mlp: {hidden: [200000, 200000]}}")
    options = Options(write_sweep(text), results=str(tmp_path / "results"), data=str(tmp_path), here=True, yes=True)
    assert run(options) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"refused: {tmp_path / 'results'}: about 1,600,6") and "are free; name another place" in said


def test_yes_does_not_start_it_either(write_sweep, tmp_path, free, capsys) -> None:
    options = Options(write_sweep(), results=str(tmp_path / "results"), data=str(tmp_path), here=True)
    free(1000)
    for yes in (False, True):
        assert run(Options(**{**vars(options), "yes": yes})) == 4
        assert "0 MB are free" in capsys.readouterr().err
