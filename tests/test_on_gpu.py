"""Whatever a run does is done where its tensors lie: on a simulated GPU, each kind gives what it gives on the CPU, and
no step of training makes the CPU wait."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
import torch
from evaluation.test_metrics import DIGITS, ENTRIES, WHOLE
from losses.test_losses import every_loss
from noise.test_knobs import every_knob, make
from pydantic import TypeAdapter
from simulated_gpu import OnGpu, simulated_gpu, waits
from torch import Tensor, nn
from training.test_captured import Again

import kdtune.training.run
from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, load
from kdtune.evaluation.accuracy import Accuracy
from kdtune.evaluation.evaluator import EvaluationError, Evaluator, Measurement
from kdtune.evaluation.plane import Plane
from kdtune.evaluation.subject import Context, Subject
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.small import CNN, MLP
from kdtune.noise.knob import Knob
from kdtune.noise.noise import Noise
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step as Steps
from kdtune.planning.plan import Plan, build_plan
from kdtune.randomness import seeded
from kdtune.recipe import Augmentation, Crop, Recipe
from kdtune.store.layout import WEIGHTS
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.captured import Capture
from kdtune.training.context import RunContext
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train
from kdtune.training.network import placed
from kdtune.training.run import perform

DEVICES = ("cpu", "cuda")
POINTS = TypeAdapter(Dataset).validate_python({"points": {"count": 12, "dimension": 2, "classes": 2}})
RECIPE = Recipe(
    optimizer=SGD(lr=0.05, momentum=0.9), schedule=Steps(milestones=(0.5,), factor=0.1), precision="float32",
    batch_size=16, epochs=2, augmentation=Augmentation(crop=Crop(padding=1, mode="zero")),
)  # fmt: skip


def test_the_simulation_refuses_what_a_gpu_refuses() -> None:
    with simulated_gpu():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert there.device.type == "cuda" and (there + 1).device.type == "cuda" and not isinstance(there.cpu(), OnGpu)
        assert torch.equal((there + here.to("cuda")).cpu(), here + 1) and there[torch.arange(2)].shape == (2,)
        for wrong in (
            lambda: there + here,
            lambda: here[torch.arange(2, device="cuda")],
            lambda: nn.Linear(3, 2)(there),
            lambda: torch.cat([there, here]),
            lambda: torch.stack([there.sum(), here.sum()]),
            lambda: here.sum().add_(there.sum()),
            lambda: there.clone().index_put_((torch.arange(2),), here[:2]),
            lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
            lambda: torch.rand(3, generator=torch.Generator("cuda")),
        ):
            with pytest.raises(RuntimeError, match="device"):
                wrong()
        assert torch.equal((there + here.sum()).cpu(), here + 3), "a number may stay behind"
        for look in (
            *(lambda: float(there.sum()), lambda: there[there > 0], there.cpu, lambda: bool(there.all())),
            *(there.tolist, lambda: there[torch.arange(2)], lambda: there.clone().copy_(here)),
            *(lambda: torch.tensor([1.0], device="cuda"), lambda: there.new_tensor(1.0)),
            *(there.unique, lambda: there.long().bincount(), lambda: torch.allclose(there, there)),
        ):
            waits.clear()
            look()
            assert waits, "a look waits for the GPU"
        for to_numpy in (there.numpy, lambda: np.asarray(there)):
            with pytest.raises(TypeError, match="numpy"):
                to_numpy()
    assert not hasattr(torch.Generator, "held") and torch.Generator("cpu").device.type == "cpu"


def on_each(do: Any) -> tuple[Any, Any]:
    """What `do(device)` gives on the CPU and on the simulated GPU."""
    here = do("cpu")
    with simulated_gpu():
        return here, do("cuda")


def network(seed: int, device: str, data: Data, dropout: float = 0.0) -> nn.Module:
    with seeded(seed, "test"):
        model = MLP(hidden=(8,)) if data.shape == (2, 1, 1) else CNN(width=4, dropout=dropout)
        return placed(model.build(data.shape, data.classes), device)


def trained(data: Data, device: str, loss: Loss, noise: Noise | None = None) -> tuple[dict[str, Tensor], list[Any]]:
    """Weights on the CPU, and the history without times."""
    student = network(1, device, data, dropout=0.2)
    teacher = network(2, device, data) if loss.asks or (noise and noise.knobs("teacher")) else None
    lesson = Lesson(data.classes, 0, noise or Noise(), loss, teacher, "float32", device)
    history = train(student, data.train, RECIPE, lesson, 0)
    weights = {name: value.cpu() for name, value in student.state_dict().items()}
    return weights, [{key: value for key, value in row.items() if "time/" not in key} for row in history]


def alike(here: tuple[Any, Any], there: tuple[Any, Any]) -> None:
    """To what another order of sums and rates in float32 leave of it."""
    for name, value in here[0].items():
        torch.testing.assert_close(there[0][name], value, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(here[1], there[1], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-3, nan_ok=True)


def waits_in_steps(data: Data, loss: Loss, noise: Noise | None = None) -> list[str]:
    """What four batches more of an epoch make the CPU wait for, on the simulated GPU."""
    found = []
    for batches in (1, 5):
        with simulated_gpu():
            there = replace(data, train=data.train[torch.arange(16 * batches)].to("cuda"))
            waits.clear()
            trained(there, "cuda", loss, noise)
            found.append(Counter(waits))
    return [*(found[1] - found[0])]


@every_loss
def test_every_loss(loss: Loss, tmp_path: Path) -> None:
    alike(*on_each(lambda device: trained(load(DIGITS, tmp_path, device), device, loss)))
    assert waits_in_steps(load(WHOLE, tmp_path), loss) == []


@every_knob
def test_every_knob(point: str, kind: type[Knob], others: dict[str, Any], tmp_path: Path) -> None:
    knob = {kind.key: make(kind, 0.2, others).model_dump()}
    if point == "labels":
        dataset = DIGITS.model_copy(update={"labels": (make(kind, 0.2, others),)})

        def labels(device: str) -> Tensor:
            guide = network(2, device, load(DIGITS, tmp_path, device))
            answer = lambda images: guide(images.to(device).float() / 255).argmax(1).cpu()  # noqa: E731
            return load(dataset, tmp_path, device, answer=torch.no_grad()(answer)).train.labels.cpu()

        here, there = on_each(labels)
        assert torch.equal(here, there)
        return
    points: dict[str, Any] = {point: knob}
    if kind.key == "calibrated":  # which asks how far images were moved
        points["input"] = {"pgd": {"eps": 1.0, "step": 0.1, "steps": 2, "norm": others.get("norm", "linf")}}
    noise = Noise.model_validate(points)
    loss = KD(alpha=0.9, temperature=4)
    alike(*on_each(lambda device: trained(load(DIGITS, tmp_path, device), device, loss, noise)))
    assert waits_in_steps(load(WHOLE, tmp_path), loss, noise) == []


@pytest.mark.parametrize("entry", [*ENTRIES, Plane(resolution=5)], ids=lambda each: each.key)
def test_every_evaluator(entry: Evaluator, tmp_path: Path) -> None:
    """The network is trained on the CPU, so that both measure the same."""
    dataset = POINTS if entry.key == "plane" else DIGITS
    data = load(dataset, tmp_path)
    student = network(1, "cpu", data)
    long = RECIPE.model_copy(update={"epochs": 15, "augmentation": Augmentation()})
    train(student, data.train, long, Lesson(data.classes, 0, Noise(), KD(alpha=0.1, temperature=4), student), 0)
    weights = student.eval().state_dict()

    def measured(device: str) -> Measurement:
        def copy(*_: Any) -> nn.Module:
            made = network(1, device, data)
            made.load_state_dict(weights)
            return made.eval()

        where = Context(tmp_path, device)
        there = load(dataset, tmp_path, device)
        subject = Subject(copy(), there, where, ask_teacher=lambda: network(2, device, data).eval(), ask_weights=copy)
        try:
            return entry.measured(subject)
        except EvaluationError as missing:
            pytest.skip(str(missing))

    here, there = on_each(measured)
    assert here.metrics.keys() == there.metrics.keys() and here.arrays.keys() == there.arrays.keys()
    for name, value in here.metrics.items():  # an image in twenty may fall the other way
        assert there.metrics[name] == pytest.approx(value, rel=0.02, abs=5.1), name


SWEEP = """\
name: small
dataset: {digits: {}, train_size: 100, validation: 0.2}
seeds: 1
grid:
  - {rate: 0.2, kd: {alpha: 0.9, temperature: 4}}
  - {rate: 0.0, kd: {alpha: 0.9, temperature: 4, responses: stored}}
recipe:
  optimizer: {adam: {lr: 0.01, betas: [0.9, 0.999]}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 20
  epochs: 3
  keep: {best: val/accuracy}
teacher: {model: {cnn: {width: 4, dropout: $rate}}, seeds: 2, select: {rule: best, metric: val/accuracy}}
student:
  model: {cnn: {width: 4}}
  distillation: $kd
  noise: {teacher: {dropout: {rate: $rate}}}
evaluation: [accuracy]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "small.yaml").write_text(SWEEP)
    return build_plan(load_sweep(tmp_path / "small.yaml"), tmp_path)


class Killed(BaseException):
    """Its process is gone."""


def test_whole_runs_are_trained_resumed_stored_and_measured_late(plan: Plan, tmp_path: Path) -> None:
    def kill(history: list[Any]) -> None:
        if len(history) == 2:
            raise Killed

    def done(device: str) -> dict[str, dict[str, Any]]:
        context = RunContext(Store(tmp_path / device), tmp_path, device, checkpoint_every=0)
        for planned in plan.runs.values():
            with pytest.raises(Killed):
                perform(planned.run, (), replace(context, report=kill))
            ended = perform(planned.run, (), context)
            assert ended.state == "done", ended.traceback
            late = perform(planned.run, (Accuracy(),), context)
            assert late.state == "done", late.traceback
        standing = Standing(context.store, [Accuracy().hash])
        return {id: dict(standing.measured(id)) for id in plan.runs}

    here, there = on_each(done)
    assert len(here) == 6
    for id, metrics in here.items():
        assert metrics and there[id] == pytest.approx(metrics, rel=0.05, abs=3)
    kept = Store(tmp_path / "cuda")
    (first, *_) = plan.runs
    assert kept.file(first, kept.done(first), WEIGHTS), "which any machine can read"


def test_captured_steps_of_whole_runs_are_the_eager_ones(plan: Plan, tmp_path: Path, monkeypatch: Any) -> None:
    """All but the recording, which is of steps that are taken again."""
    monkeypatch.setattr(kdtune.training.run, "Capture", partial(Capture, Again))

    def weights(captured: bool) -> dict[str, bytes]:
        store = Store(tmp_path / str(captured))
        context = RunContext(store, tmp_path, "cuda", captured=captured)
        for planned in plan.runs.values():
            ended = perform(planned.run, (Accuracy(),), context)
            assert ended.state == "done", ended.traceback
        origins = [stored.provenance(store, id) for id in plan.runs]
        assert {origin.get("steps") for origin in origins} == {"captured" if captured else None}
        return {id: store.file(id, store.done(id), WEIGHTS) for id in plan.runs}

    with simulated_gpu():
        eager, Again.replays = weights(captured=False), 0
        assert weights(captured=True) == eager and Again.replays
