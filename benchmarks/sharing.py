"""Several students on one GPU, for `gpu.py`.

Each trains in a process of its own, side by side, as `--gpus-per-run auto` tries it; by way of MPS, where NVIDIA's
control program is there and may be started, in a folder of its own; or on a stream each of one process. A packed
student is as a lone one where its weights after the same steps are the same bits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from kdtune.data.loading import Split
from kdtune.losses.kd import KD
from kdtune.models.model import Model
from kdtune.noise.noise import Noise
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step
from kdtune.planning.plan import build_plan
from kdtune.recipe import Augmentation, Crop, Flip, Recipe
from kdtune.sweepfile.load import load_sweep
from kdtune.training.captured import Capture
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train_epoch
from kdtune.training.network import build_network, placed
from kdtune.training.together import Part, together

CLASSES, SIDE, NOWHERE = 10, 32, Path("nowhere")
AUGMENTATION = Augmentation(crop=Crop(padding=4, mode="reflect"), flip=Flip())
SWEEP = """\
name: sharing
dataset: cifar10
seeds: 1
recipe:
  optimizer: {{sgd: {{lr: 0.1, momentum: 0.9, weight_decay: 5e-4}}}}
  schedule: {{step: {{milestones: [0.3, 0.6, 0.8], factor: 0.2}}}}
  augmentation: {{crop: {{padding: 4, mode: reflect}}, flip: {{}}}}
  precision: bfloat16
  batch_size: {batch}
  epochs: 200
teacher: {{model: {teacher}, select: {{rule: paired}}}}
student: {{model: {student}, distillation: {{alpha: 0.9, temperature: 4, responses: stored}}}}
evaluation: [accuracy]
"""


@dataclass(frozen=True)
class Size:
    """Of what is measured; `steps` of full batches make an epoch."""

    student: str = "wrn-16-2"
    teacher: str = "wrn-40-2"
    batch: int = 128
    steps: int = 50
    seconds: float = 4.0  # that students side by side train for

    @classmethod
    def tiny(cls) -> Size:
        return cls("wrn-10-1", "wrn-10-1", batch=8, steps=2, seconds=0.5)


def drawn(size: Size) -> tuple[Tensor, Tensor]:
    """Random images uint8 [N, 3, 32, 32] and labels: time does not hang on them."""
    generator = torch.Generator().manual_seed(0)
    count = size.batch * size.steps
    return (
        torch.randint(256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        torch.randint(CLASSES, (count,), generator=generator),
    )


def pair(size: Size, device: str) -> tuple[nn.Module, nn.Module]:
    """A student and its teacher."""

    def made(name: str, seed: int) -> nn.Module:
        model = TypeAdapter(Model).validate_python(name)
        return placed(build_network(model, None, seed, (3, SIDE, SIDE), CLASSES), device)

    return made(size.student, 0), made(size.teacher, 1)


def epoch_of(
    size: Size,
    device: str,
    precision: str,
    *,
    stored: bool,
    capture: Capture | None,
    last: bool,
) -> Callable[[], None]:
    """An epoch of what a run does; `last`: channels last."""
    images, labels = drawn(size)
    split = Split(images, labels).to(device)
    if stored:
        kept = torch.randn(len(images), AUGMENTATION.views, CLASSES, generator=torch.Generator().manual_seed(1))
        split = replace(split, answers=kept.half().to(device))
    layout = torch.channels_last if last else torch.contiguous_format
    network, teacher = (each.to(memory_format=layout) for each in pair(size, device))  # type: ignore[call-overload]
    recipe = Recipe(
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=Step(milestones=(), factor=1.0),
        augmentation=AUGMENTATION,
        precision=precision,
        batch_size=size.batch,
        epochs=1,
    )
    lesson = Lesson(CLASSES, 0, Noise(), KD(alpha=0.9, temperature=4), teacher, precision, device)
    optimizer = recipe.optimizer.build(network.parameters())

    def epoch() -> None:
        train_epoch(network, optimizer, split, recipe, lesson, 0, 0, capture)

    return epoch


def synchronized(do: Callable[[], object], device: str) -> None:
    do()
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def mps() -> Iterator[bool]:
    """NVIDIA's daemon that lets processes share a GPU's cores, in a folder of its own; False where there is none."""
    if shutil.which("nvidia-cuda-mps-control") is None:
        yield False
        return
    with tempfile.TemporaryDirectory() as folder:
        place = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = os.environ | place
        began = subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, capture_output=True, check=False)
        os.environ.update(place)
        try:
            yield began.returncode == 0
        finally:
            for name in place:
                os.environ.pop(name)
            quits = ["nvidia-cuda-mps-control"]
            subprocess.run(quits, input="quit\n", text=True, env=environment, capture_output=True, check=False)


def on_streams(count: int, size: Size) -> dict[str, float]:
    """As many captured students in this process, an epoch of each in turn on a stream of its own."""
    streams = [torch.cuda.Stream() for _ in range(count)]
    epochs = [epoch_of(size, "cuda", "bfloat16", stored=True, capture=Capture(), last=False) for _ in streams]

    def once() -> None:
        for stream, epoch in zip(streams, epochs, strict=True):
            with torch.cuda.stream(stream):
                epoch()
        torch.cuda.synchronize()

    once()
    began, times = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < size.seconds:
        once()
        times += 1
    images = times * count * size.batch * size.steps / spent
    return {"images": images, "memory": torch.cuda.max_memory_reserved() / 1e9}


def part(size: Size, device: str) -> Part:
    """A student with stored answers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sharing.yaml")
        file.write_text(SWEEP.format(teacher=size.teacher, student=size.student, batch=size.batch))
        teacher, student = build_plan(load_sweep(file), Path(folder)).runs.values()
    return Part(student.run.model_dump_json(), [teacher.run.model_dump_json()], device)


def measured(size: Size, device: str, counts: Sequence[int]) -> dict[str, dict[str, object]]:
    """Images a second of all students together, by how many share the device and how."""
    found: dict[str, dict[str, object]] = {}

    def tried(way: str) -> None:
        told = together(part(size, device), most=counts[-1], seconds=size.seconds)
        alike = {"alike": told.alike, "room": told.room}
        found.update({f"{count} processes{way}": {"images": rate, **alike} for count, rate in told.rates.items()})

    tried("")
    if device != "cuda":
        return found
    with mps() as there:
        if there:
            tried(", MPS")
        else:
            print("left out, for NVIDIA's daemon cannot be started: MPS")
    for count in counts[1:]:
        found[f"{count} streams"] = {**on_streams(count, size), "alike": None}
    return found
