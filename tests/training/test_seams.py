"""Knobs of one's own: each point hands over what its signature promises, and one class is all it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from kdtune.attacks.space import PIXELS, Space
from kdtune.data.dataset import Dataset
from kdtune.data.loading import Split
from kdtune.data.split import measured, relabelled
from kdtune.losses.ce import CE
from kdtune.losses.kd import KD
from kdtune.noise.input import InputKnob
from kdtune.noise.labels import LabelsKnob
from kdtune.noise.noise import Noise
from kdtune.noise.target import TargetKnob
from kdtune.noise.teacher import TeacherKnob
from kdtune.randomness import Draw, draw
from kdtune.recipe import Recipe
from kdtune.settings import Rate, Scale
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train

CLASSES = 10
HOW = KD(alpha=0.9, temperature=4)
RECIPE = Recipe.model_validate(
    {
        "optimizer": {"adam": {"lr": 0.01, "betas": [0.9, 0.999]}},
        "schedule": "cosine",
        "precision": "float32",
        "batch_size": 16,
        "epochs": 2,
    }
)


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test defines is gone after it."""
    for family in (InputKnob, TeacherKnob, TargetKnob, LabelsKnob):
        monkeypatch.setattr(family, "registered", dict(family.kinds()))


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def batch(size: int = 32) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return torch.rand(size, 1, 8, 8, generator=numbers), torch.randint(CLASSES, (size,), generator=numbers)


def shown_to(student: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def apart_from_the_teacher() -> Any:
    class Apart(InputKnob):
        """A step of `size` along the sign of the gradient of what student and teacher say differently."""

        strength: ClassVar[str] = "size"
        given: ClassVar[list[Any]] = []

        size: Scale

        @property
        def student_passes(self) -> int:
            return 3

        def __call__(
            self,
            images: Tensor,
            labels: Tensor,
            network: nn.Module,
            draw: Draw,
            teacher: nn.Module | None,
            space: Space,
        ) -> Tensor:
            self.given.append((labels, network, teacher))
            assert space == PIXELS
            moved = (images + 1e-3 * draw.normal(images)).requires_grad_()
            said = network(moved) - (teacher(moved) if teacher else 0)
            (slope,) = torch.autograd.grad(said.square().sum(), moved)
            return images + self.size * slope.sign()

        def measure(self, before: Tensor, after: Tensor) -> float:
            return float((after - before).abs().max())

    return Apart


def hung_on_what_moved() -> Any:
    class Hung(TargetKnob):
        """Soft targets, the softer the further input knobs moved the image."""

        strength: ClassVar[str] = "rate"
        softens: ClassVar[bool] = True
        given: ClassVar[list[Any]] = []

        rate: Rate

        def __call__(self, labels: Tensor, classes: int, draw: Draw, moved: Tensor | None) -> Tensor:
            self.given.append(moved)
            far = torch.zeros(len(labels)) if moved is None else moved.flatten(1).abs().mean(1).clamp(max=1)
            away = self.rate * far[:, None]
            return (1 - away) * nn.functional.one_hot(labels, classes) + away / classes

        def measure(self, before: Tensor, after: Tensor) -> float:
            return float(1 - after.gather(1, before[:, None]).mean())

    return Hung


def told_by_the_teacher() -> Any:
    class Told(LabelsKnob):
        """A share of the labels is what the teacher says; without one it is the class after it."""

        strength: ClassVar[str] = "rate"
        given: ClassVar[list[Any]] = []

        rate: Rate

        def __call__(self, labels: Tensor, classes: int, draw: Draw, answers: Callable[[], Tensor] | None) -> Tensor:
            self.given.append(answers)
            said = (labels + 1) % classes if answers is None else answers()
            return said.where(draw.uniform(labels) < self.rate, labels)

        def measure(self, before: Tensor, after: Tensor) -> float:
            return float((before != after).double().mean())

    return Told


# input


def test_an_input_knob_is_handed_labels_network_and_teacher() -> None:
    kind = apart_from_the_teacher()
    noise = Noise.model_validate({"input": {"apart": {"size": 0.1}}})
    (images, labels), student, teacher = batch(), network(1), network(2)
    seen = shown_to(student)
    lesson = Lesson(CLASSES, 5, noise, HOW, teacher)
    lesson.begin(0)
    lesson(student, images, labels)
    assert [(given[1], given[2]) for given in kind.given] == [(student, teacher)] and kind.given[0][0] is labels
    expected = kind(size=0.1)(images, labels, student, draw(5, "learns.input.apart"), teacher, PIXELS)
    assert torch.equal(seen[1], expected)  # the first was the knob's own question
    assert lesson.end()["noise/input.apart"] == pytest.approx(0.1)
    assert all(p.grad is None for p in (*teacher.parameters(), *student.parameters()))


def test_an_input_knob_is_handed_no_teacher_where_the_run_learns_alone() -> None:
    kind = apart_from_the_teacher()
    lesson = Lesson(CLASSES, 5, Noise.model_validate({"input": {"apart": {"size": 0.1}}}), CE())
    lesson.begin(0)
    lesson(network(1), *batch())
    assert kind.given[0][2] is None


def test_an_input_knob_that_asks_both_networks_trains() -> None:
    kind = apart_from_the_teacher()
    noise = Noise.model_validate({"input": {"apart": {"size": 0.02}}})
    student, teacher, (images, labels) = network(1), network(2), batch()
    before = [parameter.detach().clone() for parameter in teacher.parameters()]
    split = Split((images * 255).to(torch.uint8), labels)
    history = train(student, split, RECIPE, Lesson(CLASSES, 0, noise, HOW, teacher), 0)
    assert len(kind.given) == 4 and history[1]["train/loss"] < history[0]["train/loss"]
    assert all(torch.equal(*pair) for pair in zip(teacher.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_knob_says_how_many_passes_of_the_student_it_costs() -> None:
    kind = apart_from_the_teacher()
    assert kind(size=0.1).student_passes == 3
    for family in (InputKnob, TeacherKnob, TargetKnob, LabelsKnob):
        assert all(isinstance(each.student_passes, property) for each in family.kinds().values())


# target


def test_a_target_knob_is_handed_what_input_knobs_moved() -> None:
    kind = hung_on_what_moved()
    written = {"input": {"gaussian": {"sigma": 0.2}}, "target": {"hung": {"rate": 0.5}}}
    student, (images, labels) = network(1), batch()
    seen = shown_to(student)
    lesson = Lesson(CLASSES, 0, Noise.model_validate(written), CE())
    lesson.begin(0)
    loss, _ = lesson(student, images, labels)
    (moved,) = kind.given
    assert torch.equal(moved, seen[0] - images) and moved.abs().max() > 0.1
    soft = kind(rate=0.5)(labels, CLASSES, draw(0, "x"), seen[0] - images)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(student(seen[0]), soft))


@pytest.mark.parametrize("written", [{}, {"gaussian": {"sigma": 0}}, {"gaussian": {"sigma": 0.0, "clamp": True}}])
def test_a_target_knob_is_handed_nothing_where_no_input_knob_is_on(written: dict[str, Any]) -> None:
    kind = hung_on_what_moved()
    noise = Noise.model_validate({"input": written, "target": {"hung": {"rate": 0.5}}})
    lesson = Lesson(CLASSES, 0, noise, HOW, network(2))
    lesson.begin(0)
    lesson(network(1), *batch())
    assert kind.given == [None]


def test_moved_is_the_sum_of_all_input_knobs() -> None:
    kind, _ = hung_on_what_moved(), apart_from_the_teacher()
    points = {"gaussian": {"sigma": 0.2}, "apart": {"size": 0.1}}
    noise = Noise.model_validate({"input": points, "target": {"variability": {"rate": 0.5}, "hung": {"rate": 0.5}}})
    student, (images, labels) = network(1), batch()
    seen = shown_to(student)
    lesson = Lesson(CLASSES, 0, noise, CE())
    lesson.begin(0)
    lesson(student, images, labels)
    assert torch.equal(kind.given[0], seen[-1] - images)


# labels


def test_a_labels_knob_is_handed_no_answers_where_a_dataset_is_split() -> None:
    kind = told_by_the_teacher()
    dataset = Dataset.model_validate({"digits": {}, "labels": {"told": {"rate": 0.5}}})
    _, labels = batch(400)
    stages = relabelled(labels, labels, dataset, CLASSES)
    assert kind.given == [None] and torch.equal(stages[0], labels)
    changed = stages[1] != labels
    assert torch.equal(stages[1][changed], ((labels + 1) % CLASSES)[changed])
    assert measured(stages, dataset) == {"labels.told": float(changed.double().mean())}
    assert 0.4 < changed.double().mean() < 0.6


def test_a_labels_knob_may_ask_for_the_teachers_answers() -> None:
    kind = told_by_the_teacher()
    images, labels = batch(400)
    teacher, asked = network(2), []

    def answers() -> Tensor:
        asked.append(1)
        return teacher(images).argmax(1)

    after = kind(rate=1.0)(labels, CLASSES, draw(0, "labels.told"), answers)
    assert torch.equal(after, answers()) and asked == [1, 1]


# teacher


def test_a_teacher_knob_of_ones_own_changes_the_answer() -> None:
    class Colder(TeacherKnob):
        strength: ClassVar[str] = "by"
        by: Scale

        def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
            return (1 + self.by) * logits

        def measure(self, before: Tensor, after: Tensor) -> float:
            return float((after / before).mean() - 1)

    student, teacher, (images, labels) = network(1), network(2), batch()
    noise = Noise.model_validate({"teacher": {"colder": {"by": 0.5}, "signal_noise": {"sigma": 0}}})
    lesson = Lesson(CLASSES, 0, noise, KD(alpha=1, temperature=4), teacher)
    lesson.begin(0)
    loss, _ = lesson(student, images, labels)
    log_s, log_t = ((said / 4).log_softmax(1) for said in (student(images), 1.5 * teacher(images)))
    torch.testing.assert_close(loss, 16 * (log_t.exp() * (log_t - log_s)).sum(1).mean())
    assert lesson.end() == {
        "noise/teacher.colder": pytest.approx(0.5, abs=1e-4),
        "time/teacher": pytest.approx(0, abs=9),
    }
