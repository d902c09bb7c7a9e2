"""A student's step of training beside the loop that one would otherwise write: `python benchmarks/step.py`.

    python benchmarks/step.py [STUDENT TEACHER] [--rounds 5] [--steps 2] [--batch 128]

The usual loop: torchvision's transforms on PIL images in a DataLoader, float32, channels first, the teacher asked at
every step, torch's plain SGD. Ours is what a run does: `train_epoch` and its `Lesson`, in float32 and in bfloat16, with
the teacher asked and with its answers stored (warm: they are there already; what they cost once is the last line). One
thread; images are random, as time does not hang on them. Both learn from one teacher by one loss
(tests/test_benchmarks.py).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import measuring
import numpy as np
import torch
from peer import torchdistill
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdtune.data.loading import Split, inputs
from kdtune.losses.kd import KD
from kdtune.models.model import Model
from kdtune.noise.noise import Noise
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step
from kdtune.recipe import Augmentation, Crop, Flip, Recipe
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train_epoch
from kdtune.training.network import build_network, placed

CLASSES, SIDE = 10, 32
ALPHA, TEMPERATURE = 0.9, 4.0
AUGMENTATION = Augmentation(crop=Crop(padding=4, mode="reflect"), flip=Flip())
ASKING = "the teacher's answers alone"
EPOCHS, STUDENTS = 200, 5  # over which stored answers are paid for


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR-10 gives them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        crop = transforms.RandomCrop(SIDE, padding=4, padding_mode="reflect")
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def network(name: str, seed: int, *, channels_first: bool = False) -> nn.Module:
    """As a run has it; `channels_first`: as most code does."""
    model = TypeAdapter(Model).validate_python(name)
    made = placed(build_network(model, None, seed, (3, SIDE, SIDE), CLASSES), "cpu")
    return made.to(memory_format=torch.contiguous_format) if channels_first else made


def distilled(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Hinton et al. 2015, as most code has it."""
    said, wanted = functional.log_softmax(student / TEMPERATURE, 1), functional.softmax(teacher / TEMPERATURE, 1)
    soft = functional.kl_div(said, wanted, reduction="batchmean")
    return (1 - ALPHA) * functional.cross_entropy(student, labels) + ALPHA * TEMPERATURE**2 * soft


def usual(student: nn.Module, teacher: nn.Module, loader: DataLoader[Any]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=5e-4)
    teacher.eval()

    def epoch() -> None:
        student.train()
        for images, labels in loader:
            with torch.no_grad():
                answers = teacher(images)
            loss = distilled(student(images), answers, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def ours(student: nn.Module, teacher: nn.Module, split: Split, batch: int, precision: str) -> Callable[[], None]:
    recipe = Recipe.model_validate(
        {
            "optimizer": SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
            "schedule": Step(milestones=(), factor=1.0),
            "augmentation": AUGMENTATION,
            "precision": precision,
            "batch_size": batch,
            "epochs": 1,
        }
    )
    lesson = Lesson(CLASSES, 0, Noise(), KD(alpha=ALPHA, temperature=TEMPERATURE), teacher, precision)
    optimizer = recipe.optimizer.build(student.parameters())

    def epoch() -> None:
        train_epoch(student, optimizer, split, recipe, lesson, 0, 0)

    return epoch


def ways(student: str, teacher: str, batch: int, steps: int) -> Iterator[tuple[str, Callable[[], None]]]:
    drawn = np.random.default_rng(0)
    images = drawn.integers(256, size=(batch * steps, SIDE, SIDE, 3), dtype=np.uint8)
    labels = drawn.integers(CLASSES, size=len(images))
    loader = DataLoader(Pictures(images, labels), batch, shuffle=True)
    split = Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    mostly = partial(network, channels_first=True)
    yield "usual loop", usual(mostly(student, 0), mostly(teacher, 1), loader)
    try:
        theirs, _ = torchdistill(mostly(student, 0), mostly(teacher, 1), loader, ALPHA, TEMPERATURE)
        yield "torchdistill", theirs
    except ImportError:
        print("torchdistill is not installed: not compared (benchmarks/peer.py)")
    views = AUGMENTATION.views
    answers = torch.from_numpy(drawn.normal(size=(len(images), views, CLASSES)).astype(np.float16))
    for precision in ("float32", "bfloat16"):
        for name, shown in {"": split, ", stored": replace(split, answers=answers)}.items():
            of_a_run = ours(network(student, 0), network(teacher, 1), shown, batch, precision)
            yield f"kdtune, {precision}{name}", of_a_run
    yield ASKING, asking(network(teacher, 1), split, batch)


def asking(teacher: nn.Module, split: Split, batch: int) -> Callable[[], None]:
    """The teacher's forward passes alone: answers of all views cost as many as there are views of these."""
    teacher.eval()

    def epoch() -> None:
        with torch.no_grad():
            for places in torch.arange(len(split)).split(batch):
                teacher(inputs(split.images[places]))

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", default="wrn-16-2")
    parser.add_argument("teacher", nargs="?", default="wrn-40-2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = measuring.in_turn(dict(ways(asked.student, asked.teacher, asked.batch, asked.steps)), asked.rounds)
    print(f"{asked.student} from {asked.teacher}, batch {asked.batch}: seconds a step")
    print(measuring.table(found, "usual loop", per=asked.steps))
    usually, asked_once = (statistics.median(one.cpu for one in found[name]) for name in ("usual loop", ASKING))
    once = AUGMENTATION.views * asked_once / (EPOCHS * STUDENTS)
    for precision in ("float32", "bfloat16"):
        warm = statistics.median(one.cpu for one in found[f"kdtune, {precision}, stored"])
        gain = usually / (warm + once)
        print(f"whole, {precision}: {gain:.2f} x, answers shared by {STUDENTS} students of {EPOCHS} epochs")
    print(f"wrote {measuring.write('step', vars(asked) | {'seconds': measuring.plain(found)})}")


if __name__ == "__main__":
    main()
