"""A sweep as its distinct runs, and who waits for whom."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from kdtune.data.error import DataError
from kdtune.evaluation.accuracy import Accuracy
from kdtune.evaluation.pgd import PGD
from kdtune.planning.plan import build_plan
from kdtune.run import Choice
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


def test_a_run_waits_for_its_teachers_and_for_its_source(write_sweep):
    """Three levels: a student whose data a source made, which itself asks the teachers."""
    plan = build_plan(load_sweep(write_sweep()), DATA)
    student = next(planned for planned in plan.runs.values() if planned.role == "student")
    teachers = student.waits_for
    source = replace(student, role="source")
    taught = student.run.model_copy(update={"source": Choice(runs=(source.id, teachers[0]), rule="given"), "seed": 7})
    assert taught.waits_for == (*teachers, source.id), "each once"
    assert taught.id != student.run.model_copy(update={"seed": 7}).id, "where its data comes from is part of what it is"
    grown = replace(plan, places=(*plan.places, source, replace(student, run=taught)))
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
    alone = [place for place in plan.places if place.role == "student" and not place.waits_for]
    taught = [run for run in plan.runs.values() if run.waits_for]
    assert len(taught) == 2 and {run.run.seed for run in taught} == {0, 1}
    teachers = {id for run in taught for id in run.waits_for}
    assert len(alone) == 2 and {run.id for run in alone} < teachers, (
        "the students' seeds 0 and 1 are two of the three teachers"
    )
    assert len(plan.runs) == 3 + 2


def choice_of(write_sweep, text):
    plan = build_plan(load_sweep(write_sweep(text)), Path("nowhere"))
    return plan, next(run.run.teacher for run in plan.runs.values() if run.role == "student")


def test_a_choice_names_the_evaluator_that_measures_its_metric(write_sweep, small_sweep):
    on_val = PGD(eps=(0.1,), steps=(10,), images=20, on="val")
    entries = "[accuracy, {pgd: {eps: 0.1, steps: 10, images: 20}, on: val}]"
    text = small_sweep.replace("[accuracy]", entries)
    _, choice = choice_of(write_sweep, text.replace("metric: val/accuracy", "metric: val/robust/pgd10"))
    assert (choice.metric, choice.evaluator, choice.better) == ("val/robust/pgd10", on_val.hash, None)
    _, choice = choice_of(write_sweep, text.replace("accuracy, ", "", 1).replace("val/accuracy", "val/robust/pgd10"))
    assert choice.evaluator == on_val.hash, "accuracy need not be listed"
    _, choice = choice_of(write_sweep, text)
    assert choice.evaluator == Accuracy().hash


def test_the_direction_stands_in_a_choice_only_where_lower_is_better(write_sweep, small_sweep):
    """So that ids of descriptions with higher ones stay as they were."""
    plan, choice = choice_of(write_sweep, small_sweep.replace("metric: val/accuracy", "metric: val/nll"))
    assert choice.better == "lower"
    assert [run.run.description["teacher"]["better"] for run in plan.runs.values() if run.role == "student"] == (
        ["lower"] * 4
    )
    plan, choice = choice_of(write_sweep, small_sweep)
    assert choice.better is None and all("better" not in str(run.run.description) for run in plan.runs.values())


def test_a_plan_knows_what_it_will_measure(write_sweep, small_sweep):
    plan, _ = choice_of(write_sweep, small_sweep.replace("[accuracy]", "[pgd, accuracy, shift]"))
    assert [metric.name for metric in plan.headlines] == [
        "robust/pgd20",
        "robust/pgd20/unconditional",
        "test/accuracy",
        "shift/writers",
    ]
    assert plan.metrics["val/nll"].better == "lower"


TWO_ARMS = "grid: {d: [{alpha: 0.9, temperature: 4}, null]}"


@pytest.fixture
def two_arms(small_sweep, write_sweep):
    """Distilled or alone, in the teachers' own architecture: 3 teachers, 5 seeds of each arm (row A5)."""
    text = small_sweep.replace("grid: {rate: [0.0, 0.2]}", TWO_ARMS).replace("seeds: 2", "seeds: 5")
    text = text.replace("[8], dropout: $rate", "[8]").replace(
        "distillation: {alpha: 0.9, temperature: 4}", "distillation: $d"
    )
    return build_plan(load_sweep(write_sweep(text.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""))), DATA)


def test_a_run_stands_at_every_place_that_asks_for_it(two_arms):
    """Row A5: the baseline had 2 seeds of 5, for the others were the teachers' rows only."""
    seeds = {}
    for place in two_arms.places:
        seeds.setdefault(place.label, []).append(place.run.seed)
    assert seeds == {
        "teacher": [0, 1, 2], "student d=alpha=0.9,temperature=4": [0, 1, 2, 3, 4], "student d=null": [0, 1, 2, 3, 4]
    }  # fmt: skip
    assert (len(two_arms.places), len(two_arms.runs), two_arms.shared) == (13, 10, 3)
    assert roles(two_arms) == {"teacher": 3, "student": 7}, "each run once, a teacher wherever it is one"


def test_what_is_asked_for_as_a_student_first_is_scheduled_as_the_teacher_that_it_is(two_arms):
    students_first = sorted(two_arms.places, key=lambda place: bool(place.waits_for) or place.role == "teacher")
    plan = replace(two_arms, places=tuple(students_first))
    assert plan.places[0].role == "student" and plan.runs[plan.places[0].id].role == "teacher"
    assert next(iter(plan.runs)) == plan.places[0].id, "at the place in the order where it is first asked for"


def test_a_teacher_stands_at_every_point_of_its_axes(small_sweep, write_sweep):
    text = small_sweep.replace(
        "{rate: [0.0, 0.2]}", "{rate: 0.2, select: [{rule: best, metric: val/accuracy}, {rule: paired}]}"
    )
    plan = build_plan(
        load_sweep(write_sweep(text.replace("{rule: best, metric: val/accuracy}\nstudent", "$select\nstudent"))), DATA
    )
    places = [place for place in plan.places if place.role == "teacher"]
    assert len({place.id for place in places}) == 3 and len(places) == 6
    assert [place.parameters["select"]["rule"] for place in places] == ["best"] * 3 + ["paired"] * 3


def test_a_point_that_several_blocks_have_is_one_place(small_sweep, write_sweep):
    grid = "grid: [{rate: 0.0}, {rate: [0.2, 0.0]}, {rate: 0}]"
    plan = build_plan(load_sweep(write_sweep(small_sweep.replace("grid: {rate: [0.0, 0.2]}", grid))), DATA)
    assert len(plan.places) == len(plan.runs) == 10 and plan.shared == 0


def test_only_finds_a_run_at_any_of_its_places(two_arms):
    alone = two_arms.only({"d": None})
    assert [place.name for place in alone.places] == [f"student d=null seed={seed}" for seed in range(5)]
    taught = two_arms.only({"d": {"temperature": 4.0, "alpha": 0.9}, "seed": 1})
    assert Counter(place.role for place in taught.places) == {"teacher": 3, "student": 1}
    assert len(two_arms.only({"d": "{alpha=0.9,temperature=4}"}).runs) == 8, "as names have it"
    assert [place.role for place in two_arms.only({"role": "teacher", "seed": 1}).places] == ["teacher"]


def test_a_run_that_is_chosen_and_waited_for_stands_before_those_that_wait(two_arms):
    both = two_arms.only({"seed": 1})
    assert Counter(place.role for place in both.places) == {"teacher": 3, "student": 2}
    order = list(both.runs)
    for place in both.places:
        assert all(order.index(teacher) < order.index(place.id) for teacher in place.waits_for)


def test_only_takes_null_for_null_and_not_for_an_axis_that_is_not_there(two_arms):
    assert {place.role for place in two_arms.places if place.has({"d": None})} == {"student"}
    assert not any(place.has({"d": True}) or place.has({"seed": True}) for place in two_arms.places)


def test_a_plan_of_some_runs_has_them_at_all_their_places(two_arms):
    id = two_arms.places[0].id
    assert [place.name for place in two_arms.of([id]).places] == ["teacher seed=0", "student d=null seed=0"]


def test_a_sweep_of_several_data_sets_names_all(small_sweep, write_sweep):
    text = small_sweep.replace("dataset: {digits: {}, train_size: 100, validation: 0.2}", "dataset: $data")
    axis = "data: [{digits: {}, validation: 0.2}, {mnist: {}, validation: 0.2}, {digits: {}, validation: 0.3}]"
    plan = build_plan(load_sweep(write_sweep(text.replace("rate: [0.0, 0.2]", f"rate: 0.2, {axis}"))), DATA)
    assert plan.dataset == "digits (8 x 8, scikit-learn), MNIST"
