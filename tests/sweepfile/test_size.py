"""Runs are counted before any is laid out (row B4)."""

from __future__ import annotations

import time

import pytest

from kdtune.planning.plan import build_plan
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.size import MAX_RUNS, TooManyRuns
from kdtune.sweepfile.tree import SweepFileError

TEN = ", ".join(f"a{axis}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" for axis in range(10))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["seeds=1000000000"], "2,000,000,000 students"),
        (["teacher.seeds=1000000000"], "2,000,000,000 teachers"),
        (["seeds=$n", "grid={rate: [0.0, 0.2], n: [1, 1000000000]}"], "4,000,000,000 students"),
        (["teacher=$t", "grid={rate: 0.1, t: [{seeds: 1000000000}]}"], "1,000,000,000 teachers"),
        (["seeds=50001"], "100,002 students"),
        ([f"grid={{rate: 0.0, {TEN}}}"], "20,000,000,000 students"),
    ],
    ids=lambda value: value[:25] if isinstance(value, str) else value[0][:25],
)
def test_what_is_too_large_is_refused_at_once(overrides, told, write_sweep) -> None:
    began = time.monotonic()
    with pytest.raises(TooManyRuns, match=told) as caught:
        load_sweep(write_sweep(), overrides=overrides)
    assert "at most 100,000 runs are laid out (--max-runs)" in str(caught.value)
    assert time.monotonic() - began < 5


def test_a_list_of_seeds_is_counted_too(write_sweep) -> None:
    with pytest.raises(TooManyRuns, match="100 students"):
        load_sweep(write_sweep(), overrides=[f"seeds={list(range(50))}"], max_runs=99)
    assert load_sweep(write_sweep(), overrides=[f"seeds={list(range(50))}"], max_runs=106).points


def test_teachers_count_by_their_own_axes(write_sweep, small_sweep) -> None:
    """2 rates, 3 seeds: 6 teachers, however many points of the students ask for them. The count is that of the plan."""
    text = small_sweep.replace("[0.0, 0.2]", "[0.0, 0.2], epochs: [2, 3, 4, 5]")
    text = text.replace("  distillation", "  recipe: {epochs: $epochs}\n  distillation")
    runs = 2 * 3 + 2 * 4 * 2
    assert len(build_plan(load_sweep(write_sweep(text), max_runs=runs), write_sweep()).runs) == runs
    with pytest.raises(TooManyRuns, match="16 students and up to 6 teachers"):
        load_sweep(write_sweep(text), max_runs=runs - 1)


def test_what_is_wrong_with_the_grid_hides_no_size(write_sweep) -> None:
    with pytest.raises(TooManyRuns, match="1,000,000,000 students"):
        load_sweep(write_sweep(), overrides=["seeds=1000000000", "grid.rate=[]"])


def test_the_ceiling_is_the_callers(write_sweep) -> None:
    assert MAX_RUNS == 100_000
    assert len(load_sweep(write_sweep(), overrides=["seeds=100001"], max_runs=None).points[0].sweep.seeds) == 100_001


@pytest.mark.parametrize(
    "override",
    [
        "student.model=wrn-999999994-2",
        "student.model=wrn-16-9999999",
        "student.model={mlp: {hidden: [8, 1000001]}}",
        "student.model={cnn: {width: 10000000}}",
        "recipe.epochs=1000000000",
    ],
)
def test_a_network_or_a_training_that_nobody_could_wait_for_is_a_slip(override, write_sweep) -> None:
    """Its layers are not even counted."""
    with pytest.raises(SweepFileError, match="less than or equal to 10"):
        load_sweep(write_sweep(), overrides=[override])
