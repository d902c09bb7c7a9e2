"""`precision: bfloat16`: networks compute in bfloat16, all that is kept, said and minimised is float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdtune.data.loading import Split
from kdtune.losses.kd import KD, kd_loss
from kdtune.losses.loss import Loss
from kdtune.losses.views import Views
from kdtune.models.model import Model
from kdtune.noise.noise import Noise
from kdtune.recipe import Recipe
from kdtune.training.backends import torch_for
from kdtune.training.context import RunContext
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train

CLASSES = 10
HOW = KD(alpha=0.5, temperature=4)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test defines is gone after it."""
    monkeypatch.setattr(Loss, "registered", dict(Loss.kinds()))


def network(seed: int, written: Any = None) -> nn.Module:
    torch.manual_seed(seed)
    return Model.model_validate(written or {"cnn": {"width": 4}}).build((1, 8, 8), CLASSES)


def batch(n: int = 32) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 8, 8, generator=numbers), torch.arange(n) % CLASSES


def activations(network: Any) -> list[torch.dtype]:
    """What its convolutions and linear layers hand on."""
    seen: list[torch.dtype] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    return seen


def asked(precision: str) -> tuple[Any, Any, Tensor, dict[str, Tensor]]:
    student, teacher = network(1), network(2)
    lesson = Lesson(CLASSES, 0, Noise(), HOW, teacher, precision)
    lesson.begin(0)
    loss, parts = lesson(student, *batch())
    loss.backward()
    return student, teacher, loss.detach(), parts


@pytest.mark.parametrize("model", [{"cnn": {"width": 4}}, {"mlp": {"hidden": [16]}}, "wrn-10-1", "resnet-18"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_inner_activations_of_student_and_teacher_have_the_runs_precision(model: Any, precision: str) -> None:
    student, teacher = network(1, model), network(2, model)
    seen, taught = activations(student), activations(teacher)
    lesson = Lesson(CLASSES, 0, Noise(), HOW, teacher, precision)
    lesson.begin(0)
    loss, _ = lesson(student, *batch(8))
    assert set(seen) == set(taught) == {getattr(torch, precision)}
    assert loss.dtype == torch.float32


def test_logits_features_and_loss_are_float32() -> None:
    class Looking(Loss):
        needs_teacher: ClassVar[bool] = True
        needs_features: ClassVar[bool] = True
        seen: ClassVar[list[Tensor]] = []

        def __call__(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
            for answer in (views.shown, views.clean, views.teacher_shown, views.teacher_clean):
                assert answer.features is not None
                self.seen.extend((answer.logits, answer.features))
            assert not torch.is_autocast_enabled("cpu")
            ce = functional.cross_entropy(views.shown.logits, views.targets)
            return ce, {"ce": ce}

    noise = Noise.model_validate({"input": {"gaussian": {"sigma": 0.1}}, "teacher": {"signal_noise": {"sigma": 0.1}}})
    lesson = Lesson(CLASSES, 0, noise, Looking(), network(2), "bfloat16")
    lesson.begin(0)
    loss, parts = lesson(network(1), *batch())
    assert [value.dtype for value in (*Looking.seen, loss, *parts.values())] == [torch.float32] * 11


def test_weights_and_gradients_are_float32() -> None:
    student, teacher, _, _ = asked("bfloat16")
    assert {p.dtype for p in student.parameters()} == {p.grad.dtype for p in student.parameters()} == {torch.float32}
    assert {value.dtype for value in teacher.state_dict().values()} == {torch.float32, torch.int64}
    assert all(p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_bfloat16_is_near_float32_and_not_equal() -> None:
    (single, _, loss, _), (half, _, near, _) = asked("float32"), asked("bfloat16")
    assert float(near) == pytest.approx(float(loss), rel=0.02) and float(near) != float(loss)
    gradients = [torch.cat([p.grad.flatten() for p in each.parameters()]) for each in (single, half)]
    assert functional.cosine_similarity(*gradients, dim=0) > 0.99


def test_float32_enters_no_autocast_and_is_the_plain_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    def entered(_: Any) -> None:
        raise AssertionError("autocast was entered")

    monkeypatch.setattr(torch.autocast, "__enter__", entered)
    student, _, loss, _ = asked("float32")
    again, teacher, (images, labels) = network(1), network(2).eval(), batch()
    said = again(images)
    with torch.no_grad():
        taught = teacher(images)
    plain = (1 - 0.5) * functional.cross_entropy(said, labels) + 0.5 * kd_loss(said, taught, 4.0)
    plain.backward()
    assert torch.equal(loss, plain.detach())
    pairs = zip(student.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)
    with pytest.raises(AssertionError, match="autocast was entered"):
        asked("bfloat16")


def test_precision_leaves_no_trace_outside_the_networks() -> None:
    asked("bfloat16")
    assert not torch.is_autocast_enabled("cpu")
    images, _ = batch()
    assert network(1)(images).dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_reduces_the_loss_in_either_precision(precision: str) -> None:
    written = {
        "optimizer": {"adamw": {"lr": 0.01, "betas": [0.9, 0.999], "weight_decay": 0.01}},
        "schedule": {"cosine": {"warmup": 0.1}},
        "precision": precision,
        "batch_size": 16,
        "epochs": 12,
    }
    recipe, (images, labels) = Recipe.model_validate(written), batch(40)
    noise = Noise.model_validate({"input": {"gaussian": {"sigma": 0.05}}, "teacher": {"dropout": {"rate": 0.2}}})
    student = network(1)
    lesson = Lesson(CLASSES, 0, noise, HOW, network(2), recipe.precision)
    history = train(student, Split((images * 255).to(torch.uint8), labels), recipe, lesson, 0)
    assert history[-1]["train/loss"] < 0.9 * history[0]["train/loss"]
    assert history[0]["noise/teacher.dropout"] == pytest.approx(0.2, abs=0.1)
    assert all(value.dtype in (torch.float32, torch.int64) for value in student.state_dict().values())


def test_a_run_computes_with_the_weights_of_each_step(tmp_path: Path) -> None:
    """Autocast keeps what it made of weights until the outermost one ends, and a run has one around it: `torch_for`."""

    def losses(around: AbstractContextManager[Any]) -> list[float]:
        student, (images, labels) = network(1), batch(64)
        split = Split((255 * images).to(torch.uint8), labels)
        written = {
            "optimizer": {"sgd": {"lr": 0.1}},
            "schedule": {"step": {"milestones": [0.9], "factor": 0.1}},
            "precision": "bfloat16",
            "batch_size": 16,
            "epochs": 3,
        }
        lesson = Lesson(CLASSES, 0, Noise(), HOW, network(2), "bfloat16")
        with around:
            history = train(student, split, Recipe.model_validate(written), lesson, 0)
        return [row["train/loss"] for row in history]

    run: Any = SimpleNamespace(seed=0)
    nowhere: Any = None  # no store is asked
    context = RunContext(nowhere, tmp_path)
    assert losses(torch_for(run, context)) == losses(nullcontext())
