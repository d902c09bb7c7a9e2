"""A sweep as its distinct runs, and who waits for whom."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from kdtune.config import Choice
from kdtune.data.files import DataError
from kdtune.planning.plan import build_plan, word
from kdtune.sweepfile.load import load_sweep

ROOT = Path(__file__).parents[2]
DATA = Path("nowhere")


def roles(plan) -> Counter:
    return Counter(planned.role for planned in plan.runs.values())


def test_the_papers_fickle_sweep_has_the_runs_its_header_says():
    plan = build_plan(load_sweep(ROOT / "sweeps" / "fickle.yaml"), DATA)
    assert roles(plan) == {"teacher": 30, "student": 45}
    controls = [
        planned
        for planned in plan.runs.values()
        if planned.role == "student" and planned.parameters["dropout"] == 0 and planned.parameters["epochs"] > 200
    ]
    assert len(controls) == 15


def test_students_wait_for_all_teachers_of_their_point(write_sweep):
    plan = build_plan(load_sweep(write_sweep()), DATA)
    assert roles(plan) == {"teacher": 6, "student": 4}
    for planned in plan.runs.values():
        if planned.role == "student":
            teachers = [plan.runs[id] for id in planned.waits_for]
            assert [teacher.run.seed for teacher in teachers] == [0, 1, 2]
            assert {teacher.parameters["rate"] for teacher in teachers} == {planned.parameters["rate"]}
            assert planned.teacher_parameters == {"rate": planned.parameters["rate"]}
    ids = list(plan.runs)
    assert all(ids.index(teacher) < ids.index(id) for id in ids for teacher in plan.runs[id].waits_for)


def test_a_student_of_strength_zero_is_the_same_run_in_every_sweep(write_sweep, small_sweep):
    without_knob = small_sweep.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", "")
    fickle = build_plan(load_sweep(write_sweep(name="a.yaml")), DATA)
    plain = build_plan(load_sweep(write_sweep(without_knob, "b.yaml")), DATA)
    hinton = {id for id, planned in fickle.runs.items() if planned.parameters["rate"] == 0}
    assert hinton <= set(plain.runs)


def test_growing_the_grid_adds_runs_and_changes_none(write_sweep, small_sweep):
    before = build_plan(load_sweep(write_sweep(name="a.yaml")), DATA)
    after = build_plan(load_sweep(write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.0, 0.15, 0.2]"), "b.yaml")), DATA)
    assert set(before.runs) < set(after.runs)
    assert {planned.parameters["rate"] for id, planned in after.runs.items() if id not in before.runs} == {0.15}


def test_more_seeds_of_students_leave_the_teachers_alone(write_sweep):
    path = write_sweep()
    few, many = (build_plan(load_sweep(path, overrides=[f"seeds={count}"]), DATA) for count in (1, 4))
    assert roles(few) == {"teacher": 6, "student": 2}
    assert set(few.runs) < set(many.runs)


def test_paired_teachers_are_the_students_own_seeds(write_sweep, small_sweep):
    text = small_sweep.replace("{rule: best, metric: val/accuracy}", "{rule: paired}")
    plan = build_plan(load_sweep(write_sweep(text)), DATA)
    for planned in plan.runs.values():
        if planned.role == "student":
            (teacher,) = planned.waits_for
            assert plan.runs[teacher].run.seed == planned.run.seed


def test_a_student_alone_needs_no_teacher(write_sweep, small_sweep):
    text = small_sweep.replace(
        "  distillation: {alpha: 0.9, temperature: 4}\n  noise: {teacher: {dropout: {rate: $rate}}}\n", ""
    )
    plan = build_plan(
        load_sweep(
            write_sweep(
                text.replace("dropout: $rate", "dropout: 0.1").replace(
                    "{mlp: {hidden: [8]}}", "{mlp: {hidden: [8], dropout: $rate}}"
                )
            )
        ),
        DATA,
    )
    assert roles(plan) == {"student": 4}


def test_a_teacher_of_ones_own_enters_by_content(write_sweep, small_sweep, tmp_path):
    own = small_sweep.replace("  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n", "  checkpoint: own.pt\n")
    path = write_sweep(own)
    with pytest.raises(DataError, match=r"own\.pt"):
        build_plan(load_sweep(path), DATA)
    (tmp_path / "own.pt").write_bytes(b"one")
    first = build_plan(load_sweep(path), DATA)
    assert roles(first) == {"teacher": 2, "student": 4}
    (tmp_path / "own.pt").write_bytes(b"two")
    assert not set(first.runs) & set(build_plan(load_sweep(path), DATA).runs)


def test_shortened_runs_have_other_ids_and_their_own_teachers(write_sweep):
    file = load_sweep(write_sweep())
    whole, short = build_plan(file, DATA), build_plan(file, DATA, epochs=1)
    assert not set(whole.runs) & set(short.runs)
    assert all(teacher in short.runs for planned in short.runs.values() for teacher in planned.waits_for)
    assert {planned.run.recipe.epochs for planned in short.runs.values()} == {1}


def test_only_takes_the_runs_named_and_their_teachers(write_sweep):
    plan = build_plan(load_sweep(write_sweep()), DATA).only({"rate": 0.2, "seed": 1})
    assert roles(plan) == {"teacher": 3, "student": 1}
    assert {planned.parameters["rate"] for planned in plan.runs.values()} == {0.2}


def test_names_are_what_a_person_reads(write_sweep):
    plan = build_plan(load_sweep(write_sweep()), DATA)
    assert "student rate=0.2 seed=1" in {planned.name for planned in plan.runs.values()}


def test_with_many_axes_a_name_says_what_differs_from_the_first_point(write_sweep, small_sweep):
    """Else one change among a dozen cannot be found in a line as wide as a page."""
    grid = """grid:
  - &plain {rate: 0.1, sigma: 0.0, r: 0.0, clamp: false, alpha: 0.9}
  - {<<: *plain, sigma: 0.1}
  - {<<: *plain, rate: 0.2, r: 0.5}"""
    text = small_sweep.replace("grid: {rate: [0.0, 0.2]}", grid).replace("alpha: 0.9, temp", "alpha: $alpha, temp")
    knobs = "input: {gaussian: {sigma: $sigma, clamp: $clamp}}, target: {variability: {rate: $r}}"
    text = text.replace("noise: {", f"noise: {{{knobs}, ")
    plan = build_plan(load_sweep(write_sweep(text)), DATA)
    labels = dict.fromkeys(planned.label for planned in plan.runs.values())
    assert list(labels) == [
        "teacher rate=0.1", "student as first", "student sigma=0.1", "teacher rate=0.2", "student rate=0.2 r=0.5"
    ]  # fmt: skip
    assert len({planned.name for planned in plan.runs.values()}) == len(plan.runs)


def test_students_of_two_teachers_have_two_names(write_sweep, small_sweep):
    text = small_sweep.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", "")
    plan = build_plan(load_sweep(write_sweep(text)), DATA)
    labels = {planned.label for planned in plan.runs.values() if planned.role == "student"}
    assert labels == {"student rate=0", "student rate=0.2"}


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (0.2, "0.2"),
        (None, "null"),
        (True, "true"),
        ({}, "{}"),
        ({"alpha": 0.9, "temperature": 4}, "alpha=0.9,temperature=4"),
        ({"crop": {"padding": 4, "mode": "zero"}, "flip": {}}, "crop={padding=4,mode=zero},flip={}"),
    ],
)
def test_a_value_in_a_name_says_what_belongs_together(value, read):
    assert word(value) == read


def test_a_run_waits_for_its_teachers_and_for_its_source(write_sweep):
    """Three levels: a student whose data a source made, which itself asks the teachers."""
    plan = build_plan(load_sweep(write_sweep()), DATA)
    student = next(planned for planned in plan.runs.values() if planned.role == "student")
    teachers = student.waits_for
    source = replace(student, role="source")
    taught = student.run.model_copy(update={"source": Choice(runs=(source.id, teachers[0]), rule="given"), "seed": 7})
    assert taught.waits_for == (*teachers, source.id), "each once"
    assert taught.id != student.run.model_copy(update={"seed": 7}).id, "where its data comes from is part of what it is"
    grown = replace(plan, runs={**plan.runs, source.id: source, taught.id: replace(student, run=taught)})
    assert set(grown.only({"id": taught.id}).runs) == {*teachers, source.id, taught.id}


def test_data_sets_may_be_an_axis(small_sweep, write_sweep):
    """Each has its own runs, though their settings are alike."""
    text = small_sweep.replace("dataset: {digits: {}, train_size: 100, validation: 0.2}", "dataset: $data")
    axis = "data: [{digits: {}, validation: 0.2}, {mnist: {}, validation: 0.2}]"
    plan = build_plan(load_sweep(write_sweep(text.replace("rate: [0.0, 0.2]", f"rate: [0.0, 0.2], {axis}"))), DATA)
    assert Counter(planned.run.content["name"] for planned in plan.runs.values()) == {"digits": 10, "mnist": 10}


def test_a_network_that_learns_alone_is_one_run_as_teacher_and_as_student(small_sweep, write_sweep):
    """Noise and all: what a run is does not hang on the part it plays."""
    noise = "{target: {variability: {rate: 0.2}}, input: {gaussian: {sigma: 0.1}}}"
    text = small_sweep.replace("grid: {rate: [0.0, 0.2]}", "grid: {how: [null, {alpha: 0.9, temperature: 4}]}")
    text = text.replace("{mlp: {hidden: [8], dropout: $rate}}", f"{{mlp: {{hidden: [8]}}}}\n  noise: {noise}")
    text = text.replace(
        "{alpha: 0.9, temperature: 4}\n  noise: {teacher: {dropout: {rate: $rate}}}", f"$how\n  noise: {noise}"
    )
    plan = build_plan(load_sweep(write_sweep(text)), DATA)
    alone = [run for run in plan.runs.values() if run.role == "student" and not run.waits_for]
    taught = [run for run in plan.runs.values() if run.waits_for]
    assert len(taught) == 2 and {run.run.seed for run in taught} == {0, 1}
    teachers = {id for run in taught for id in run.waits_for}
    assert len(alone) == 2 and {run.id for run in alone} < teachers, (
        "the students' seeds 0 and 1 are two of the three teachers"
    )
    assert len(plan.runs) == 3 + 2
