"""What is tried again, when fewer run at a time, when nothing more is worth starting: counting alone."""

from __future__ import annotations

import pytest

from kdtune.planning.setbacks import ALIKE, Cause, Setbacks


@pytest.mark.parametrize(
    ("cause", "again"),
    [(Cause.ITSELF, 0), (Cause.LOST, 3), (Cause.STUCK, 1), (Cause.GPU, 1), (Cause.MEMORY, 2)],
)
def test_how_often_a_run_is_tried_again_depends_on_the_cause(cause, again):
    setbacks = Setbacks()
    assert [setbacks.again("a", cause) for _ in range(again + 1)] == [True] * again + [False]
    assert setbacks.again("b", cause) is (again > 0), "each run counts for itself"


def test_a_machine_taken_back_is_never_counted_and_causes_do_not_add_up():
    setbacks = Setbacks()
    assert all(setbacks.again("a", Cause.PREEMPTED) for _ in range(50))
    assert [setbacks.again("a", Cause.STUCK), setbacks.again("a", Cause.LOST)] == [True, True]


def test_short_memory_halves_what_runs_and_only_who_is_alone_is_counted():
    setbacks = Setbacks()
    assert setbacks.short_of_memory(list("abcdefg")) and setbacks.limit == 3
    assert setbacks.short_of_memory(list("abc")) and setbacks.limit == 1
    assert [setbacks.short_of_memory(["a"]) for _ in range(2)] == [True, True]
    assert setbacks.short_of_memory(["b"]) and setbacks.limit == 1
    assert not setbacks.short_of_memory(["a"]), "three times alone"
    assert setbacks.limit is None, "the one that was too large is out of the way"


def test_five_failures_alike_and_no_success_end_it():
    setbacks = Setbacks()
    said = [
        setbacks.failed(f"Traceback\n  line {n}\nValueError: run {n:012x} at 0x7f{n}: {n} of 3") for n in range(ALIKE)
    ]
    assert said[:-1] == [""] * 4
    assert said[-1].startswith("5 runs failed alike") and "ValueError: run" in said[-1]


def test_failures_of_several_kinds_or_after_a_success_do_not():
    setbacks = Setbacks()
    assert not any(setbacks.failed(f"{kind}: no") for kind in ("ValueError", "OSError") for _ in range(4))
    setbacks.succeeded()
    assert not any(setbacks.failed("ValueError: no") for _ in range(20))


def test_five_failures_of_the_storage_end_it_after_a_success_too():
    """That earlier runs could write says nothing about later ones: a key may have been taken back since."""
    setbacks = Setbacks()
    setbacks.succeeded()
    said = [setbacks.failed(f"StorageError: cannot write runs/{n:012x}: Permission denied") for n in range(ALIKE)]
    assert said[:-1] == [""] * 4
    assert said[-1].startswith("5 runs failed alike, no further run is started: StorageError: cannot write")


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_no_room_for_results_ends_it_at_once_even_after_a_success(words):
    setbacks = Setbacks()
    setbacks.succeeded()
    last = f"kdtune.store.objects.StorageError: cannot write /r/x: {words} (9 bytes needed, 0 free); free some space"
    assert "9 bytes needed, 0 free" in setbacks.failed(f"Traceback\n{last}")
    assert not setbacks.failed(f"OSError: [Errno 28] {words}: '/tmp/else'"), "not the place of the results"
