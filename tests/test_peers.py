"""Faults that other distillation codes have or had; a test each, named after the fault.

Where the fault is a formula, the test also shows that it would see it: the check is put to a copy of the faulty one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import subject
from torch import Tensor, nn
from torch.nn import functional

from kdtune.data.loading import Data, Split
from kdtune.evaluation.accuracy import Accuracy
from kdtune.evaluation.evaluator import EvaluationError, predict
from kdtune.losses.ce import CE
from kdtune.losses.kd import KD, kd_loss
from kdtune.models.networks.normalized import Normalized
from kdtune.networks import Select
from kdtune.noise.input import Gaussian
from kdtune.noise.labels import Corruption
from kdtune.noise.noise import Noise
from kdtune.noise.target import Variability
from kdtune.noise.teacher import Dropout, SignalNoise, Swap
from kdtune.planning.plan import build_plan
from kdtune.randomness import draw, stream_seed
from kdtune.recipe import Recipe
from kdtune.report.tensorboard import Events
from kdtune.run import Run
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train

CLASSES = 10
HOW = KD(alpha=0.9, temperature=4)
SWAP = Swap(rate=0.5, pairs="top2", threshold=1.0, temperature=4)
Redraw = Callable[[Tensor], Tensor]  # labels to labels, another batch at every call


def noise(**points: Any) -> Noise:
    return Noise.model_validate(points)


def convolutional(seed: int = 0, dropout: float = 0.3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(144, CLASSES))


def batch(size: int = 32) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return torch.rand(size, 1, 8, 8, generator=numbers), torch.randint(CLASSES, (size,), generator=numbers)


def digits(size: int = 40) -> Split:
    images, labels = batch(size)
    return Split((images * 255).to(torch.uint8), labels)


def recipe(epochs: int = 3) -> Recipe:
    written = {
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
        "schedule": {"step": {"milestones": [0.5], "factor": 0.1}},
        "augmentation": {"crop": {"padding": 1, "mode": "reflect"}, "flip": {}},
        "precision": "float32",
        "batch_size": 16,
        "epochs": epochs,
    }
    return Recipe.model_validate(written)


def ours(knob: Any) -> Redraw:
    stream = draw(0, "x")
    return lambda labels: knob(labels, CLASSES, stream)


every_redraw = pytest.mark.parametrize(
    "knob",
    [Variability, Corruption, lambda rate: Variability(rate=rate, classes="any")],
    ids=["variability", "corruption", "any"],
)


# noise on images


def test_multiplicative_input_noise() -> None:
    def check(noised: Callable[[Tensor], Tensor]) -> None:
        black, white = (noised(torch.full((64, 1, 8, 8), value)) - value for value in (0.0, 1.0))
        assert float(black.std()) == pytest.approx(float(white.std()), rel=0.1)

    check(lambda images: Gaussian(sigma=0.1)(images, torch.zeros(64), nn.Identity(), draw(0, "x")))
    with pytest.raises(AssertionError):
        check(lambda images: images * (1 + 0.1 * torch.randn_like(images)))


# noise on labels


@every_redraw
def test_wrong_labels_drawn_from_the_number_of_channels(knob: Any) -> None:
    def check(redraw: Redraw) -> None:
        labels = torch.full((3000,), 5)
        assert set(redraw(labels).tolist()) == set(range(CLASSES))

    check(ours(knob(rate=0.9)))
    with pytest.raises(AssertionError):
        check(lambda labels: torch.where(torch.rand(len(labels)) < 0.9, torch.randint(3, labels.shape), labels))


@every_redraw
def test_the_first_k_of_every_batch_corrupted(knob: Any) -> None:
    def check(redraw: Redraw) -> None:
        labels = batch(32)[1]
        hits = torch.stack([redraw(labels) != labels for _ in range(400)]).double().mean(0)
        assert hits.max() < 0.35 and hits.min() > 0.08, "every place of a batch is hit alike"

    def first_k(labels: Tensor) -> Tensor:
        k = int(0.2 * len(labels))
        return torch.cat([(labels[:k] + torch.randint(1, CLASSES, (k,))) % CLASSES, labels[k:]])

    check(ours(knob(rate=0.2)))
    with pytest.raises(AssertionError):
        check(first_k)


@every_redraw
def test_a_rate_that_floors_to_nothing(knob: Any) -> None:
    """0.02 of a batch of 32 is 0.64 labels: int() makes it none."""

    def check(redraw: Redraw) -> None:
        labels = batch(32)[1]
        wrong = sum(int((redraw(labels) != labels).sum()) for _ in range(2000)) / (2000 * 32)
        assert wrong == pytest.approx(0.02, rel=0.2)

    check(ours(knob(rate=0.02)))
    with pytest.raises(AssertionError):
        check(lambda labels: torch.cat([torch.full((int(0.02 * 32),), 0), labels[int(0.02 * 32) :]]))


# noise on the teacher


@pytest.mark.parametrize(
    "knob",
    [SignalNoise(sigma=0.3), SignalNoise(sigma=0.3, per="sample"), SWAP],
    ids=["signal_noise", "signal_noise per sample", "swap"],
)
def test_teacher_noise_drawn_once_for_a_whole_batch(knob: Any) -> None:
    def check(noised: Callable[[Tensor], Tensor]) -> None:
        logits = torch.tensor([[3.0, 2.0, 1.0, -1.0]]).repeat(256, 1)
        assert len(noised(logits).unique(dim=0)) > 1, "equal samples get unequal noise"

    check(lambda logits: knob(logits, draw(0, "x")))
    with pytest.raises(AssertionError):
        check(lambda logits: logits * (1 + 0.3 * torch.randn(logits.shape[1])))


def test_dropout_drawn_once_for_a_whole_batch() -> None:
    teacher = convolutional()
    lesson = Lesson(CLASSES, 0, noise(teacher={"dropout": {"rate": 0.3}}), HOW, teacher)
    lesson.begin(0)
    assert len(lesson._answer(batch(1)[0].repeat(64, 1, 1, 1)).logits.unique(dim=0)) > 1


def test_a_fickle_teacher_made_impossible_by_a_pinned_eval_mode() -> None:
    teacher, images = convolutional(dropout=0.0).eval(), batch()[0]
    lesson = Lesson(CLASSES, 0, noise(teacher={"dropout": {"rate": 0.3}}), HOW, teacher)
    for epoch in range(2):
        lesson.begin(epoch)
        assert not torch.equal(lesson._answer(images).logits, lesson._answer(images).logits)


def test_a_new_teacher_left_in_train_mode_whose_batch_statistics_drift() -> None:
    teacher = convolutional().train()
    before = copy.deepcopy(teacher.state_dict())
    for knobs in (noise(), noise(teacher={"dropout": {"rate": 0.3, "bn": "train"}})):
        lesson = Lesson(CLASSES, 0, knobs, HOW, teacher)
        lesson.begin(0)
        for _ in range(3):
            lesson(convolutional(1), *batch())
        assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_dropout_silently_on_where_only_batch_normalisation_is_frozen() -> None:
    teacher, images = convolutional(dropout=0.5).train(), batch()[0]
    lesson = Lesson(CLASSES, 0, noise(teacher={"signal_noise": {"sigma": 0.0}}), HOW, teacher)
    lesson.begin(0)
    assert torch.equal(lesson._answer(images).logits, lesson._answer(images).logits)


def test_a_teacher_outside_no_grad() -> None:
    teacher, answers = convolutional(), []
    teacher.register_forward_hook(lambda *call: answers.append(call[2]))
    lesson = Lesson(CLASSES, 0, noise(teacher={"dropout": {"rate": 0.3, "bn": "train", "passes": 2}}), HOW, teacher)
    lesson.begin(0)
    lesson(convolutional(1), *batch())[0].backward()
    assert len(answers) == 2 and not any(answer.requires_grad for answer in answers)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_answers_of_the_teacher_for_other_crops_than_the_students() -> None:
    """Remembered answers would be for the image as it was cropped the first time."""
    teacher, student, split = convolutional().eval(), convolutional(1), digits()
    to_teacher: list[Tensor] = []
    to_student: list[Tensor] = []
    teacher.register_forward_pre_hook(lambda _, images: to_teacher.append(images[0]))
    student.register_forward_pre_hook(lambda _, images: to_student.append(images[0]))
    train(student, split, recipe(2), Lesson(CLASSES, 0, noise(), HOW, teacher), 0)
    assert len(to_teacher) == len(to_student) == 6
    assert all(torch.equal(*pair) for pair in zip(to_teacher, to_student, strict=True))
    first, second = (torch.cat(to_teacher[half]).flatten(1).sum(1).sort().values for half in (slice(3), slice(3, 6)))
    assert not torch.equal(first, second), "the crops of the second epoch are others"


def test_lessons_of_one_process_that_share_their_behaviour() -> None:
    lessons = []
    for rate in (0.1, 0.6):
        teacher = convolutional()
        lessons.append((teacher, Lesson(CLASSES, 0, noise(teacher={"dropout": {"rate": rate}}), HOW, teacher)))
    for _, lesson in lessons:
        lesson.begin(0)
    logged = []
    for _, lesson in lessons:
        lesson(convolutional(1), *batch())
        logged.append(lesson.end()["noise/teacher.dropout"])
    assert logged == [pytest.approx(0.1, abs=0.03), pytest.approx(0.6, abs=0.05)]
    assert [teacher[3].p for teacher, _ in lessons] == [0.1, 0.6]


# the loss and the loop


def test_a_kd_term_shrunk_by_the_number_of_classes() -> None:
    """KLDivLoss(reduction="mean") divides by images times classes; doubling the classes must not halve the term."""

    def check(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        student, teacher = torch.randn(2, 16, CLASSES, generator=torch.Generator().manual_seed(0)).double()
        nowhere = torch.full((16, 90), -1e3, dtype=torch.float64)  # classes that neither thinks possible
        wider = loss(torch.cat([student, nowhere], 1), torch.cat([teacher, nowhere], 1))
        assert wider.item() == pytest.approx(loss(student, teacher).item())

    def shrunk(student: Tensor, teacher: Tensor) -> Tensor:
        every_class = functional.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="none")
        return 16 * every_class.mean()

    check(lambda student, teacher: kd_loss(student, teacher, 4.0))
    with pytest.raises(AssertionError):
        check(shrunk)


def test_an_eval_mode_that_sticks_after_the_first_epoch() -> None:
    student, modes = convolutional(), []
    student.register_forward_pre_hook(lambda network, _: modes.append(all(m.training for m in network.modules())))

    def validate(state: Any, row: Any) -> None:
        student.eval()

    train(student, digits(), recipe(3), Lesson(CLASSES, 0, noise(), CE()), 0, each_epoch=validate)
    assert len(modes) == 9 and all(modes)


def test_the_best_network_chosen_by_noisy_training_accuracy() -> None:
    """A metric of training chooses nothing: neither a teacher nor, for there is no such setting, an epoch."""
    with pytest.raises(ValueError, match="train/accuracy"):
        Select(rule="best", metric="train/accuracy")
    network, kept = convolutional(), []
    train(network, digits(), recipe(3), Lesson(CLASSES, 0, noise(), CE()), 0,
          each_epoch=lambda state, row: kept.append(copy.deepcopy(state.network)))  # fmt: skip
    assert all(torch.equal(value, kept[-1][name]) for name, value in network.state_dict().items())


def test_a_choice_on_test_data_outside_the_papers_own_profile(write_sweep: Any, small_sweep: str) -> None:
    path = write_sweep(small_sweep.replace("val/accuracy", "test/accuracy") + "profiles: {quick: {seeds: 1}}\n")
    with pytest.raises(SweepFileError, match="only the paper profile may choose by test data"):
        load_sweep(path, "quick")


def test_a_constant_step_in_tensorboard(write_sweep: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    id, planned = next(iter(plan.runs.items()))
    events = Events(tmp_path, plan)
    events.append(id, [{"epoch": epoch, "train/loss": 1 / epoch} for epoch in (1, 2, 3)])
    read = EventAccumulator(str(tmp_path / "tensorboard" / "runs" / planned.name)).Reload()
    assert [point.step for point in read.Scalars("train/loss")] == [1, 2, 3]


# identity and measurement


def test_a_teacher_known_by_the_name_of_a_folder() -> None:
    """A run is what made it: the same name with other content is another run, another path is the same one."""
    stated = {"dataset": "digits", "model": "wrn-10-1", "recipe": recipe(), "seed": 0}
    folders = [{"folder": {"path": path, "name": "Mine"}} for path in ("/runs/wrn-40-2", "/runs/resnet-18")]
    same = {Run(**{**stated, "dataset": folder}, content={"name": "Mine", "digest": "1"}).id for folder in folders}
    other = Run(**stated, content={"name": "Mine", "digest": "2"}).id
    assert len(same) == 1 and other not in same


def test_images_normalised_twice() -> None:
    """Training and evaluation both hand over pixels in [0, 1]; the network alone normalises, once."""
    inner, outer, seen = nn.Flatten(), [], []
    inner.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    network = nn.Sequential(Normalized(inner, [0.5], [0.25]), nn.Linear(64, CLASSES))
    network.register_forward_pre_hook(lambda _, images: outer.append(images[0]))
    split = digits()
    train(network, split, recipe(1), Lesson(CLASSES, 0, noise(), CE()), 0)
    predict(network, split.images)
    assert all(images.min() >= 0 and 0.9 < images.max() <= 1 for images in outer)
    assert all(torch.equal(inside, (images - 0.5) / 0.25) for inside, images in zip(seen, outer, strict=True))


def test_a_random_model_measured_as_if_it_were_robust() -> None:
    class Random(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.randn(len(images), CLASSES)

    data = Data("Blots", tuple(map(str, range(CLASSES))), (1, 8, 8), digits(), None, digits(), {})
    with pytest.raises(EvaluationError, match="noise source is still on"):
        Accuracy().measure(subject(Random(), data))
    fickle = convolutional(dropout=0.5)
    Dropout(rate=0.5).prepare(fickle)  # a teacher still fickle is measured without its noise
    plain = Accuracy().measure(subject(convolutional(dropout=0.0).eval(), data)).arrays["test/softmax"]
    np.testing.assert_array_equal(Accuracy().measure(subject(fickle, data)).arrays["test/softmax"], plain)


def test_dropout_that_depends_on_what_ran_before_in_the_process() -> None:
    lesson = Lesson(CLASSES, 3, noise(), CE())
    torch.rand(1000)
    lesson.begin(1)
    first = functional.dropout(torch.ones(100))
    torch.manual_seed(stream_seed(3, "alone.dropout", 1))
    assert torch.equal(first, functional.dropout(torch.ones(100)))
