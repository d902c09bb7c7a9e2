"""Agreement with a teacher that is asked at the perturbed input, too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation.test_specialization import CLASSES, DIMENSION, low_rank, rows, two_layer
from pydantic import ValidationError
from stand_ins import NOWHERE, subject
from stored import unpack
from torch import Tensor, nn

from kdtune.attacks import pgd as attack
from kdtune.attacks.space import Space
from kdtune.data.loading import Data, Split
from kdtune.evaluation.evaluator import EvaluationError, Measurement
from kdtune.evaluation.oracle import Oracle, drawn
from kdtune.evaluation.subject import Context
from kdtune.evaluation.subspace import Principal

HEAD = "oracle/pgd20"


def measured(student: nn.Module, teacher: nn.Module | None, data: Data, **fields) -> Measurement:
    return Oracle(**fields).measured(subject(student, data, teacher=teacher))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logits weight x + bias. weight: [K, D]."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight)))
    network[1].weight.data = weight.clone()
    network[1].bias.data = torch.zeros(len(weight)) if bias is None else bias.clone()
    return network.eval()


def points(images: Tensor, bounds: tuple[float, float] | None = None) -> Data:
    """These images [N, D] as test and training images; labels say nothing."""
    split = Split(images[:, :, None, None], torch.zeros(len(images), dtype=torch.int64), bounds=bounds)
    return Data("points", ("a", "b", "c"), (images.shape[1], 1, 1), split, None, split, {})


# Pairs that are known


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 1, 2]])
@pytest.mark.parametrize("subspace", [None, "data"])
def test_a_student_that_is_the_teacher_agrees_everywhere(order: list[int], subspace: str | None) -> None:
    data, teacher, student = low_rank(), two_layer(rows(5, 2)), two_layer(rows(5, 2)[order])
    student.classifier.weight.data = teacher.classifier.weight.data[:, order]
    found = measured(student, teacher, data, subspace=subspace).metrics
    assert found["oracle/clean"] == 100 and found[f"{HEAD}/label"] < 95, "the teacher itself is no oracle of that"
    for name in ("", *(("@in", "@out") if subspace else ())):
        # The order of a sum is another; nothing but a point on the boundary itself could show that.
        assert found[f"{HEAD}{name}"] == 100
        gap = f"oracle/gap_{name[1:]}" if name else "oracle/gap"
        assert found[gap] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_the_share_of_a_linear_pair_is_that_of_the_distances(norm: str, eps: float) -> None:
    """The teacher always says the first class, the student where w x > 0: so far away is the other."""
    w = torch.tensor([1.0, -2.0, 0.5, 0.25])
    distances = eps * torch.tensor([-0.5, 0.1, 0.5, 0.8, 0.9, 1.1, 1.2, 1.5, 2.0, 4.0])
    dual = w / w.norm() if norm == "l2" else w.sign()
    images = distances[:, None] * dual * (w.norm() / (w @ dual) if norm == "l2" else 1)
    assert torch.allclose(images @ w / (w.norm() if norm == "l2" else w.abs().sum()), distances)
    student = linear(torch.stack([w, 0 * w, 0 * w]), torch.tensor([0.0, 0.0, -99.0]))
    teacher = linear(1e-6 * torch.ones(3, 4), torch.tensor([3.0, 0.0, 0.0]))
    found = measured(student, teacher, points(images), norm=norm, eps=eps)
    assert found.metrics["oracle/clean"] == 90
    assert found.metrics[HEAD] == found.metrics[f"{HEAD}/label"] == 50
    for name in (HEAD, f"{HEAD}/label"):
        assert unpack(found.arrays[name], 10).tolist() == [False] * 5 + [True] * 5
    assert found.arrays["oracle/images"].tolist() == [*range(10)]
    assert found.metrics["oracle/mismatch"] == 0  # this oracle says the same of everything
    mirrored = measured(student, student, points(images), norm=norm, eps=eps)
    assert mirrored.metrics["oracle/mismatch"] == 50 and mirrored.metrics[HEAD] == 100
    assert mirrored.metrics[f"{HEAD}/label"] == 50


def test_a_student_that_differs_off_the_subspace_alone_is_parted_there_alone() -> None:
    data = low_rank()
    space = Space(None, data.subspace)
    theirs = space.part(rows(CLASSES, 2), "subspace")
    ours = theirs + 100 * space.part(rows(CLASSES, 3), "complement")
    found = measured(linear(ours), linear(theirs), data, eps=0.5, subspace="data").metrics
    assert found["oracle/clean"] == 100
    assert found[f"{HEAD}@in"] == 100 and 5 < found[f"{HEAD}@in/label"] < 95
    assert found[f"{HEAD}@out"] == found[f"{HEAD}@out/label"] == 0
    assert found[HEAD] == found[f"{HEAD}/label"] == 0
    assert found["oracle/gap_in"] == pytest.approx(0, abs=1e-4) and found["oracle/gap_out"] > 10


def test_the_gap_is_of_a_step_of_length_eps() -> None:
    """s = x and t = 0 at x = 0: what is left is the step."""
    data = points(torch.zeros(7, DIMENSION))
    data = replace(data, subspace=low_rank().subspace)
    student, teacher = linear(torch.eye(DIMENSION)), linear(1e-9 * torch.ones(DIMENSION, DIMENSION))
    found = measured(student, teacher, data, eps=0.7, subspace="data", steps=1).metrics
    assert [found[f"oracle/gap{name}"] for name in ("", "_in", "_out")] == pytest.approx([0.7] * 3)
    offset = measured(linear(torch.eye(DIMENSION), torch.full((DIMENSION,), 2.0)), student, data, steps=1).metrics
    assert offset["oracle/gap"] == pytest.approx(2 * DIMENSION**0.5)


# The attack


@pytest.fixture
def attacks(monkeypatch) -> list[dict]:
    """What `pgd` was asked, and where it ended."""
    seen, original = [], attack.pgd

    def pgd(network, images, labels, start, **how):
        found = original(network, images, labels, start, **how)
        seen.append({**how, "images": images, "labels": labels, "start": start, "end": found[how["steps"]]})
        return found

    monkeypatch.setattr(attack, "pgd", pgd)
    return seen


def test_perturbations_stay_in_the_ball_and_in_their_part_of_it(attacks) -> None:
    data, student, teacher = low_rank(60), two_layer(rows(6, 3)), two_layer(rows(5, 2))
    measured(student, teacher, data, eps=0.7, subspace="data", steps=10)
    assert [each["confine"] is None for each in attacks] == [True] * 3 + [False] * 6
    assert [each["step"] for each in attacks] == pytest.approx([0.175] * 9)
    space = Space(None, data.subspace)
    for number, each in enumerate(attacks):
        for moved in (each["start"], each["end"]):
            away = moved - each["images"]
            assert away.flatten(1).norm(dim=1).max() <= 0.7 + 1e-5
            if number >= 3:
                assert space.part(away, "complement" if number < 6 else "subspace").abs().max() < 1e-5
        assert (each["end"] - each["images"]).flatten(1).norm(dim=1).median() > 0.5
        assert torch.equal(each["labels"], teacher(each["images"]).argmax(1))
        assert torch.equal(each["start"], attacks[number // 3 * 3]["start"]), "one start for the three losses"
    starts = [(each["start"] - each["images"]).flatten(1).norm(dim=1) / 0.7 for each in attacks[::3]]
    for lengths, dimension in zip(starts, (12, 4, 8), strict=True):  # uniform in a ball of so many dimensions
        assert float(lengths.mean()) == pytest.approx(dimension / (dimension + 1), abs=0.06)


def test_in_linf_and_within_bounds_too(attacks) -> None:
    data = points(torch.rand(60, DIMENSION, generator=torch.Generator().manual_seed(0)), bounds=(0.0, 1.0))
    student, teacher = two_layer(rows(6, 3)), two_layer(rows(5, 2))
    measured(student, teacher, data, norm="linf", eps=0.2)
    for each in attacks:
        assert (each["end"] - each["images"]).abs().max() <= 0.2 + 1e-6
        assert each["end"].min() >= 0 and each["end"].max() <= 1
    assert len(attacks) == 3 and ((attacks[0]["end"] - attacks[0]["images"]).abs() > 0.199).float().mean() > 0.4


def test_where_inputs_have_bounds_what_goes_beyond_them_is_not_the_balls(attacks) -> None:
    """Inputs at a bound, where the student is another beyond it alone: off the subspace it is parted, in the ball not.
    The same without bounds: in the ball, too."""
    images = torch.zeros(20, 4)
    images[:, 0] = torch.linspace(0.2, 0.8, 20)
    student = linear(torch.tensor([[1.0, 0, 0, 0], [0, -30, -30, -30], [0, 0, 0, 0]]), torch.tensor([0.0, 0.0, -99]))
    teacher = linear(torch.tensor([[1.0, 0, 0, 0], [1e-6, 0, 0, 0], [0, 0, 0, 0]]), torch.tensor([0.0, 0.0, -99]))
    how = {"eps": 0.15, "subspace": "data"}
    for bounds, ball in (((0.0, 1.0), 100), (None, 0)):
        data = replace(points(images, bounds), subspace=torch.eye(4)[:, :1])
        found = measured(student, teacher, data, **how).metrics
        assert found[f"{HEAD}@out"] == 0 and found[f"{HEAD}@in"] == 100
        assert found[HEAD] == found[f"{HEAD}/label"] == ball
    assert min(float(each["end"].min()) for each in attacks[3:9]) < -0.05


def test_the_balls_is_the_worst_of_all_candidates_image_by_image() -> None:
    data, student, teacher = low_rank(), two_layer(rows(6, 3)), two_layer(rows(5, 2))
    found = measured(student, teacher, data, eps=0.3, subspace="data")
    alone = measured(student, teacher, data, eps=0.3)
    for rule in ("", "/label"):
        free, inside, outside = (
            unpack(each, 300)
            for each in (alone.arrays[f"{HEAD}{rule}"], *(found.arrays[f"{HEAD}@{at}{rule}"] for at in ("in", "out")))
        )
        assert np.array_equal(unpack(found.arrays[f"{HEAD}{rule}"], 300), free & inside & outside)
        clean = unpack(found.arrays["oracle/clean"], 300)
        assert not (inside & ~clean).any() and not (outside & ~clean).any() and not (free & ~clean).any()
        assert 0 < free.sum() < clean.sum()
        assert found.metrics[f"{HEAD}@in{rule}"] == 100 * inside.mean()


def test_labels_of_the_data_do_not_enter_and_one_seed_gives_one_number() -> None:
    data, student, teacher = low_rank(), two_layer(rows(6, 3)), two_layer(rows(5, 2))
    other = replace(data, test=replace(data.test, labels=(data.test.labels + 1) % CLASSES))
    how = {"eps": 0.5, "images": 40, "subspace": "data"}
    one, same = (measured(student, teacher, each, **how) for each in (data, other))
    assert one.metrics == same.metrics
    seeded = Oracle(**how).measured(subject(student, data, seed=1, teacher=teacher))
    assert not np.array_equal(seeded.arrays["oracle/images"], one.arrays["oracle/images"])


def test_fewer_inputs_lie_among_more() -> None:
    few, more = drawn(100, 20, 0), drawn(100, 60, 0)
    assert len(few) == 20 and set(few) < set(more) and (np.diff(more) > 0).all()
    assert drawn(5, None, 0).tolist() == drawn(5, 2000, 0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("subspace", [None, "data"])
def test_what_it_costs(subspace: str | None) -> None:
    data, pair, shown = low_rank(60), (two_layer(rows(6, 3)), two_layer(rows(5, 2))), []
    for network in pair:
        network.register_forward_pre_hook(
            lambda _, given: shown.append(len(given[0]) * (3 if given[0].requires_grad else 1))
        )
    measured(*pair, data, subspace=subspace, images=50)
    assert Oracle(subspace=subspace, images=50).passes(60, 0) == pytest.approx(sum(shown), rel=0.05)
    assert Oracle(on="val").passes(60, 20) == Oracle().passes(20, 0) == Oracle(images=20).passes(60, 0)


# What it says, and when it does not


def test_the_names_that_it_declares_are_those_that_it_measures() -> None:
    data, student, teacher = low_rank(60), two_layer(rows(6, 3)), two_layer(rows(5, 2))
    rates = {"oracle/clean", "oracle/pgd7", "oracle/pgd7/label"}
    found = measured(student, teacher, data, steps=7)
    assert found.metrics.keys() == rates | {"oracle/gap", "oracle/mismatch"}
    assert found.arrays.keys() == rates | {"oracle/images"}
    rates |= {f"oracle/pgd7@{at}{rule}" for at in ("in", "out") for rule in ("", "/label")}
    found = measured(student, teacher, data, steps=7, subspace="data", label="x")
    named = {"oracle/pgd7@in,x/label", "oracle/pgd7@x", "oracle/gap_out@x", "oracle/clean@x"}
    assert named <= found.metrics.keys() and len(found.metrics) == len(rates) + 4
    whole = measured(student, teacher, low_rank(60, rank=DIMENSION), subspace="data").metrics
    assert not any("out" in name for name in whole) and f"{HEAD}@in" in whole


def test_without_a_teacher_nothing_is_said() -> None:
    assert measured(two_layer(rows(6, 3)), None, low_rank(60)) == Measurement()


def test_where_one_of_them_has_no_gradient_a_flag_says_so() -> None:
    class Stairs(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (10 * images.flatten(1)[:, :CLASSES]).round()

    data, network = low_rank(60), two_layer(rows(6, 3))
    for pair in ((Stairs(), network), (network, Stairs())):
        found = measured(*pair, data).metrics
        assert found["flags/zero_gradient"] == 1 and HEAD in found
    assert "flags/zero_gradient" not in measured(network, two_layer(rows(5, 2)), data).metrics


def test_a_gradient_that_is_no_number_is_no_agreement() -> None:
    class Root(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :CLASSES] + (0 * images.flatten(1)[:, :CLASSES]).abs().sqrt()

    with pytest.raises(FloatingPointError, match="gradients that are not finite"):
        measured(Root(), two_layer(rows(5, 2)), low_rank(60))


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"norm": "linf", "subspace": "data"}, (), "a ball in linf is not cut by a subspace .*; norm: l2 does"),
        ({"norm": "l1"}, ("norm",), "'l2' or 'linf'"),
        ({"eps": 0}, ("eps",), "greater than 0"),
        ({"steps": 0}, ("steps",), "greater than or equal to 1"),
        ({"subspace": "pca"}, ("subspace",), r"data or \{pca: 50\} would do"),
    ],
)
def test_errors_say_where_and_what_would_do(fields, where, message) -> None:
    with pytest.raises(ValidationError, match=message) as refused:
        Oracle.model_validate(fields)
    assert [error["loc"] for error in refused.value.errors()] == [where]


def test_a_subspace_that_is_not_there_is_refused_before_the_start() -> None:
    data = replace(low_rank(), subspace=None)
    with pytest.raises(EvaluationError, match=r"evaluation\.oracle: subspace: data, but of points no subspace"):
        Oracle(subspace="data").preflight(data, Context(NOWHERE))
    Oracle(subspace=Principal(pca=3)).preflight(data, Context(NOWHERE))
