"""The losses against numpy in double precision; what a lesson shows, asks, draws and leaves alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn import functional

from kdtune.losses.ce import CE
from kdtune.losses.kd import KD, kd_loss
from kdtune.models.model import Model
from kdtune.noise.input import Gaussian
from kdtune.noise.knob import Knob
from kdtune.noise.noise import Noise
from kdtune.noise.teacher import Dropout
from kdtune.randomness import Draw, draw, stream_seed
from kdtune.training.lesson import Lesson

CLASSES = 10


def knobs_at(**points: dict[str, Any]) -> Noise:
    """Stands for `config.Noise`, with knobs that no file can name."""
    return cast(Noise, SimpleNamespace(knobs=lambda point: points.get(point, {})))


class Probe(nn.Module):
    """A network that remembers what it was shown and whether it could have learnt from it."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, CLASSES)
        )
        self.seen: list[Tensor] = []
        self.graded: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        self.graded.append(torch.is_grad_enabled())
        return self.layers(images)


class NextClass(Knob):
    """A target knob: every label becomes the class after it; soft if asked for, with a tenth on the label given."""

    strength: ClassVar[str] = "rate"
    rate: float
    soft: bool = False

    def __call__(self, labels: Tensor, classes: int, draw: Any, moved: Any) -> Tensor:
        wrong = (labels + 1) % classes
        one_hot = torch.eye(classes)
        return 0.9 * one_hot[wrong] + 0.1 * one_hot[labels] if self.soft else wrong

    def measure(self, before: Tensor, after: Tensor) -> float:
        return 1.0


class Scaling(Knob):
    """Multiplies whatever it is given; adds a number from its draw where asked to."""

    strength: ClassVar[str] = "by"
    asks_teacher: ClassVar[bool] = False  # it stands at `input` too
    by: float
    plus: bool = False

    def __call__(self, value: Tensor, *others: Any) -> Tensor:
        (numbers,) = (one for one in others if isinstance(one, Draw))
        return self.by * value + (numbers.normal(value) if self.plus else 0)

    def measure(self, before: Tensor, after: Tensor) -> float:
        return float((after / before).nanmean())


def how(alpha: float = 0.9, **others: Any) -> KD:
    return KD(alpha=alpha, temperature=4, **others)


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(3)
    images = torch.randint(256, (size, 1, 8, 8), generator=numbers, dtype=torch.uint8).float() / 255
    return images, torch.randint(CLASSES, (size,), generator=numbers)


def ask(lesson: Lesson, student: nn.Module, epoch: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    lesson.begin(epoch)
    return lesson(student, *batch())


def numpy_kd(student: np.ndarray, teacher: np.ndarray, temperature: float, divergence: str) -> float:
    p, q = (teacher, student) if divergence == "forward" else (student, teacher)
    log_p, log_q = log_softmax(p / temperature, 1), log_softmax(q / temperature, 1)
    return temperature**2 * float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


# kd_loss


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(2, 12),
    st.floats(0.01, 30),
    st.floats(0.5, 20),
    st.sampled_from(["forward", "reverse"]),
)
def test_kd_loss_is_numpys(seed: int, n: int, k: int, scale: float, temperature: float, divergence: str) -> None:
    numbers = np.random.default_rng(seed)
    student, teacher = scale * numbers.normal(size=(2, n, k))
    expected = numpy_kd(student, teacher, temperature, divergence)
    single = kd_loss(torch.tensor(student).float(), torch.tensor(teacher).float(), temperature, divergence)
    double = kd_loss(torch.tensor(student), torch.tensor(teacher), temperature, divergence)
    assert double.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-5 * temperature**2)
    assert double >= -1e-12


def test_kd_loss_is_the_one_of_common_code() -> None:
    """kl_div(log_softmax(s/T), softmax(t/T)) T^2 / batch: KL(T||S), papers A.1."""
    s, t = torch.randn(2, 32, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    common = functional.kl_div(functional.log_softmax(s / 4, 1), functional.softmax(t / 4, 1), reduction="sum")
    torch.testing.assert_close(kd_loss(s, t, 4.0), common * 4**2 / 32)
    torch.testing.assert_close(kd_loss(s, t, 4.0, "reverse"), kd_loss(t, s, 4.0))
    assert not torch.isclose(kd_loss(s, t, 4.0), kd_loss(s, t, 4.0, "reverse"))


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_kd_gradients_are_finite_differences(divergence: str) -> None:
    numbers = torch.Generator().manual_seed(0)
    s = torch.randn(4, 5, generator=numbers, dtype=torch.float64, requires_grad=True)
    t = torch.randn(4, 5, generator=numbers, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, t, 3.0, divergence), s)


def test_kd_gradient_at_high_temperature_is_logit_matching() -> None:
    """Hinton et al. 2015, equation 4: with centred logits the gradient tends to (s - t) / K."""
    s, t = torch.randn(2, 6, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s, t = (s - s.mean(1, keepdim=True)).requires_grad_(), t - t.mean(1, keepdim=True)
    (gradient,) = torch.autograd.grad(kd_loss(s, t, 1e4), s)
    torch.testing.assert_close(gradient, (s - t).detach() / CLASSES / 6, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_kd_loss_of_equal_answers_is_zero_and_of_certain_ones_finite(divergence: str) -> None:
    certain = 1e4 * torch.eye(CLASSES)
    assert kd_loss(certain, certain, 1.0, divergence) == 0
    assert kd_loss(certain, certain.roll(1, 0), 1.0, divergence).item() == pytest.approx(1e4)


# what is asked


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_loss_mixes_ce_and_kd(alpha: float) -> None:
    student, teacher, (images, labels) = Probe(1), Probe(2).eval(), batch()
    loss, parts = ask(Lesson(CLASSES, 0, knobs_at(), how(alpha), teacher), student)
    s, t = (network.layers(images).detach().double().numpy() for network in (student, teacher))
    ce, kd = -log_softmax(s, 1)[np.arange(len(s)), labels].mean(), numpy_kd(s, t, 4.0, "forward")
    assert loss.item() == pytest.approx((1 - alpha) * ce + alpha * kd, rel=1e-5)
    assert parts["ce"].item() == pytest.approx(ce, rel=1e-5) and parts["kd"].item() == pytest.approx(kd, rel=1e-5)
    assert parts["accuracy"].item() == pytest.approx(100 * (s.argmax(1) == labels.numpy()).mean())
    assert not any(part.requires_grad for part in parts.values())


def test_reverse_divergence_is_asked_for_by_name() -> None:
    student, teacher, (images, _) = Probe(1), Probe(2).eval(), batch()
    _, parts = ask(Lesson(CLASSES, 0, knobs_at(), how(divergence="reverse"), teacher), student)
    s, t = (network.layers(images).detach().double().numpy() for network in (student, teacher))
    assert parts["kd"].item() == pytest.approx(numpy_kd(s, t, 4.0, "reverse"), rel=1e-5)


def test_without_teacher_the_loss_is_cross_entropy() -> None:
    student, (images, labels) = Probe(1), batch()
    loss, parts = ask(Lesson(CLASSES, 0, knobs_at(), CE()), student)
    assert torch.equal(loss, functional.cross_entropy(student.layers(images), labels))
    assert set(parts) == {"ce", "accuracy"} and torch.equal(parts["ce"], loss)


def test_at_strength_zero_the_loss_is_bit_equal_to_plain_distillation() -> None:
    off = knobs_at(input={"gaussian": Gaussian(sigma=0)}, teacher={"dropout": Dropout(rate=0)})
    losses, gradients = [], []
    for noise in (knobs_at(), off):
        student = Probe(1, dropout=0.3)
        loss, _ = ask(Lesson(CLASSES, 0, noise, how(), Probe(2, dropout=0.3)), student)
        loss.backward()
        losses.append(loss)
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    assert torch.equal(*losses) and torch.equal(*gradients)


def test_a_sweep_file_turns_knobs_on_and_off() -> None:
    written = {"input": {"gaussian": {"sigma": 0.1}}, "teacher": {"dropout": {"rate": 0}}}
    lesson = Lesson(CLASSES, 0, Noise.model_validate(written), how(), Probe(2))
    ask(lesson, Probe(1))
    assert list(lesson.end()) == ["noise/input.gaussian", "time/teacher"]


def test_student_sees_noise_from_its_stream_and_teacher_sees_none() -> None:
    student, teacher, (images, _) = Probe(1), Probe(2), batch()
    ask(Lesson(CLASSES, 5, knobs_at(input={"gaussian": Gaussian(sigma=0.1)}), how(), teacher), student, epoch=3)
    assert torch.equal(teacher.seen[0], images)
    assert torch.equal(student.seen[0], images + 0.1 * draw(5, "learns.input.gaussian", 3).normal(images))


def test_a_teacher_is_shown_what_the_student_sees_where_asked_for() -> None:
    images, labels = batch()
    noisy = Noise.model_validate({"input": {"gaussian": {"sigma": 0.3}}})
    losses = {}
    for sees in ("clean", "shown"):
        teacher, student = Probe(1), Probe(2)
        lesson = Lesson(CLASSES, 0, noisy, how(teacher_sees=sees), teacher)
        lesson.begin(0)
        losses[sees], parts = lesson(student, images, labels)
        assert torch.equal(teacher.seen[0], student.seen[0] if sees == "shown" else images)
        assert not torch.equal(student.seen[0], images) and not any(teacher.graded)
        with torch.no_grad():
            expected = kd_loss(student.layers(student.seen[0]), teacher.layers(teacher.seen[0]), 4.0)
        assert float(parts["kd"]) == pytest.approx(float(expected), rel=1e-5)
    assert losses["clean"] != losses["shown"]


@pytest.mark.parametrize("soft", [False, True])
def test_target_knobs_reach_cross_entropy_only(soft: bool) -> None:
    student, teacher, (images, labels) = Probe(1), Probe(2).eval(), batch()
    _, plain = ask(Lesson(CLASSES, 0, knobs_at(), how(), teacher), student)
    _, parts = ask(
        Lesson(CLASSES, 0, knobs_at(target={"next_class": NextClass(rate=1, soft=soft)}), how(), teacher), student
    )
    assert torch.equal(parts["kd"], plain["kd"]) and torch.equal(parts["accuracy"], plain["accuracy"])
    log_p = log_softmax(student.layers(images).detach().double().numpy(), 1)
    given, wrong = (-log_p[np.arange(len(labels)), y].mean() for y in (labels, (labels + 1) % CLASSES))
    assert parts["ce"].item() == pytest.approx(0.9 * wrong + 0.1 * given if soft else wrong, rel=1e-5)


def test_teacher_knobs_change_what_is_asked() -> None:
    student, teacher, (images, _) = Probe(1), Probe(2).eval(), batch()
    _, parts = ask(Lesson(CLASSES, 0, knobs_at(teacher={"scaling": Scaling(by=3)}), how(), teacher), student)
    expected = kd_loss(student.layers(images), 3 * teacher.layers(images), 4.0)
    assert parts["kd"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_knobs_compose_in_written_order_each_with_its_own_stream() -> None:
    first, second = {"scaling": Scaling(by=3)}, {"gaussian": Gaussian(sigma=0.1)}
    images = batch()[0]
    noise = 0.1 * draw(0, "alone.input.gaussian", 0).normal(images)
    for knobs, expected in ((first | second, 3 * images + noise), (second | first, 3 * (images + noise))):
        student = Probe(1)
        ask(Lesson(CLASSES, 0, knobs_at(input=knobs), CE()), student)
        torch.testing.assert_close(student.seen[0], expected)


def test_one_knob_at_two_points_draws_twice() -> None:
    knob, student, images = Scaling(by=1, plus=True), Probe(1), batch()[0]
    lesson = Lesson(CLASSES, 0, knobs_at(input={"scaling": knob}, teacher={"scaling": knob}), how(), Probe(2).eval())
    lesson.begin(0)
    streams = [lesson.draws[path].normal(images) for path in ("input.scaling", "teacher.scaling")]
    assert not torch.equal(*streams)
    ask(lesson, student)
    assert torch.equal(student.seen[0], images + streams[0])


# randomness of dropout


def test_dropout_is_fixed_by_seed_and_epoch_alone() -> None:
    def answers(seed: int, epoch: int, before: int, sigma: float = 0.1) -> tuple[Tensor, Tensor]:
        student, teacher = Probe(1, dropout=0.5), Probe(2, dropout=0.1)
        noise = knobs_at(input={"gaussian": Gaussian(sigma=sigma)}, teacher={"dropout": Dropout(rate=0.5)})
        lesson = Lesson(CLASSES, seed, noise, how(), teacher)
        masks: dict[nn.Module, Tensor] = {}
        for network in (student, teacher):
            network.layers[3].register_forward_hook(
                lambda layer, given, output: masks.update({layer: (given[0] != 0) & (output == 0)})
            )
        torch.manual_seed(before)
        ask(lesson, student, epoch)
        return masks[student.layers[3]], masks[teacher.layers[3]]

    student, teacher = answers(0, 0, before=1)
    assert all(torch.equal(*pair) for pair in zip((student, teacher), answers(0, 0, before=2), strict=True))
    assert not torch.equal(student, answers(0, 1, before=1)[0])
    assert not torch.equal(teacher, answers(1, 0, before=1)[1])
    assert torch.equal(teacher, answers(0, 0, before=1, sigma=0.4)[1])  # the teacher sees clean images


def test_torch_starts_every_epoch_at_the_dropout_stream() -> None:
    Lesson(CLASSES, 4, knobs_at(), CE()).begin(2)
    assert torch.initial_seed() == stream_seed(4, "alone.dropout", 2)


# measured strengths


def test_measured_strengths_are_logged_from_the_first_batch() -> None:
    student, teacher, (images, labels) = Probe(1), Probe(2), batch()
    noise = knobs_at(
        input={"gaussian": Gaussian(sigma=0.1)},
        teacher={"dropout": Dropout(rate=0.3)},
        target={"next_class": NextClass(rate=1)},
    )
    lesson = Lesson(CLASSES, 0, noise, how(), teacher)
    for epoch in range(2):
        lesson.begin(epoch)
        lesson(student, images, labels)
        logged = lesson.end()
        lesson(student, 0 * images, labels)  # a later batch is not measured
        again = lesson.end()
        assert again.pop("time/teacher") >= 0 and logged.pop("time/teacher") > 0
        assert str(again) == str(logged)
    assert list(logged) == ["noise/input.gaussian", "noise/teacher.dropout", "noise/target.next_class"]
    assert logged["noise/input.gaussian"] == pytest.approx(0.1, rel=0.05)
    assert logged["noise/teacher.dropout"] == pytest.approx(0.3, abs=0.03)
    assert logged["noise/target.next_class"] == 1.0
    assert not any(layer._forward_hooks for layer in teacher.modules())


def test_a_batch_that_cannot_show_a_strength_gives_nan() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, CLASSES))
    lesson = Lesson(CLASSES, 0, knobs_at(teacher={"dropout": Dropout(rate=0.3)}), how(), teacher)
    lesson.begin(0)
    lesson(Probe(1), torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    assert math.isnan(lesson.end()["noise/teacher.dropout"])


def test_without_noise_nothing_is_logged() -> None:
    lesson = Lesson(CLASSES, 0, knobs_at(), CE())
    ask(lesson, Probe(1))
    assert lesson.end() == {}


# the teacher is left as it was


def bytes_of(network: nn.Module) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in network.state_dict().items()}


def test_a_fickle_wide_resnet_is_the_same_bytes_after_teaching() -> None:
    torch.manual_seed(0)
    student, teacher = (Model.model_validate("wrn-10-1").build((1, 8, 8), CLASSES) for _ in range(2))
    teacher.train()  # as a careless caller may leave it
    lesson = Lesson(CLASSES, 0, knobs_at(teacher={"dropout": Dropout(rate=0.3)}), how(), teacher)
    before, taught, answers = bytes_of(teacher), bytes_of(student), []
    teacher.register_forward_hook(lambda _, inputs, output: answers.append(output))
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], 0.1, weight_decay=0.1)
    lesson.begin(0)
    for _ in range(3):
        optimizer.zero_grad()
        lesson(student, *batch())[0].backward()
        optimizer.step()
    assert bytes_of(teacher) == before and bytes_of(student) != taught
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(answer.requires_grad for answer in answers)
    assert not torch.equal(answers[0], answers[1])  # it was fickle: one batch, three answers


def test_teacher_without_dropout_knob_is_deterministic_whatever_mode_it_came_in() -> None:
    teacher = Probe(2, dropout=0.5).train()
    lesson = Lesson(CLASSES, 0, knobs_at(), how(), teacher)
    assert torch.equal(ask(lesson, Probe(1))[1]["kd"], ask(lesson, Probe(1), epoch=1)[1]["kd"])
    assert not any(layer.training for layer in teacher.modules()) and teacher.graded == [False, False]


# a caller's mistakes


def test_a_loss_that_needs_a_teacher_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match="the loss kd needs a teacher, and this run has none"):
        Lesson(CLASSES, 0, knobs_at(), how())


def test_teacher_noise_needs_a_teacher() -> None:
    with pytest.raises(ValueError, match=r"noise\.teacher names dropout, but this run has no teacher"):
        Lesson(CLASSES, 0, knobs_at(teacher={"dropout": Dropout(rate=0.1)}), CE())


def test_dropout_needs_a_teacher_with_dropout_layers() -> None:
    lesson = Lesson(CLASSES, 0, knobs_at(teacher={"dropout": Dropout(rate=0.1)}), how(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no dropout layer"):
        lesson.begin(0)
