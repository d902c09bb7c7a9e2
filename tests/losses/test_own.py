"""A loss that needs features is one class: it is parsed, refused, trained with, and costs one pass a network."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from kdtune.data.loading import Split
from kdtune.losses.loss import Loss
from kdtune.losses.views import Views
from kdtune.models.model import Model
from kdtune.models.networks.normalized import Normalized
from kdtune.networks import Student
from kdtune.noise.noise import Noise
from kdtune.recipe import Recipe
from kdtune.settings import Scale
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train

CLASSES = 10
RECIPE = {
    "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    "schedule": {"cosine": {"warmup": 0.2}},
    "precision": "float32",
    "batch_size": 16,
    "epochs": 4,
}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test defines is gone after it."""
    monkeypatch.setattr(Loss, "registered", dict(Loss.kinds()))


def similarity_preserving() -> Any:
    """Tung & Mori 2019, equations 1 to 4: which images of a batch are alike should be the same to both networks."""

    def gram(features: Tensor) -> Tensor:
        return functional.normalize(features @ features.T, dim=1)

    class SimilarityPreserving(Loss):
        needs_teacher: ClassVar[bool] = True
        needs_features: ClassVar[bool] = True
        seen: ClassVar[list[Views]] = []

        gamma: Scale

        def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
            self.seen.append(views)
            ce = functional.cross_entropy(views.shown.logits, views.targets)
            student, teacher = views.shown.features, views.teacher_clean.features
            assert student is not None and teacher is not None
            apart = (gram(student) - gram(teacher)).square().mean()
            return ce + self.gamma * apart, {"ce": ce, "similarity": apart}

    return SimilarityPreserving


def digits(n: int = 40) -> Split:
    numbers = torch.Generator().manual_seed(0)
    right = torch.arange(n) % CLASSES
    patterns = torch.randint(256, (CLASSES, 1, 8, 8), generator=numbers)
    noise = torch.randint(-20, 20, (n, 1, 8, 8), generator=numbers)
    return Split((patterns[right] + noise).clamp(0, 255).to(torch.uint8), right)


def cnn(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Model.model_validate({"cnn": {"width": width, "dropout": 0.2}}).build((1, 8, 8), CLASSES)


class Watch:
    """How often a network ran, and what its classifier was given."""

    def __init__(self, network: Any) -> None:
        self.passes, self.given = 0, list[Tensor]()
        network.layers[0].register_forward_hook(self.count)
        network.classifier.register_forward_pre_hook(lambda _, inputs: self.given.append(inputs[0]))

    def count(self, *_: Any) -> None:
        self.passes += 1


def test_a_loss_of_ones_own_is_parsed_by_its_name() -> None:
    kind = similarity_preserving()
    family = TypeAdapter(Loss)
    loss = family.validate_python({"similarity_preserving": {"gamma": 3000}})
    assert loss == kind(gamma=3000) and loss.dumped() == {"similarity_preserving": {"gamma": 3000}}
    student = Student.model_validate({"model": {"cnn": {"width": 4}}, "recipe": RECIPE, "loss": loss.dumped()})
    assert student.objective == loss and student.asks
    with pytest.raises(
        ValidationError, match="unknown loss 'similarity_preservin'; did you mean similarity_preserving"
    ):
        family.validate_python({"similarity_preservin": {"gamma": 3000}})
    with pytest.raises(ValidationError, match="unknown key 'gama'; did you mean gamma"):
        family.validate_python({"similarity_preserving": {"gama": 3000}})


def test_after_a_test_its_kinds_are_forgotten() -> None:
    assert "similarity_preserving" not in Loss.kinds()


@pytest.mark.parametrize("noise", [{}, {"input": {"gaussian": {"sigma": 0.1}}, "teacher": {"dropout": {"rate": 0.3}}}])
def test_features_are_what_the_classifier_was_given_in_one_pass_a_network(noise: dict[str, Any]) -> None:
    kind = similarity_preserving()
    student, teacher = cnn(4, 1), cnn(8, 2)
    seen, taught = Watch(student), Watch(teacher)
    lesson = Lesson(CLASSES, 0, Noise.model_validate(noise), kind(gamma=10), teacher)
    history = train(student, digits(), Recipe.model_validate(RECIPE), lesson, 0)
    assert len(kind.seen) == 4 * 3 == seen.passes == taught.passes == len(seen.given) == len(taught.given)
    for views, ours, theirs in zip(kind.seen, seen.given, taught.given, strict=True):
        assert torch.equal(views.shown.features, ours) and torch.equal(views.teacher_clean.features, theirs)
        assert ours.shape[1] == 16 and theirs.shape[1] == 32
        assert views.shown.features.requires_grad and not views.teacher_clean.features.requires_grad
    assert history[-1]["train/loss"] < history[0]["train/loss"]
    assert history[-1]["train/similarity"] < history[0]["train/similarity"]
    row = history[0]
    assert row["train/loss"] == pytest.approx(row["train/ce"] + 10 * row["train/similarity"], rel=1e-5)


def test_answers_with_features_are_the_networks_own_answers() -> None:
    kind = similarity_preserving()
    student, teacher = cnn(4, 1).eval(), cnn(8, 2)
    lesson = Lesson(CLASSES, 0, Noise(), kind(gamma=10), teacher)
    lesson.begin(0)
    images = torch.rand(16, 1, 8, 8)
    lesson(student, images, torch.zeros(16, dtype=torch.int64))
    (views,) = kind.seen
    assert torch.equal(views.shown.logits, student(images)) and torch.equal(views.teacher_clean.logits, teacher(images))


def test_a_normalising_teacher_has_features_too() -> None:
    kind = similarity_preserving()
    teacher = Normalized(cnn(8, 2), [0.5], [0.25])
    lesson = Lesson(CLASSES, 0, Noise(), kind(gamma=10), teacher)
    lesson.begin(0)
    images = torch.rand(16, 1, 8, 8)
    lesson(cnn(4, 1), images, torch.zeros(16, dtype=torch.int64))
    (views,) = kind.seen
    assert torch.equal(views.teacher_clean.features, teacher.network.features((images - 0.5) / 0.25))
    assert torch.equal(views.teacher_clean.logits, teacher(images))


def test_the_features_of_several_answers_are_their_mean() -> None:
    kind = similarity_preserving()
    teacher = cnn(8, 2)
    taught = Watch(teacher)
    noise = Noise.model_validate({"teacher": {"dropout": {"rate": 0.3, "passes": 3}}})
    lesson = Lesson(CLASSES, 0, noise, kind(gamma=10), teacher)
    lesson.begin(0)
    lesson(cnn(4, 1), torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64))
    assert taught.passes == 3
    torch.testing.assert_close(kind.seen[0].teacher_clean.features, torch.stack(taught.given).mean(0))


def test_a_loss_that_does_not_say_that_it_needs_features_gets_none() -> None:
    class Plain(Loss):
        needs_teacher: ClassVar[bool] = True

        def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
            assert views.shown.features is None and views.teacher_clean.features is None
            return views.shown.logits.square().mean(), {}

    student, teacher = cnn(4, 1), cnn(8, 2)
    lesson = Lesson(CLASSES, 0, Noise(), Plain(), teacher)
    lesson.begin(0)
    lesson(student, torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64))


def test_a_loss_that_asks_a_teacher_without_having_said_so_is_told() -> None:
    class Forgetful(Loss):
        def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
            return (views.shown.logits - views.teacher_clean.logits).square().mean(), {}

    lesson = Lesson(CLASSES, 0, Noise(), Forgetful())
    lesson.begin(0)
    with pytest.raises(ValueError, match="the loss forgetful asks a teacher; say so in its class: needs_teacher"):
        lesson(cnn(4, 1), torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64))
