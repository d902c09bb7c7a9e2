"""An axis, or a value of one, that changes no run is an error of the file (row A4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtune.planning.plan import build_plan
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError

DATA = Path("nowhere")
GRID = "grid: {rate: [0.0, 0.2]}"
LOSS = "{alpha: 0.9, temperature: 4}"
NOISE = "{teacher: {dropout: {rate: $rate}}}"


def problems(path: Path) -> list[str]:
    with pytest.raises(SweepFileError) as caught:
        build_plan(load_sweep(path), DATA)
    return [str(problem).removeprefix(str(path)) for problem in caught.value.problems]


def changed(text: str, *changes: tuple[str, str]) -> str:
    for before, after in changes:
        assert text.count(before) == 1, f"{before}: the test must change something"
        text = text.replace(before, after)
    return text


def with_noise(more: str) -> tuple[str, str]:
    """The student's knobs, and these too."""
    return NOISE, f"{NOISE[:-1]}, {more}}}"


CASES = {
    "of a knob that is off": (
        "clamp: [false, true]",
        [with_noise("input: {gaussian: {sigma: 0, clamp: $clamp}}")],
        "false and true",
    ),
    "of labels that stay": (
        "kinds: [wrong, any]",
        [with_noise("target: {variability: {rate: 0, classes: $kinds}}")],
        "wrong and any",
    ),
    "off in two ways": (
        "swap: [null, {rate: 0, pairs: all, threshold: 0.3}]",
        [("{dropout: {rate: $rate}", "{dropout: {rate: $rate}, swap: $swap")],
        "null and rate=0,",
    ),
    "in another order": (
        "kd: [{alpha: 0.9, temperature: 4}, {temperature: 4, alpha: 0.9}]",
        [(LOSS, "$kd")],
        "alpha=0.9,temperature=4 and temperature=4,",
    ),
    "in other letters": (
        "net: [{mlp: {hidden: [8]}}, {MLP: {hidden: [8]}}]",
        [("{mlp: {hidden: [8]}}", "$net")],
        "mlp={hidden=[8]} and MLP={",
    ),
    "of a teacher nobody asks": (
        "lr: [0.1, 0.2]",
        [
            ("  select:", "  recipe: {optimizer: {sgd: {lr: $lr}}}\n  select:"),
            (LOSS, "null"),
            (NOISE, "{target: {variability: {rate: $rate}}}"),
        ],
        "0.1 and 0.2",
    ),
}


@pytest.mark.parametrize(("axes", "changes", "came"), CASES.values(), ids=CASES)
def test_what_makes_the_same_runs_is_refused(axes, changes, came, write_sweep, small_sweep) -> None:
    text = changed(small_sweep, *changes, (GRID, f"grid: {{rate: [0.0, 0.2], {axes}}}"))
    (found,) = problems(write_sweep(text))
    axis = axes.split(":")[0]
    assert found.startswith(f":4: grid.{axis}: came {came}"), found
    assert "make the same runs wherever they stand" in found and f"what ${axis} sets is off" in found


def test_one_value_of_three_that_changes_nothing_is_named(write_sweep, small_sweep) -> None:
    axes = "net: [{mlp: {hidden: [8]}}, {mlp: {hidden: [4]}}, {MLP: {hidden: [4]}}]"
    changes = ("model: {mlp: {hidden: [8]}}", "model: $net"), (GRID, f"grid: {{rate: [0.0, 0.2], {axes}}}")
    (found,) = problems(write_sweep(changed(small_sweep, *changes)))
    assert "came mlp={hidden=[4]} and MLP={hidden=[4]}" in found


SHARING = {
    "off at some points only": (
        "{rate: [0.0, 0.2], clamp: [false, true], sigma: [0, 0.1]}",
        "input: {gaussian: {sigma: $sigma, clamp: $clamp}}",
    ),
    "blocks with points in common": (
        "[{rate: 0.1, sigma: 0, r: 0}, {rate: 0.1, sigma: [0, 0.1], r: 0}, {rate: 0.1, sigma: 0, r: [0, 0.5]}]",
        "input: {gaussian: {sigma: $sigma}}, target: {variability: {rate: $r}}",
    ),
    "one value": ("{rate: [0.1, 0.2], sigma: 0}", "input: {gaussian: {sigma: $sigma}}"),
    "tied to another axis": ("[{rate: 0.0, r: 0.0}, {rate: 0.2, r: $rate}]", "target: {variability: {rate: $r}}"),
}


@pytest.mark.parametrize(("grid", "noise"), SHARING.values(), ids=SHARING)
def test_runs_may_be_shared(grid, noise, write_sweep, small_sweep) -> None:
    text = changed(small_sweep, with_noise(noise), (GRID, f"grid: {grid}"))
    assert build_plan(load_sweep(write_sweep(text)), DATA).runs


def test_an_axis_of_teachers_changes_nothing_for_the_students_without_one(write_sweep, small_sweep) -> None:
    grid = (GRID, f"grid: {{rate: [0.0, 0.2], kd: [null, {LOSS}]}}")
    plan = build_plan(
        load_sweep(write_sweep(changed(small_sweep, (f"  noise: {NOISE}\n", ""), (LOSS, "$kd"), grid))), DATA
    )
    assert len([place for place in plan.places if place.role == "student"]) == 2 + 2 * 2


def test_each_idle_axis_is_a_problem_of_its_own_where_it_was_written(write_sweep, small_sweep) -> None:
    knobs = "input: {gaussian: {sigma: 0, clamp: $clamp}}, target: {variability: {rate: 0, classes: $kinds}}"
    grid = "grid:\n  rate: [0.0, 0.2]\n  clamp: [false, true]\n  kinds: [wrong, any]"
    found = problems(write_sweep(changed(small_sweep, with_noise(knobs), (GRID, grid))))
    assert [each.split(": ")[:2] for each in found] == [[":6", "grid.clamp"], [":7", "grid.kinds"]]


def test_where_every_run_is_shortened_an_axis_of_lengths_is_let_pass(write_sweep, small_sweep) -> None:
    """`kdtune run FILE --only epochs=4 --epochs 1`"""
    epochs = ("  distillation", "  recipe: {epochs: $epochs}\n  distillation")
    path = write_sweep(changed(small_sweep, epochs, (GRID, "grid: {rate: 0.2, epochs: [3, 4]}")))
    assert len(build_plan(load_sweep(path), DATA, epochs=1).only({"epochs": 4, "seed": 0}).runs) == 3 + 1
    assert len(build_plan(load_sweep(path), DATA).runs) == 3 + 4
