"""The knob of adversarial training: against foolbox, against what it is to leave alone, and against what it climbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from kdtune.attacks.pgd import wrong
from kdtune.attacks.space import Space
from kdtune.models.small import CNN
from kdtune.noise.input import PGD
from kdtune.noise.noise import Noise
from kdtune.randomness import Draw, draw, seeded

CLASSES = 10
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
NEAR: Any = {"gaussian": 0.001}
CLIMBED = ("labels", "clean", "teacher", "confidence", "mse", "oracle")
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def network(shape: tuple[int, int, int] = SHAPES["digits"], seed: int = 0, dropout: float = 0.0) -> nn.Module:
    with seeded(seed, "network"):
        made = CNN(width=4, dropout=dropout).build(shape, CLASSES)
        for weights in made.parameters():
            weights.data.mul_(2)  # answers that are not all alike
        return made


def batch(shape: tuple[int, int, int] = SHAPES["digits"], size: int = 16) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    return torch.rand(size, *shape, generator=numbers), torch.randint(CLASSES, (size,), generator=numbers)


def stream() -> Draw:
    return draw(3, "input.pgd")


def attack(**settings: Any) -> PGD:
    """Of ten steps where nothing else is said."""
    return PGD(**{"steps": 10} | settings)


def shown(knob: PGD, images: Tensor, labels: Tensor, student: nn.Module, teacher: nn.Module | None = None) -> Tensor:
    return knob(images, labels, student, stream(), teacher)


def lengths(moved: Tensor) -> Tensor:
    return moved.flatten(1).norm(dim=1)


@every_shape
@pytest.mark.parametrize(("norm", "eps", "step"), [("linf", 0.1, 0.02), ("l2", 0.5, 0.1)])
def test_the_loss_reached_is_that_of_foolbox_from_the_same_start(
    shape: Any, norm: Any, eps: float, step: float
) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox (extra `dev`) is the independent PGD to compare with")
    import eagerpy

    student, (images, labels) = network(shape).eval(), batch(shape)
    numbers = stream()
    if norm == "linf":
        start = images + eps * (2 * numbers.uniform(images) - 1)
    else:
        way, far = numbers.normal(images), numbers.uniform(images[:, :1, :1, :1])
        start = images + eps * far ** (1 / images[0].numel()) * way / lengths(way).view(-1, 1, 1, 1)
    kind = "LinfProjectedGradientDescentAttack" if norm == "linf" else "L2ProjectedGradientDescentAttack"

    class FromOurStart(getattr(foolbox.attacks, kind)):  # type: ignore[misc]
        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return eagerpy.astensor(start)

    foolboxs = FromOurStart(abs_stepsize=step, steps=10, random_start=True)
    theirs, _, _ = foolboxs(foolbox.PyTorchModel(student, bounds=(0, 1), device="cpu"), images, labels, epsilons=eps)
    ours = shown(attack(norm=norm, eps=eps, step=step), images, labels, student)
    clean, found, expected = (functional.cross_entropy(student(seen), labels).item() for seen in (images, ours, theirs))
    assert found == pytest.approx(expected, rel=0.01) and found > clean + 0.3


@every_shape
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", ["uniform", "clean", NEAR])
def test_images_stay_in_the_ball_and_are_pixels(shape: Any, norm: Any, start: Any) -> None:
    images, labels = batch(shape)
    knob = attack(norm=norm, eps=0.3, step=0.1, start=start)
    found = shown(knob, images, labels, network(shape))
    assert found.min() >= 0 and found.max() <= 1 and not found.requires_grad
    furthest = (found - images).abs().max() if norm == "linf" else lengths(found - images).max()
    assert 0.25 < furthest <= 0.3 + 1e-6
    assert knob.measure(images, found) == pytest.approx(float(furthest))


@pytest.mark.parametrize("climbs", CLIMBED)
def test_networks_and_random_numbers_are_left_alone(climbs: Any) -> None:
    """Modes, a mixture of them too, buffers, parameters and their gradients; dropout is off and draws nothing."""
    student, teacher, (images, labels) = network(dropout=0.5), network(seed=1, dropout=0.5), batch()
    student.train()
    teacher.eval()
    next(each for each in teacher.modules() if isinstance(each, nn.Dropout)).train()  # a fickle teacher
    student(images).sum().backward()
    both = [student, teacher]
    state = [{name: value.clone() for name, value in each.state_dict().items()} for each in both]
    slopes = [None if p.grad is None else p.grad.clone() for each in both for p in each.parameters()]
    modes, random = [m.training for each in both for m in each.modules()], torch.get_rng_state()
    knob = attack(eps=0.1, step=0.02, climbs=climbs)
    first, again = (shown(knob, images, labels, student, teacher) for _ in range(2))
    assert torch.equal(first, again)
    assert [m.training for each in both for m in each.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random) and not knob.draws_globally
    for before, parameter in zip(slopes, (p for each in both for p in each.parameters()), strict=True):
        assert parameter.grad is None if before is None else torch.equal(parameter.grad, before)
    for before, each in zip(state, both, strict=True):
        assert all(torch.equal(value, before[name]) for name, value in each.state_dict().items())


def divergence(student: nn.Module, reference: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    p = reference(images).softmax(1)
    return lambda seen: (p * (p.log() - student(seen).log_softmax(1))).sum()


@pytest.mark.parametrize("climbs", CLIMBED)
@torch.no_grad()
def test_each_objective_is_raised_and_by_more_than_by_any_other(climbs: str) -> None:
    student, teacher, (images, labels) = network().eval(), network(seed=1).eval(), batch(size=64)
    objectives: dict[str, Callable[[Tensor], Tensor]] = {
        "labels": lambda seen: functional.cross_entropy(student(seen), labels, reduction="sum"),
        "clean": divergence(student, student, images),
        "teacher": divergence(student, teacher, images),
        "confidence": lambda seen: wrong(student(seen).softmax(1), labels).log().sum(),
        "mse": lambda seen: (student(seen) - teacher(images)).square().sum() / 2,
        "oracle": lambda seen: (student(seen) - teacher(seen)).square().sum() / 2,
    }
    found = {
        one: shown(attack(eps=0.1, step=0.02, start=NEAR, climbs=one), images, labels, student, teacher)
        for one in CLIMBED
    }
    reached = {one: objectives[climbs](seen) for one, seen in found.items()}
    assert reached[climbs] > objectives[climbs](images) + 1
    assert reached[climbs] == max(reached.values())
    assert len({tuple(seen.flatten().tolist()) for seen in found.values()}) == len(found)


def test_the_answer_to_clean_images_is_held_fast() -> None:
    """Else the gradient of KL(clean || shown) would be another one: here it is that with the clean answer fixed."""
    student, (images, labels) = network().eval(), batch()
    numbers = stream()
    seen = (images + 0.001 * numbers.normal(images)).clamp(0, 1).requires_grad_()
    (slope,) = torch.autograd.grad(divergence(student, student, images)(seen), seen)
    found = shown(attack(eps=0.1, step=0.02, steps=1, start=NEAR, climbs="clean"), images, labels, student)
    torch.testing.assert_close(found, (seen + 0.02 * slope.sign()).clamp(images - 0.1, images + 0.1).clamp(0, 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_at_twice_the_radius_are_exactly_twice_as_far(norm: Any) -> None:
    images = torch.zeros(8, 3, 8, 8)
    near, far = (attack(norm=norm, eps=eps, step=0.1)._start(images, stream()) for eps in (0.1, 0.2))
    assert torch.equal(far, 2 * near)


def test_starts_are_uniform_in_the_ball() -> None:
    images = torch.zeros(4000, 1, 2, 2)
    box = attack(eps=1.0, step=0.1)._start(images, stream())
    assert box.min() > -1 and box.max() < 1 and abs(box.mean()) < 0.02 and box.std() == pytest.approx(3**-0.5, rel=0.02)
    round_ = lengths(attack(norm="l2", eps=2.0, step=0.1)._start(images, stream()))
    assert round_.max() <= 2
    assert [(round_ <= 2 * r).float().mean().item() for r in (0.5, 0.8)] == pytest.approx([0.5**4, 0.8**4], abs=0.03)


@pytest.mark.parametrize(("share", "size", "moved"), [(0.5, 16, 8), (0.25, 6, 2), (0.01, 5, 1), (1.0, 3, 3)])
def test_a_share_of_a_batch_is_moved_as_if_all_were(share: float, size: int, moved: int) -> None:
    student, (images, labels) = network().eval(), batch(size=size)
    whole = shown(attack(eps=0.1, step=0.02), images, labels, student)
    part = shown(attack(eps=0.1, step=0.02, share=share), images, labels, student)
    torch.testing.assert_close(part[:moved], whole[:moved])
    assert torch.equal(part[moved:], images[moved:])
    assert (part[:moved] != images[:moved]).flatten(1).any(1).all()


def test_one_step_of_fgsm_is_the_sign_of_the_gradient() -> None:
    student, (images, labels) = network().eval(), batch()
    begin = (images + 0.1 * (2 * stream().uniform(images) - 1)).clamp(0, 1).requires_grad_()
    (slope,) = torch.autograd.grad(functional.cross_entropy(student(begin), labels), begin)
    expected = (begin + 0.125 * slope.sign()).clamp(images - 0.1, images + 0.1).clamp(0, 1)
    torch.testing.assert_close(shown(attack(eps=0.1, step=0.125, steps=1), images, labels, student), expected)


def test_examples_are_those_of_float32_whatever_precision_there_is_around() -> None:
    student, teacher, (images, labels) = network(), network(seed=1), batch()
    for climbs in ("labels", "teacher", "clean"):
        knob = attack(eps=0.1, step=0.02, climbs=climbs)
        plain = shown(knob, images, labels, student, teacher)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(shown(knob, images, labels, student, teacher), plain)


def test_a_gradient_that_is_not_finite_shows_nothing_that_could_be_learned() -> None:
    class Kink(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :4] + (images.flatten(1)[:, :4] * 0).sqrt()  # finite; its gradient is not

    images, labels = batch()
    assert shown(attack(eps=0.1, step=0.02), images, labels % 4, Kink()).isnan().all()


def test_passes_are_three_a_step_and_image() -> None:
    fields = {"eps": 0.1, "step": 0.02}
    assert attack(**fields).student_passes == 30
    assert attack(**fields, steps=4, share=0.5).student_passes == 6
    assert attack(**fields, climbs="clean").student_passes == 31
    asked = {each: attack(**fields, climbs=each).teacher_passes for each in CLIMBED}
    assert asked == {"labels": 0, "clean": 0, "teacher": 1, "confidence": 0, "mse": 1, "oracle": 30}
    assert all(attack(**fields, climbs=each).asks_teacher == (asked[each] > 0) for each in CLIMBED)


@pytest.mark.parametrize("climbs", ["teacher", "mse", "oracle"])
def test_without_a_teacher_to_ask_it_says_so(climbs: Any) -> None:
    images, labels = batch()
    with pytest.raises(ValueError, match=f"climbs: {climbs}, but this run has no teacher"):
        shown(attack(eps=0.1, step=0.02, climbs=climbs), images, labels, network())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inputs_without_bounds_are_cut_off_nowhere(norm: Any) -> None:
    images, labels = batch()
    points = 10 * images - 5
    knob = attack(norm=norm, eps=0.3, step=0.1)
    found = knob(points, labels, network(), stream(), None, Space(bounds=None))
    assert found.min() < -4.9 and found.max() > 4.9
    furthest = (found - points).abs().max() if norm == "linf" else lengths(found - points).max()
    assert 0.25 < furthest <= 0.3 + 1e-5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"eps": 8}, r"pixels are in \[0, 1\]; 8/255 is 0.0314"),
        ({"step": 2}, r"pixels are in \[0, 1\]; 2/255 is 0.00784"),
        ({"step": 0}, "greater than 0"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"share": 0}, "greater than 0"),
        ({"start": "random"}, r"uniform, clean or \{gaussian: 0.001\} would do"),
        ({"start": {"gaussian": 0}}, "greater than 0"),
        ({"start": {"gaussian": 2}}, r"pixels are in \[0, 1\]"),
        ({"start": {"sigma": 1}}, "unknown key 'sigma'"),
        ({"start": "clean", "climbs": "clean"}, "has no gradient at the clean image"),
        ({"norm": "l1"}, "linf"),
    ],
)
def test_what_no_attack_can_be_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Noise.model_validate({"input": {"pgd": {"eps": 0.1, "step": 0.02, "steps": 10, **fields}}})


def test_a_radius_in_l2_may_be_more_than_one_pixel() -> None:
    assert attack(norm="l2", eps=2.0, step=1.5).eps == 2
