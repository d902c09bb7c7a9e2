"""Paired teachers of seeds of their own, and students that begin with their teacher's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.twins import on_twins
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.network import starting_network

TEXT = """
name: pairs
dataset: {digits: {}, train_size: 60}
seeds: [0, 3]
recipe: {optimizer: {sgd: {lr: 0.05}}, schedule: cosine, precision: float32, batch_size: 20, epochs: 1}
teacher: {model: {mlp: {hidden: [8]}}, select: {rule: paired}}
student: {model: {mlp: {hidden: [8]}}, distillation: {alpha: 0.5, temperature: 2}}
evaluation: [accuracy]
"""


@pytest.fixture
def planned(write_sweep: Any) -> Any:
    def plan(select: str = "{rule: paired}", text: str = TEXT) -> Plan:
        return build_plan(load_sweep(write_sweep(text.replace("{rule: paired}", select))), Path("nowhere"))

    return plan


def pairs(plan: Plan) -> dict[int | None, int | None]:
    """The seed of each student's only teacher."""
    students = [place.run for place in plan.runs.values() if place.role == "student"]
    return {run.seed: plan.runs[run.waits_for[0]].run.seed for run in students if len(run.waits_for) == 1}


def test_a_paired_teacher_has_its_students_seed_or_one_so_far_from_it(planned: Any) -> None:
    assert pairs(planned()) == {0: 0, 3: 3}
    assert pairs(planned("{rule: paired, offset: 5}")) == {0: 5, 3: 8}
    own = TEXT.replace("select:", "seeds: [8, 7, 5], select:")
    assert pairs(planned("{rule: paired, offset: 5}", own)) == {0: 5, 3: 8}


def test_where_seeds_are_the_students_own_ids_are_those_of_before(planned: Any) -> None:
    """An offset decides who is chosen from, and leaves no trace beyond that."""
    plain, apart = planned(), planned("{rule: paired, offset: 3}")
    teachers = [{run.seed: id for id, place in each.runs.items() if (run := place.run) and place.role == "teacher"}
                for each in (plain, apart)]  # fmt: skip
    assert teachers[0].keys() == {0, 3} and teachers[1].keys() == {3, 6} and teachers[0][3] == teachers[1][3]


@pytest.mark.parametrize(
    ("select", "own", "said"),
    [
        ("{rule: paired, offset: 5}", "seeds: [0, 3], ", r"teacher i \+ 5, but \(0, 3\) lacks some of \(5, 8\)"),
        ("{rule: paired}", "seeds: [0, 1], ", r"teacher i, but \(0, 1\) lacks some of \(0, 3\)"),
        ("{rule: average, offset: 5}", "", "offset is how far apart paired seeds lie, and the rule is average"),
        ("{rule: paired, offset: 0}", "", "greater than or equal to 1"),
    ],
)
def test_what_pairs_nobody_is_refused(planned: Any, select: str, own: str, said: str) -> None:
    with pytest.raises(SweepFileError, match=said):
        planned(select, TEXT.replace("select:", f"{own}select:"))


def test_students_that_begin_as_their_teacher_are_told(planned: Any) -> None:
    said = on_twins(planned())
    assert said is not None and said.startswith("2 students begin with the initial weights of a teacher of theirs")
    assert "teacher.select.offset" in said
    assert on_twins(planned("{rule: paired, offset: 5}")) is None
    wider = TEXT.replace("student: {model: {mlp: {hidden: [8]}}", "student: {model: {mlp: {hidden: [9]}}")
    assert on_twins(planned(text=wider)) is None
    pooled = TEXT.replace("select:", "seeds: [3, 4], select:")
    assert str(on_twins(planned("{rule: average}", pooled))).startswith("1 student begins with")


def test_they_do_begin_as_it_and_with_an_offset_do_not(planned: Any) -> None:
    for select, alike in (("{rule: paired}", True), ("{rule: paired, offset: 5}", False)):
        plan = planned(select)
        (student, *_) = [place.run for place in plan.runs.values() if place.role == "student"]
        teacher = plan.runs[student.waits_for[0]].run
        weights = [
            torch.cat([each.flatten() for each in starting_network(run, (1, 8, 8), 10).state_dict().values()])
            for run in (student, teacher)
        ]
        assert torch.equal(*weights) is alike
