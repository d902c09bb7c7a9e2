"""Who draws what: teachers and students of one seed apart, a student's own dropout whatever its teacher does."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdtune.data.loading import Split
from kdtune.losses.ce import CE
from kdtune.losses.dkd import DKD
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.model import Model
from kdtune.networks import Network, Student
from kdtune.noise.noise import Noise
from kdtune.randomness import draw, stream_seed
from kdtune.recipe import Recipe
from kdtune.training.lesson import Lesson
from kdtune.training.loop import TrainingState, train

CLASSES = 10
HOW = KD(alpha=0.9, temperature=4)


def written(epochs: int = 2) -> dict[str, Any]:
    return {
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
        "schedule": {"cosine": {"warmup": 0.25}},
        "augmentation": {"flip": {}},
        "precision": "float32",
        "batch_size": 16,
        "epochs": epochs,
    }


def digits(n: int = 40) -> Split:
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 1, 8, 8), generator=numbers, dtype=torch.uint8)
    return Split(images, torch.randint(CLASSES, (n,), generator=numbers))


def cnn(seed: int, dropout: float = 0.0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return Model.model_validate({"cnn": {"width": width, "dropout": dropout}}).build((1, 8, 8), CLASSES)


class Witness(nn.Module):
    """Dropout whose masks can be read, whatever passes through it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.masks = rate, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.masks.append(functional.dropout(torch.ones_like(x), self.rate, self.training))
        return x * self.masks[-1]


def masks_of(lesson: Lesson, rate: float = 0.3, epochs: int = 2, seed: int = 0) -> Tensor:
    """The student's own dropout masks in all of a run."""
    student: Any = cnn(1)
    student.dropout = Witness(rate)
    train(student, digits(), Recipe.model_validate(written(epochs)), lesson, seed)
    return torch.cat(student.dropout.masks)


def fickle(rate: float, seed: int = 0, loss: Loss = HOW, **how: Any) -> Lesson:
    noise = Noise.model_validate({"teacher": {"dropout": {"rate": rate, **how}}})
    return Lesson(CLASSES, seed, noise, loss, cnn(2, 0.1))


# a teacher and its student of one seed


def test_teacher_and_student_of_one_seed_draw_other_wrong_labels() -> None:
    noise = Noise.model_validate({"target": {"variability": {"rate": 0.5}}})
    labels, knob = torch.arange(200) % CLASSES, noise.knobs("target")["variability"]
    drawn = []
    for lesson in (Lesson(CLASSES, 3, noise, CE()), Lesson(CLASSES, 3, noise, HOW, cnn(2))):
        lesson.begin(1)
        drawn.append(knob(labels, CLASSES, lesson.draws["target.variability"], None))
    assert not torch.equal(*drawn)
    for name, found in zip(("alone", "learns"), drawn, strict=True):
        assert torch.equal(found, knob(labels, CLASSES, draw(3, f"{name}.target.variability", 1), None))
    both = ((drawn[0] != labels) & (drawn[1] != labels)).double().mean()
    assert 0.15 < both < 0.35, "a wrong label in the one says nothing about the other"


def test_teacher_and_student_of_one_seed_have_other_dropout_masks() -> None:
    alone, learns = masks_of(Lesson(CLASSES, 0, Noise(), CE())), masks_of(Lesson(CLASSES, 0, Noise(), HOW, cnn(2)))
    assert not torch.equal(alone, learns)
    agree = ((alone == 0) == (learns == 0)).double().mean()
    assert agree == pytest.approx(0.3**2 + 0.7**2, abs=0.05)


@pytest.mark.parametrize(("teacher", "name"), [(False, "alone.dropout"), (True, "learns.dropout")])
def test_an_epoch_begins_at_the_stream_of_what_the_run_is(teacher: bool, name: str) -> None:
    lesson = Lesson(CLASSES, 4, Noise(), HOW, cnn(2)) if teacher else Lesson(CLASSES, 4, Noise(), CE())
    lesson.begin(2)
    assert torch.initial_seed() == stream_seed(4, name, 2)


def test_the_teachers_masks_are_a_stream_of_its_own() -> None:
    teacher: Any = cnn(2)
    teacher.dropout = nn.Dropout(0.0)
    said: list[tuple[Tensor, Tensor]] = []
    teacher.dropout.register_forward_hook(lambda _, inputs, output: said.append((inputs[0], output)))
    noise = Noise.model_validate({"teacher": {"dropout": {"rate": 0.3}}})
    lesson = Lesson(CLASSES, 4, noise, HOW, teacher)
    lesson.begin(2)
    for _ in range(2):
        lesson(cnn(1, 0.5), torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64))
    torch.manual_seed(stream_seed(4, "learns.teacher.dropout", 2))
    for features, output in said:  # the second batch goes on where the first stopped
        assert torch.equal(output, functional.dropout(features, 0.3))
    assert len(said) == 2


# a student's own dropout


def test_a_students_masks_are_the_same_at_every_rate_of_its_teacher() -> None:
    off, low, high = (masks_of(fickle(rate)) for rate in (0.0, 0.2, 0.5))
    assert torch.equal(off, low) and torch.equal(off, high)
    assert torch.equal(off, masks_of(Lesson(CLASSES, 0, Noise(), HOW, cnn(2)))), "nor without the knob"


@pytest.mark.parametrize("how", [{"passes": 3}, {"bn": "train"}])
def test_a_students_masks_are_the_same_however_often_its_teacher_is_asked(how: dict[str, Any]) -> None:
    assert torch.equal(masks_of(fickle(0.3, **how)), masks_of(fickle(0.0)))


def test_a_students_masks_are_the_same_whatever_the_loss() -> None:
    assert torch.equal(masks_of(fickle(0.3)), masks_of(fickle(0.3, loss=DKD(alpha=1, beta=8, temperature=4))))


def test_a_students_masks_are_moved_by_the_seed() -> None:
    assert not torch.equal(masks_of(fickle(0.2)), masks_of(fickle(0.2, seed=1)))


def test_a_teacher_was_fickle_meanwhile() -> None:
    """Else the tests above would say nothing."""

    def losses(rate: float) -> float:
        return train(cnn(1, 0.3), digits(), Recipe.model_validate(written(1)), fickle(rate), 0)[0]["train/kd"]

    assert len({losses(rate) for rate in (0.0, 0.2, 0.5)}) == 3


# runs without a teacher, and resuming


def fingerprint(network: nn.Module) -> str:
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in network.state_dict().values())).hexdigest()


def test_a_run_without_teacher_draws_the_same_whatever_role_it_plays() -> None:
    """A teacher's run and that of a student who learns alone are one run, if they say the same."""
    noise = {"input": {"gaussian": {"sigma": 0.1}}, "target": {"variability": {"rate": 0.2}}}
    said = {"model": {"cnn": {"width": 4, "dropout": 0.3}}, "recipe": written(), "noise": noise}
    ends = []
    for role in (Network.model_validate(said), Student.model_validate(said)):
        objective = role.objective if isinstance(role, Student) else role.loss or CE()
        torch.manual_seed(9)
        network = role.model.build((1, 8, 8), CLASSES)
        history = train(network, digits(), role.recipe, Lesson(CLASSES, 0, role.noise, objective), 0)
        ends.append((fingerprint(network), [row["train/loss"] for row in history]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("how", [{}, {"passes": 2, "bn": "train"}])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_student_of_a_fickle_teacher_resumes_to_the_same_bytes(how: dict[str, Any], cut: int) -> None:
    recipe, kept = Recipe.model_validate(written(4)), []

    def keep(state: TrainingState, row: Any) -> None:
        kept.append(state.to_bytes())
        torch.rand(3)

    whole, again = cnn(1, 0.3), cnn(7, 0.3)
    train(whole, digits(), recipe, fickle(0.3, **how), 0, each_epoch=keep)
    torch.manual_seed(123)
    train(again, digits(), recipe, fickle(0.3, **how), 0, start=TrainingState.from_bytes(kept[cut - 1]))
    assert fingerprint(again) == fingerprint(whole)
