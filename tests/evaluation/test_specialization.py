"""Which of a student's nodes have become the teacher's, and where in the space of inputs."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stored
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from stand_ins import NOWHERE, subject
from torch import Tensor, nn

from kdtune.attacks.space import Space
from kdtune.data.loading import Data, Split, load
from kdtune.evaluation import subspace as subspace_module
from kdtune.evaluation.evaluator import EvaluationError, NotFinite
from kdtune.evaluation.specialization import Specialization, activations, correlations, matches
from kdtune.evaluation.subject import Context, Subject
from kdtune.evaluation.subspace import Principal, sides, space_of
from kdtune.models.networks.network import Network
from kdtune.models.networks.normalized import Normalized
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.context import RunContext
from kdtune.training.network import load_finished, starting_network
from kdtune.training.run import perform

DIMENSION, RANK, CLASSES = 12, 4, 3
NAMES = {f"specialization/coverage@{above:g}" for above in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)}
NAMES |= {f"specialization/{name}" for name in ("best", "strong", "initial")}


def low_rank(count: int = 300, rank: int = RANK) -> Data:
    """Points U z of `rank` dimensions among 12, with U known."""
    generator = torch.Generator().manual_seed(0)
    columns, _ = torch.linalg.qr(torch.randn(DIMENSION, rank, generator=generator))
    images = (torch.randn(count, rank, generator=generator) @ columns.T)[:, :, None, None]
    split = Split(images, torch.arange(count) % CLASSES, bounds=None)
    return Data("points", ("a", "b", "c"), (DIMENSION, 1, 1), split, None, split, {}, subspace=columns)


def two_layer(rows: Tensor, bias: float = 0.1) -> Network:
    """One hidden layer, relu(rows x + bias), and a classifier. rows: [nodes, 12]."""
    hidden, out = nn.Linear(DIMENSION, len(rows)), nn.Linear(len(rows), CLASSES)
    hidden.weight.data, hidden.bias.data = rows.clone(), torch.full((len(rows),), bias)
    nn.init.normal_(out.weight, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(out.bias)
    return Network(nn.Sequential(nn.Flatten(), hidden, nn.ReLU()), out).eval()


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(seed))


def measured(student: nn.Module, teacher: nn.Module | None, data: Data, initial: nn.Module | None = None, **fields):
    """What `Specialization(**fields)` says of them; without `initial` the student came from a file."""

    def ask_weights(which: str) -> nn.Module:
        if initial is None:
            raise ValueError(which)
        return {"initial": initial}[which]

    given = replace(subject(student, data, teacher=teacher), ask_weights=ask_weights)
    return Specialization(**fields).measured(given)


# Correlations


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 40), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1e-6, 1, 1e6]))
def test_correlations_are_numpys(seed: int, count: int, ours: int, theirs: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    one, other = random.normal(3, 1, (count, ours)), scale * random.normal(-1, 1, (count, theirs))
    expected = np.corrcoef(one.T, other.T)[:ours, ours:]
    assert correlations(one, other) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_a_constant_node_correlates_with_nothing(value: float) -> None:
    """0.1: the mean of a hundred of them is not 0.1."""
    varying = np.random.default_rng(0).normal(size=(100, 2))
    fixed = np.full((100, 1), value)
    found = correlations(np.hstack([fixed, varying]), np.hstack([varying, fixed]))
    assert (found[0] == 0).all() and (found[:, 2] == 0).all()
    assert found[1, 0] == pytest.approx(1) and found[2, 1] == pytest.approx(1)
    best, matched = matches(found, np.hstack([varying, fixed]))
    assert best[0] == 0 and matched.tolist() == [-1, 0, 1]
    one, other = varying[:, :1], np.hstack([-varying[:, :1], fixed])
    best, matched = matches(correlations(one, other), other)
    assert best.tolist() == [0] and matched.tolist() == [-1], "the constant is the best, and no match"


def test_features_are_read_in_eval_mode_and_must_be_numbers() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), nn.Linear(DIMENSION, CLASSES)).train()
    data = low_rank(1203)
    found = activations(network, data.test.images)
    assert found.dtype == np.float64 and network.training
    assert np.array_equal(found, data.test.images.flatten(1).double().numpy())
    broken = data.test.images.clone()
    broken[7] = torch.inf
    with pytest.raises(NotFinite, match="features are not finite"):
        activations(network, broken)


# Students that are known


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 1, 2]])
@pytest.mark.parametrize("more", [0, 7])
def test_a_student_that_is_the_teacher_in_whatever_order(order: list[int], more: int) -> None:
    data, teacher = low_rank(), two_layer(rows(5, 2))
    student = two_layer(torch.cat([rows(5, 2)[order], rows(more, 3)]))
    found = measured(student, teacher, data, initial=two_layer(rows(5 + more, 4)), subspace="data")
    head = "specialization"
    for name in ("best", "strong", "best@moved", "cos_in", "cos_out"):
        assert found.metrics[f"{head}/{name}"] == pytest.approx(1, abs=1e-6), name
        if name != "strong":
            assert found.arrays[f"{head}/{name}"] == pytest.approx(np.ones(5), abs=1e-6)
    assert {found.metrics[f"{head}/coverage@{above:g}"] for above in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)} == {100}
    assert found.arrays[f"{head}/matched"].tolist() == [order.index(node) for node in range(5)]
    assert 0 < found.metrics[f"{head}/initial"] < 0.95
    assert abs(found.metrics[f"{head}/cos_out_initial"]) < 0.6


def test_coverage_and_means_by_hand() -> None:
    """Eight patterns at right angles, each of mean 0: correlations are what nodes are made of."""
    pattern = torch.tensor([[1.0]])
    for _ in range(4):
        pattern = torch.cat([torch.cat([pattern, pattern], 1), torch.cat([pattern, -pattern], 1)], 0)
    images = pattern[:, 1 : 1 + DIMENSION][:, :, None, None]  # 16 images; the first pattern is constant
    split = Split(images, torch.arange(16) % CLASSES, bounds=None)
    data = Data("patterns", ("a", "b", "c"), (DIMENSION, 1, 1), split, None, split, {})
    eye = torch.eye(DIMENSION)
    teacher = Network(nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, 5, bias=False)), nn.Linear(5, CLASSES))
    student = Network(nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, 4, bias=False)), nn.Linear(4, CLASSES))
    teacher.features[1].weight.data = eye[:5]
    shares = torch.tensor([0.65, 0.97, -0.99, 0.85])  # of the teacher's nodes 2, 0, 1 and 4; none has node 3
    student.features[1].weight.data = shares[:, None] * eye[[2, 0, 1, 4]] + (1 - shares**2).sqrt()[:, None] * eye[6:10]
    found = measured(student, teacher, data)
    best = [0.97, 0, 0.65, 0, 0.85]
    assert found.arrays["specialization/best"] == pytest.approx(best, abs=1e-6)
    assert found.arrays["specialization/matched"][[0, 2, 4]].tolist() == [1, 0, 3]
    assert found.metrics == {
        "specialization/best": pytest.approx(sum(best) / 5, abs=1e-6),
        "specialization/strong": pytest.approx((0.97 + 0 + 0.65) / 3, abs=1e-6),
        "specialization/coverage@0.5": 60,
        "specialization/coverage@0.6": 60,
        "specialization/coverage@0.7": 40,
        "specialization/coverage@0.8": 40,
        "specialization/coverage@0.9": 20,
        "specialization/coverage@0.95": 20,
    }


def test_cosines_and_lengths_by_hand() -> None:
    """Within the subspace the rows are the teacher's, off it they are its and another way at right angles to it."""
    data, theirs = low_rank(), rows(5, 2)
    space = Space(None, data.subspace)
    inside, outside = space.part(theirs, "subspace"), space.part(theirs, "complement")
    other = space.part(rows(5, 3), "complement")
    other -= outside * ((other * outside).sum(1) / outside.square().sum(1))[:, None]
    other *= (outside.norm(dim=1) / other.norm(dim=1))[:, None]
    student, initial = two_layer(3 * inside + 0.6 * outside + 0.8 * other), two_layer(other - 2 * outside)
    found = measured(student, two_layer(theirs), data, initial, subspace="data")
    metrics = found.metrics
    assert found.arrays["specialization/matched"].tolist() == [0, 1, 2, 3, 4]
    assert metrics["specialization/cos_in"] == pytest.approx(1, abs=1e-6)
    assert found.arrays["specialization/cos_out"] == pytest.approx(np.full(5, 0.6), abs=1e-5)
    assert metrics["specialization/cos_out"] == pytest.approx(0.6, abs=1e-5)
    assert metrics["specialization/cos_out_initial"] == pytest.approx(-2 / 5**0.5, abs=1e-5)
    assert metrics["specialization/norm_out"] == pytest.approx(float(outside.norm(dim=1).mean()), rel=1e-5)
    assert found.arrays["specialization/norm_out"] == pytest.approx(outside.norm(dim=1).numpy(), rel=1e-5)


def test_a_teachers_dead_node_has_no_match_and_does_not_enter_cosines() -> None:
    data, theirs = low_rank(), rows(4, 2)
    teacher = two_layer(theirs)
    teacher.features[1].bias.data[1] = -100
    found = measured(two_layer(theirs), teacher, data, subspace="data")
    assert found.arrays["specialization/best"] == pytest.approx([1, 0, 1, 1])
    assert found.arrays["specialization/matched"].tolist() == [0, -1, 2, 3]
    assert np.isnan(found.arrays["specialization/cos_in"]).tolist() == [False, True, False, False]
    assert found.metrics["specialization/best"] == pytest.approx(0.75)
    assert found.metrics["specialization/cos_in"] == pytest.approx(1)


def test_of_a_dead_student_there_are_no_cosines() -> None:
    data, theirs = low_rank(), rows(4, 2)
    found = measured(two_layer(theirs, bias=-100.0), two_layer(theirs), data, subspace="data")
    assert found.metrics["specialization/best"] == 0 == found.metrics["specialization/coverage@0.5"]
    assert found.arrays["specialization/matched"].tolist() == [-1] * 4
    assert not any("cos" in name or "norm" in name for name in found.metrics)


# Off the subspace


class Watching(nn.Module):
    """The network, which writes down what its features are asked of."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.seen = network, []

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.network.features(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def test_inputs_are_moved_off_the_subspace_alone_and_as_far_as_was_said() -> None:
    data, student = low_rank(), Watching(two_layer(rows(5, 2)))
    measured(student, two_layer(rows(5, 2)), data, subspace="data", moved=0.5)
    (moved,) = [each for each in student.seen if len(each) == 300 and not torch.equal(each, data.test.images)]
    away, space = moved - data.test.images, Space(None, data.subspace)
    assert space.part(away, "subspace").abs().max() < 1e-5
    per_way = away.flatten(1).square().sum(1).mean() / (DIMENSION - RANK)
    assert float(per_way.sqrt()) == pytest.approx(0.5, rel=0.05)


def test_a_student_that_is_another_off_the_subspace_matches_until_inputs_leave_it() -> None:
    data, theirs = low_rank(), rows(5, 2)
    ours = theirs + 3 * Space(None, data.subspace).part(rows(5, 3), "complement")
    found = measured(two_layer(ours), two_layer(theirs), data, subspace="data", moved=1.0).metrics
    assert found["specialization/best"] == pytest.approx(1, abs=1e-6)
    assert found["specialization/best@moved"] < 0.8 < found["specialization/cos_in"]


def test_where_the_subspace_is_everything_there_is_no_outside() -> None:
    found = measured(two_layer(rows(5, 2)), two_layer(rows(5, 2)), low_rank(rank=DIMENSION), subspace="data").metrics
    assert found["specialization/cos_in"] == pytest.approx(1)
    assert found.keys() == NAMES - {"specialization/initial"} | {"specialization/cos_in"}


def test_what_rounding_leaves_off_the_subspace_is_no_direction() -> None:
    data = low_rank()
    inside = Space(None, data.subspace).part(rows(5, 2), "subspace")
    found = measured(two_layer(inside), two_layer(inside), data, subspace="data").metrics
    assert found["specialization/cos_in"] == pytest.approx(1) and found["specialization/cos_out"] == 0
    assert found["specialization/norm_out"] < 1e-5


def test_without_a_subspace_nothing_is_said_of_one() -> None:
    teacher, student = two_layer(rows(5, 2)), two_layer(rows(6, 3))
    assert measured(student, teacher, low_rank(), initial=student).metrics.keys() == NAMES


@pytest.mark.parametrize("which", ["standardised", "deeper", "convolution"])
def test_rows_are_compared_where_they_are_the_nodes(which: str) -> None:
    data, teacher, hidden = low_rank(), two_layer(rows(5, 2)), nn.Linear(DIMENSION, 6)
    student = {
        "standardised": Normalized(two_layer(rows(5, 2)), [0.1] * DIMENSION, [0.5] * DIMENSION),
        "deeper": Network(nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(6, 5)), nn.Linear(5, CLASSES)),
        "convolution": Network(
            nn.Sequential(nn.Conv2d(DIMENSION, 4, 1), nn.Flatten(), nn.Linear(4, 4)), nn.Linear(4, CLASSES)
        ),
    }[which]
    found = measured(student, teacher, data, subspace="data").metrics
    assert "specialization/best@moved" in found and not any("cos" in name for name in found)


# Subspaces


def test_principal_directions_are_those_of_the_singular_values() -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (40, 1, 3, 4), dtype=np.uint8))
    split = Split(images, torch.arange(40) % CLASSES)
    data = Data("small", ("a", "b", "c"), (1, 3, 4), split, None, split, {})
    space = space_of(Principal(pca=5), data, data.test)
    directions = np.linalg.svd(images.numpy().reshape(40, 12) / 255)[2][:5].T
    assert space.subspace is not None and space.subspace.dtype == torch.float32
    assert np.abs(space.subspace.numpy().T @ directions) == pytest.approx(np.eye(5), abs=1e-5)
    assert space.bounds == (0.0, 1.0) and sides(space) == ("subspace", "complement")


def test_principal_directions_are_found_once_for_the_same_images(monkeypatch) -> None:
    data, calls = low_rank(), []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(1) or eigh(matrix))
    subspace_module._directions.cache_clear()
    first = space_of(Principal(pca=4), data, data.test).subspace
    again = space_of(Principal(pca=4), data, replace(data.test, images=data.test.images.clone()))
    assert len(calls) == 1 and torch.equal(first, again.subspace)
    moved = replace(data, train=replace(data.train, images=data.train.images + 1))  # another network's robust set, say
    assert torch.equal(space_of(Principal(pca=4), moved, moved.test).subspace, first) and len(calls) == 1
    other = replace(data, test=replace(data.test, images=data.test.images + 1))
    assert not torch.equal(space_of(Principal(pca=4), other, other.test).subspace, first) and len(calls) == 2
    projector = first @ first.T
    assert torch.allclose(projector, data.subspace @ data.subspace.T, atol=1e-5), "all that the images fill"


def test_of_many_images_a_sample_is_enough(monkeypatch) -> None:
    monkeypatch.setattr(subspace_module, "SAMPLE", 50)
    data = low_rank(700)
    subspace_module._directions.cache_clear()
    found = space_of(Principal(pca=4), data, data.test).subspace
    assert torch.allclose(found @ found.T, data.subspace @ data.subspace.T, atol=1e-5)


@pytest.mark.parametrize(
    ("subspace", "message"),
    [
        ("data", "evaluation.specialization: subspace: data, but of points no subspace is known; {pca: 50} takes one"),
        (
            {"pca": 13},
            "evaluation.specialization: subspace: {pca: 13}, but those of points that are measured on span at most 12"
            " directions",
        ),
    ],
)
def test_a_subspace_that_is_not_there_is_refused_before_the_start(subspace, message) -> None:
    data = replace(low_rank(), subspace=None)
    with pytest.raises(EvaluationError, match=message):
        Specialization.model_validate({"subspace": subspace}).preflight(data, Context(NOWHERE))
    Specialization(subspace="data").preflight(low_rank(), Context(NOWHERE))
    Specialization(subspace=Principal(pca=12)).preflight(data, Context(NOWHERE))


@pytest.mark.parametrize(
    ("subspace", "where", "message"),
    [
        ("all", (), r"data or \{pca: 50\} would do"),
        (3, (), r"data or \{pca: 50\} would do"),
        ({"pca": 0}, ("pca",), "greater than or equal to 1"),
        ({"pcs": 3}, ("pcs",), r"unknown key 'pcs'; did you mean pca\?"),
    ],
)
def test_a_subspace_is_one_of_two_things(subspace, where, message) -> None:
    with pytest.raises(ValidationError) as refused:
        Specialization.model_validate({"subspace": subspace})
    told = {error["loc"]: error["msg"] for error in refused.value.errors()}
    assert re.search(message, told["subspace", *where])


# What it says, and when it does not


def test_without_a_teacher_or_without_features_nothing_is_said(caplog) -> None:
    data, network = low_rank(), two_layer(rows(5, 2))
    assert measured(network, None, data).metrics == {}
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert measured(network, nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, CLASSES)), data).metrics == {}
    assert "without `features`" in caplog.text


@pytest.mark.parametrize(("nodes", "drawn"), [(5, 5), (20, 20), (21, 0)])
def test_nodes_have_curves_where_they_are_few(nodes: int, drawn: int) -> None:
    teacher, student, data = two_layer(rows(nodes, 2)), two_layer(rows(9, 3)), low_rank()
    found = measured(student, teacher, data, every=1)
    curves = {name: value for name, value in found.metrics.items() if "/node" in name}
    assert list(curves) == [f"specialization/node{node:02d}" for node in range(1, drawn + 1)]
    assert list(curves.values()) == found.arrays["specialization/best"].tolist()[:drawn]
    assert measured(student, teacher, data).metrics == {
        name: value for name, value in found.metrics.items() if name not in curves
    }


SWEEP = """
name: special
dataset: {digits: {}, train_size: 100, validation: 0.2}
seeds: 1
grid: {}
recipe:
  optimizer: {sgd: {lr: 0.1, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 20
  epochs: 3
teacher: {model: {mlp: {hidden: [6]}}, select: {rule: paired}}
student: {model: {mlp: {hidden: [9]}}, distillation: {alpha: 0.9, temperature: 4}}
evaluation: [accuracy]
"""
ENTRY = "specialization: {subspace: {pca: 8}}"


def done(plan: Plan, store: Store, tmp_path: Path) -> str:
    """The student's id, once teacher and student are performed."""
    for planned in plan.runs.values():
        outcome = perform(planned.run, plan.evaluation, RunContext(store, tmp_path))
        assert outcome.state == "done", outcome.traceback
    (id,) = [id for id, planned in plan.runs.items() if planned.run.teacher]
    return id


def test_while_a_run_trains_at_its_end_and_late_the_numbers_are_the_same(write_sweep, tmp_path) -> None:
    def plan_of(entries: str) -> Plan:
        return build_plan(load_sweep(write_sweep(SWEEP.replace("[accuracy]", f"[{entries}]"))), tmp_path)

    watching, store = plan_of(f"accuracy, {{{ENTRY}, every: 2}}"), Store(tmp_path / "results")
    id = done(watching, store, tmp_path)
    history = stored.history(store, id)
    assert [row["epoch"] for row in history if "specialization/node06" in row] == [2, 3]
    standing = Standing(store, watching.evaluators)
    standing.refresh(id)
    found = {name: value for name, value in standing.measured(id).items() if "specialization" in name}
    assert found.keys() > NAMES | {"specialization/cos_out", "specialization/cos_out_initial"}
    assert {name: history[-1][name] for name in found} == found
    assert not any("specialization" in name for row in stored.history(store, _teacher(watching)) for name in row)

    bare = done(plan_of("accuracy"), store, tmp_path)
    late = plan_of(f"accuracy, {{{ENTRY}}}")
    assert done(late, store, tmp_path) == bare != id
    standing = Standing(store, late.evaluators)
    standing.refresh(bare)
    assert {name: standing.measured(bare).get(name) for name in found} == found

    run, data = watching.runs[id].run, load(watching.runs[id].run.dataset, tmp_path)
    initial = starting_network(run, data.shape, data.classes)
    teacher = load_finished(_teacher(watching), store)
    of_initial = Specialization().measured(Subject(initial, data, Context(tmp_path), lambda: teacher, 0, "test"))
    assert found["specialization/initial"] == of_initial.metrics["specialization/best"] != found["specialization/best"]


def _teacher(plan: Plan) -> str:
    (id,) = [id for id, planned in plan.runs.items() if not planned.run.teacher]
    return id
