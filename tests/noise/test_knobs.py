"""The contract of every knob, whatever its injection point; then what each knob promises beyond it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor, nn

from kdtune.attacks.space import PIXELS, Space
from kdtune.kinds import Kind
from kdtune.noise.input import Gaussian, InputKnob
from kdtune.noise.knob import POINTS, Knob
from kdtune.noise.labels import LabelsKnob
from kdtune.noise.target import Calibrated, TargetKnob
from kdtune.noise.teacher import Dropout, TeacherKnob
from kdtune.randomness import Draw, draw, seeded

CLASSES = 10
FAMILIES: dict[str, type[Knob]] = {
    "input": InputKnob,
    "teacher": TeacherKnob,
    "target": TargetKnob,
    "labels": LabelsKnob,
}
# What knobs are given beside their strength, by path, a variant each; without an entry a knob is tested as it is.
SWAP = {"threshold": 0.95, "temperature": 4}
SEARCH = {"step": 0.02, "steps": 3}  # does not cross the ball: where it ends hangs on where it starts
OTHER_FIELDS: dict[str, list[dict[str, Any]]] = {
    "input.pgd": [
        SEARCH,
        {**SEARCH, "norm": "l2"},
        {**SEARCH, "share": 0.5},
        {**SEARCH, "climbs": "clean"},
        {**SEARCH, "climbs": "teacher"},
        {**SEARCH, "climbs": "confidence"},
    ],
    "teacher.swap": [
        {"pairs": "top2", **SWAP},
        {"pairs": "all", **SWAP},
        {"pairs": "all", **SWAP, "difference": "absolute"},
        {"pairs": "top2", "threshold": 5.0, "difference": "absolute", "on": "logits"},
    ],
    "teacher.signal_noise": [{}, {"per": "sample"}],
    "teacher.dropout": [{}, {"passes": 3}],
    "target.variability": [{}, {"classes": "any"}],
    "target.calibrated": [{"eps": 1.0}, {"eps": 1.0, "norm": "l2"}],
    "labels.corruption": [{}, {"classes": "wrong"}],
    "labels.teacher": [{}, {"shuffle": "class"}],
}
# The measured strength over the stated one: a class drawn from all ten is the label itself in one case of ten.
# Where images were moved by 1 - exp(-0.001) of its radius, calibrated leaves exp(-0.001 rho) and a tenth of the rest.
MEASURED = {
    "target.variability any": 0.9,
    "labels.corruption": 0.9,
    "target.calibrated": 0.9e-3,
    "target.calibrated l2": 0.9e-3,
}
NOT_RANDOM = ("target.smoothing", "target.calibrated")


def path(point: str, kind: type[Knob], others: dict[str, Any]) -> str:
    return " ".join([f"{point}.{kind.key}", *(str(value) for value in others.values() if isinstance(value, str))])


EVERY_KNOB = [
    pytest.param(point, kind, others, id=" ".join([f"{point}.{name}", *map(str, others.values())]))
    for point, family in FAMILIES.items()
    for name, kind in family.kinds().items()
    if hasattr(kind, "strength")  # labels.file has none: test_label_files.py
    for others in OTHER_FIELDS.get(f"{point}.{name}", [{}])
]
every_knob = pytest.mark.parametrize(("point", "kind", "others"), EVERY_KNOB)
STRENGTHS = (0.1, 0.2, 0.4)


def make(kind: type[Knob], strength: float, others: dict[str, Any]) -> Any:
    return kind(**{kind.strength: strength}, **others)


def given(point: str, batch: int = 0) -> Tensor:
    """A batch of what knobs are given at a point."""
    numbers = torch.Generator().manual_seed(batch)
    if point == "input":
        return torch.randint(256, (64, 3, 8, 8), generator=numbers, dtype=torch.uint8).float() / 255
    if point == "teacher":
        return 3 * torch.randn(64, CLASSES, generator=numbers)
    return torch.randint(CLASSES, (64,), generator=numbers)


def apply(point: str, knob: Any, before: Tensor, epoch: int = 0) -> tuple[Tensor, Draw]:
    """What the knob makes of `before`, and its draw afterwards. The networks change nothing by themselves."""
    numbers = draw(7, f"{point}.{knob.key}", epoch)
    if point == "input":
        labels = torch.arange(len(before)) % CLASSES
        with seeded(7, "networks"):
            network, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(before[0].numel(), CLASSES)) for _ in range(2))
        return knob(before, labels, network.to(before.dtype), numbers, teacher.to(before.dtype), PIXELS), numbers
    if point == "teacher":
        teacher = nn.Sequential(nn.Dropout(0.0)).eval()
        knob.prepare(teacher)
        with seeded(7, "dropout", epoch):
            return knob(teacher(before), numbers), numbers
    if point == "labels":
        return knob(before, CLASSES, numbers, lambda: (before + 1) % CLASSES), numbers  # a teacher that is always wrong
    moved = torch.zeros(len(before), 3, 8, 8)
    moved[:, 0, 0, 0] = -math.expm1(-0.001)
    return knob(before, CLASSES, numbers, moved), numbers


def test_knobs_are_found_by_point_and_snake_case_name() -> None:
    assert InputKnob.kinds()["gaussian"] is Gaussian
    assert TeacherKnob.kinds()["dropout"] is Dropout
    assert tuple(FAMILIES) == POINTS
    families = {Knob, Kind, *FAMILIES.values()}
    assert not any(families & set(family.kinds().values()) for family in FAMILIES.values())
    with pytest.raises(ValueError, match="unknown input knob 'dropout'; known here: gaussian, pgd"):
        InputKnob.find("dropout")


def test_a_name_is_the_class_name_in_snake_case() -> None:
    class SignalDependent(Knob): ...

    class PGD(Knob): ...

    assert (SignalDependent.key, PGD.key) == ("signal_dependent", "pgd")


def test_knob_modules_load_no_torch() -> None:
    """`--help` and `--dry-run` read them."""
    code = "import sys; from kdtune.noise.noise import *; "
    code += "print(InputKnob.kinds(), TeacherKnob.kinds(), TargetKnob.kinds())"
    code += "; from kdtune.noise.labels import LabelsKnob; LabelsKnob.kinds(); print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split()[-1] == "False"


@every_knob
def test_strength_zero_changes_nothing(point: str, kind: type[Knob], others: dict[str, Any]) -> None:
    knob, before = make(kind, 0.0, others), given(point)
    after, _ = apply(point, knob, before)
    assert knob.off and not make(kind, 0.1, others).off
    assert after.dtype == before.dtype
    assert after.numpy().tobytes() == before.numpy().tobytes()


@every_knob
def test_something_changes_at_other_strengths(point: str, kind: type[Knob], others: dict[str, Any]) -> None:
    before = given(point)
    assert not torch.equal(apply(point, make(kind, 0.4, others), before)[0], before)


@every_knob
@pytest.mark.parametrize("strength", STRENGTHS)
def test_same_seed_same_result(point: str, kind: type[Knob], others: dict[str, Any], strength: float) -> None:
    knob, before = make(kind, strength, others), given(point)
    first, second, other = (apply(point, knob, before, epoch)[0] for epoch in (0, 0, 1))
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (f"{point}.{kind.key}" in NOT_RANDOM)


@every_knob
def test_same_numbers_are_drawn_at_every_strength(point: str, kind: type[Knob], others: dict[str, Any]) -> None:
    """The stream stands at the same place afterwards, and so does torch's, which dropout uses."""
    left = []
    for strength in STRENGTHS:
        with seeded(1, "global"):
            _, numbers = apply(point, make(kind, strength, others), given(point))
            left.append((numbers.generator.get_state(), torch.get_rng_state()))
    for own, shared in left[1:]:
        assert torch.equal(own, left[0][0]) and torch.equal(shared, left[0][1])


@every_knob
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_device_are_kept(
    point: str, kind: type[Knob], others: dict[str, Any], dtype: torch.dtype
) -> None:
    before = given(point)
    before = before.to(dtype) if before.is_floating_point() else before
    after, _ = apply(point, make(kind, 0.2, others), before)
    assert after.device == before.device
    if point == "target" and after.is_floating_point():  # labels became soft targets
        assert after.shape == (len(before), CLASSES)
        torch.testing.assert_close(after.sum(1), torch.ones(len(before)))
    else:
        assert after.shape == before.shape and after.dtype == before.dtype


@every_knob
def test_arguments_are_left_alone(point: str, kind: type[Knob], others: dict[str, Any]) -> None:
    before = given(point)
    copy = before.clone()
    apply(point, make(kind, 0.4, others), before)
    assert torch.equal(before, copy)


@every_knob
@pytest.mark.parametrize("strength", STRENGTHS)
def test_measured_strength_is_the_stated_one(
    point: str, kind: type[Knob], others: dict[str, Any], strength: float
) -> None:
    knob, batches = make(kind, strength, others), 200
    measured = []
    for batch in range(batches):
        before = given(point, batch)
        before = 0.25 + before / 2 if point == "input" else before  # where 0 and 1 cut nothing off
        measured.append(knob.measure(before, apply(point, knob, before, batch)[0]))
    expected = strength * MEASURED.get(path(point, kind, others), 1)
    standard_error = np.std(measured, ddof=1) / math.sqrt(batches)
    assert standard_error < 0.05 * strength  # else the next line would accept nearly anything
    assert abs(np.mean(measured) - expected) <= 4 * standard_error + 1e-6


@every_knob
def test_unknown_fields_and_missing_strength_are_refused(point: str, kind: type[Knob], others: dict[str, Any]) -> None:
    fields = {kind.strength: 0.1, **others}
    assert kind.model_validate(fields) == make(kind, 0.1, others)
    with pytest.raises(ValidationError, match="unknown key 'strnegth'"):
        kind.model_validate({**fields, "strnegth": 1})
    with pytest.raises(ValidationError, match="Field required"):
        kind.model_validate({key: value for key, value in fields.items() if key != kind.strength})


@every_knob
@pytest.mark.parametrize("wrong", [-0.1, math.inf, math.nan, "0.1", True, None])
def test_a_strength_is_a_finite_number_not_below_zero(
    point: str, kind: type[Knob], others: dict[str, Any], wrong: Any
) -> None:
    with pytest.raises(ValidationError):
        make(kind, wrong, others)


@every_knob
def test_knobs_are_frozen_and_equal_by_value(point: str, kind: type[Knob], others: dict[str, Any]) -> None:
    knob = make(kind, 0.1, others)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(knob, kind.strength, 0.2)
    assert knob == make(kind, 0.1, others) and hash(knob) == hash(make(kind, 0.1, others))
    assert knob != make(kind, 0.2, others)


# input.gaussian


def gaussian(sigma: float, images: Tensor) -> Tensor:
    return apply("input", Gaussian(sigma=sigma), images)[0]


def test_gaussian_noise_at_twice_sigma_is_exactly_twice() -> None:
    black = torch.zeros(8, 3, 8, 8)
    assert torch.equal(gaussian(0.2, black), 2 * gaussian(0.1, black))


def test_gaussian_noise_is_standard_normal_times_sigma() -> None:
    noise = gaussian(0.05, torch.zeros(200, 3, 8, 8)).flatten().double().numpy()
    assert stats.kstest(noise / 0.05, "norm").pvalue > 1e-3


def test_gaussian_noise_does_not_depend_on_the_pixel() -> None:
    """Additive: a multiplicative x (1 + s) would leave black pixels black."""
    black, white = torch.zeros(8, 3, 8, 8), torch.ones(8, 3, 8, 8)
    torch.testing.assert_close(gaussian(0.3, white) - white, gaussian(0.3, black), atol=1e-6, rtol=0)


def test_gaussian_noise_is_independent_between_images_channels_and_pixels() -> None:
    noise = gaussian(1.0, torch.zeros(5000, 2, 2, 2)).reshape(5000, 8).numpy()
    correlation = np.corrcoef(noise, rowvar=False) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(5000)
    neighbours = [stats.pearsonr(noise[:-1, i], noise[1:, i]).statistic for i in range(8)]
    assert np.abs(neighbours).max() < 5 / math.sqrt(5000)


def test_gaussian_noise_leaves_the_unit_interval() -> None:
    shown = gaussian(0.1, given("input"))
    assert shown.min() < 0 and shown.max() > 1


def test_clamped_gaussian_noise_is_the_same_noise_cut_off() -> None:
    images = given("input")
    free, clamped = (apply("input", Gaussian(sigma=0.3, clamp=clamp), images)[0] for clamp in (False, True))
    assert torch.equal(clamped, free.clamp(0, 1)) and not torch.equal(clamped, free)
    assert Gaussian(sigma=0.3, clamp=True).measure(images, clamped) < 0.28  # what is left of it


def test_noise_within_a_subspace_is_its_part_of_the_same_noise() -> None:
    columns, _ = torch.linalg.qr(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    space, points = Space(None, columns), torch.randn(50, 12, 1, 1, generator=torch.Generator().manual_seed(1))
    noise = {}
    for within in (None, "subspace", "complement"):
        knob = Gaussian(sigma=0.3, within=within)
        noise[within] = knob(points, torch.zeros(50), nn.Identity(), draw(7, "input.gaussian"), None, space) - points
    torch.testing.assert_close(noise["subspace"] + noise["complement"], noise[None], atol=1e-6, rtol=0)
    assert (noise["complement"].flatten(1) @ columns).abs().max() < 1e-6
    torch.testing.assert_close(space.part(noise[None], "subspace"), noise["subspace"], atol=1e-6, rtol=0)


# target.calibrated


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_calibrated_targets_by_hand(norm: str) -> None:
    """Nothing is taken away at 0; at half the radius (1/2)^10 is left; from the radius on all classes are alike."""
    moved = torch.zeros(4, 1, 2, 2)
    moved[:, 0, 0, 1] = torch.tensor([0.0, -0.1, 0.2, 0.5])
    targets = Calibrated(norm=norm, eps=0.2, rho=10.0)(torch.tensor([0, 1, 2, 3]), 4, draw(0, "x"), moved)
    half = 0.5**10
    wanted = torch.full((4, 4), 0.25)
    wanted[0] = torch.tensor([1.0, 0, 0, 0])
    wanted[1] = (1 - half) / 4
    wanted[1, 1] += half
    torch.testing.assert_close(targets, wanted, atol=1e-6, rtol=0)


def test_calibrated_targets_measure_in_their_norm() -> None:
    moved = torch.full((1, 1, 2, 2), 0.1)  # 0.1 in l-infinity, 0.2 in l2
    weight = {
        norm: Calibrated(norm=norm, eps=0.4, rho=1.0)(torch.tensor([0]), 2, draw(0, "x"), moved)[0, 1]
        for norm in ("linf", "l2")
    }
    assert weight == {"linf": pytest.approx(0.125), "l2": pytest.approx(0.25)}


# teacher.dropout


def teacher_with_dropout() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Sequential(nn.Dropout2d(0.0)),
        nn.Flatten(),
    ).eval()


def test_dropout_switches_on_dropout_layers_only() -> None:
    teacher = teacher_with_dropout()
    Dropout(rate=0.3).prepare(teacher)
    on = {layer for layer in teacher.modules() if layer.training}
    assert on == {layer for layer in teacher.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)} and len(on) == 2
    assert all(layer.p == 0.3 for layer in on)
    assert not any(layer.training for layer in teacher.eval().modules())


def test_dropout_leaves_batch_statistics_alone() -> None:
    teacher = teacher_with_dropout()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    Dropout(rate=0.3).prepare(teacher)
    teacher(torch.rand(16, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_dropout_at_rate_zero_needs_no_layers_and_touches_none() -> None:
    teacher = nn.Sequential(nn.Dropout(0.2), nn.Linear(2, 2)).eval()
    Dropout(rate=0.0).prepare(teacher)
    Dropout(rate=0.0).prepare(nn.Linear(2, 2))
    assert teacher[0].p == 0.2 and not teacher[0].training


def test_dropout_refuses_a_teacher_without_dropout_layers() -> None:
    with pytest.raises(ValueError, match=r"noise\.teacher\.dropout: rate 0\.1 .* \(Linear\) has no dropout layer"):
        Dropout(rate=0.1).prepare(nn.Linear(2, 2))


def test_dropout_masks_are_nested() -> None:
    """What is dropped at one rate is dropped at every higher one, so fickle teachers of two rates are paired."""
    before = given("teacher")
    kept = [apply("teacher", Dropout(rate=rate), before)[0] != 0 for rate in (0.1, 0.3, 0.5, 0.9)]
    for low, high in pairwise(kept):
        assert torch.equal(low & high, high) and high.sum() < low.sum()


def test_dropout_scales_the_survivors() -> None:
    before = given("teacher")
    after, _ = apply("teacher", Dropout(rate=0.2), before)
    torch.testing.assert_close(after[after != 0], (before / 0.8)[after != 0])


def test_measured_dropout_counts_units_that_were_not_zero_already() -> None:
    before, after = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 0.0, 0.0, 4.0, 6.0, 8.0])
    assert Dropout(rate=0.5).measure(before, after) == 0.25
    assert math.isnan(Dropout(rate=0.5).measure(torch.zeros(3), torch.zeros(3)))


def test_rates_above_one_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"less than or equal to 1"):
        Dropout(rate=1.5)
