"""A data set per network: `teacher.dataset` and `student.dataset`, laid over the sweep's as a recipe is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kdtune.api import run_sweep
from kdtune.data.error import DataError
from kdtune.planning.plan import Plan, build_plan
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError

DATA = Path("nowhere")
STUDENT = "student:\n"
TEACHER = "teacher:\n"
NOISY = "  dataset: {labels: {corruption: {rate: 0.5}}}\n"


@pytest.fixture
def planned(write_sweep, small_sweep):
    """The plan of the small sweep with text put behind others."""

    def plan(*pairs: tuple[str, str]) -> Plan:
        text = small_sweep
        for behind, put in pairs:
            assert text.count(behind) == 1
            text = text.replace(behind, behind + put)
        return build_plan(load_sweep(write_sweep(text)), DATA)

    return plan


def of(plan: Plan, role: str) -> list:
    return [place for place in plan.places if place.role == role]


def test_what_a_network_says_of_the_set_is_laid_over_the_sweeps(planned):
    before, after = planned(), planned((STUDENT, NOISY))
    assert [place.id for place in of(after, "teacher")] == [place.id for place in of(before, "teacher")]
    for place in of(after, "student"):
        assert place.run.content["labels"] == {"corruption": {"rate": 0.5}}
        assert (place.run.content["train_size"], place.run.content["validation"]) == (100, 0.2)
    assert not {place.id for place in of(after, "student")} & {place.id for place in of(before, "student")}
    assert after.dataset == before.dataset


def test_a_mapping_that_names_a_set_stands_for_the_whole(planned):
    own = "  dataset: {digits: {}, train_size: 50, validation: 0.2}\n"
    assert {place.run.content["train_size"] for place in of(planned((STUDENT, own)), "student")} == {50}
    alone = planned((STUDENT, "  dataset: {digits: {}}\n"))
    assert all("train_size" not in place.run.content for place in of(alone, "student"))


def test_the_same_as_the_sweeps_is_the_same_run(planned):
    same = "  dataset: {digits: {}, train_size: 100, validation: 0.2}\n"
    assert planned((STUDENT, same), (TEACHER, same)).runs.keys() == planned().runs.keys()
    assert planned((STUDENT, "  dataset: {train_size: 100}\n")).runs.keys() == planned().runs.keys()


def test_an_override_of_one_value_leaves_the_others(write_sweep):
    plan = build_plan(load_sweep(write_sweep(), overrides=["student.dataset.train_size=60"]), DATA)
    assert {place.run.content["train_size"] for place in of(plan, "student")} == {60}
    assert {place.run.content["train_size"] for place in of(plan, "teacher")} == {100}
    assert {place.run.content["validation"] for place in of(plan, "student")} == {0.2}


def test_an_axis_of_one_networks_set_is_an_axis_of_its_runs_alone(write_sweep, small_sweep):
    text = small_sweep.replace("[0.0, 0.2]", "0.2, c: [0.0, 0.5]")
    text = text.replace(STUDENT, STUDENT + "  dataset: {labels: {corruption: {rate: $c}}}\n")
    plan = build_plan(load_sweep(write_sweep(text)), DATA)
    assert (len(of(plan, "teacher")), len(of(plan, "student"))) == (3, 4)
    assert {place.parameters.get("c") for place in of(plan, "student")} == {0.0, 0.5}
    assert all("c" not in place.parameters for place in of(plan, "teacher"))


def test_an_axis_of_the_sweeps_set_below_one_of_a_networks_own_tells_its_runs_apart(write_sweep, small_sweep):
    text = small_sweep.replace("[0.0, 0.2]", "0.2, n: [60, 100], d: [{labels: {corruption: {rate: 0.5}}}, {seed: 1}]")
    text = text.replace("train_size: 100", "train_size: $n").replace(STUDENT, STUDENT + "  dataset: $d\n")
    plan = build_plan(load_sweep(write_sweep(text)), DATA)
    conditions = {place.condition: place.run.content for place in of(plan, "student")}
    assert len(conditions) == 4 == len({json.dumps(content) for content in conditions.values()})


def test_an_axis_of_a_set_that_no_network_has_is_refused(write_sweep, small_sweep):
    own = "  dataset: {digits: {}, train_size: 100, validation: 0.2}\n"
    text = small_sweep.replace("rate: [0.0, 0.2]", "rate: 0.2, n: [60, 100]").replace(
        "train_size: 100", "train_size: $n"
    )
    text = text.replace(STUDENT, STUDENT + own).replace(TEACHER, TEACHER + own)
    with pytest.raises(SweepFileError, match="make the same runs"):
        build_plan(load_sweep(write_sweep(text)), DATA)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(STUDENT, "  dataset: {train_sizes: 5}\n")], "student.dataset"),
        (
            [(STUDENT, "  dataset: {digits: {}}\n  recipe: {keep: {best: val/accuracy}}\n")],
            "set student.dataset.validation",
        ),
        ([(TEACHER, "  dataset: {digits: {}}\n")], "nothing is held out"),
        (
            [("[accuracy", ", {pgd: {images: 4}, on: val}"), (STUDENT, "  dataset: {digits: {}}\n")],
            "student.dataset.validation",
        ),
        ([(STUDENT, "  dataset: {labels: {corruption: {rate: 2}}}\n")], "student.dataset.labels.corruption.rate"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(planned, pairs, said):
    with pytest.raises(SweepFileError, match=said):
        planned(*pairs)


def test_a_wrong_value_of_the_sweeps_is_told_once_and_there(write_sweep, small_sweep):
    text = small_sweep.replace("train_size: 100", "train_size: -1").replace(STUDENT, STUDENT + NOISY)
    with pytest.raises(SweepFileError) as caught:
        load_sweep(write_sweep(text))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("small.yaml:2") or ":2: dataset.train_size" in line


def test_a_teacher_of_other_images_is_refused(planned):
    with pytest.raises(DataError, match=r"1 x 8 x 8 in 10 classes and .*1 x 28 x 28"):
        planned((STUDENT, "  dataset: {mnist: {}, validation: 0.2}\n"))


def test_each_network_is_trained_on_its_own(write_sweep, small_sweep, tmp_path):
    text = small_sweep.replace("[0.0, 0.2]", "[0.2]").replace(STUDENT, STUDENT + NOISY)
    assert run_sweep(write_sweep(text), here=True, results=str(tmp_path / "r"), data=str(tmp_path)) == 0
    table = list(csv.DictReader((tmp_path / "r/small/paper/results.csv").open()))
    wrong = {path.parent.parent.name for path in (tmp_path / "r/runs").glob("*/*/labels.npz")}
    assert wrong == {row["id"] for row in table if row["role"] == "student"}
