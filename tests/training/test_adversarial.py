"""Adversarial training as a sweep file says it: what is refused, what is one run, what it costs, what it reaches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import kdtune
from kdtune.api import run_sweep
from kdtune.data.loading import Split
from kdtune.losses.ce import CE
from kdtune.losses.rslad import RSLAD
from kdtune.noise.noise import Noise
from kdtune.planning.cost import training
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.sizes import images
from kdtune.recipe import Recipe
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.lesson import Lesson
from kdtune.training.loop import Diverged, train

PGD: dict[str, Any] = {"eps": 0.08, "step": 0.04, "steps": 3}
NEAR = {**PGD, "start": {"gaussian": 0.001}}
RECIPE = {
    "optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}},
    "schedule": {"step": {"milestones": [0.5], "factor": 0.1}},
    "precision": "float32",
    "batch_size": 20,
    "epochs": 2,
}
MODEL = {"mlp": {"hidden": [16]}}
FROM_A_FILE = {"loss": {"rslad": {"clean": 0.1, "responses": {"file": "answers.npy"}}}}
TAUGHT = {"loss": {"rslad": {"clean": 0.1667}}}


def written(student: dict[str, Any], teacher: dict[str, Any] | None = None, **more: Any) -> str:
    teacher = {"model": MODEL, "select": {"rule": "paired"}, **(teacher or {})}
    sweep = {
        "name": "small", "dataset": {"digits": {}, "train_size": 100}, "seeds": 1, "recipe": RECIPE,
        "teacher": teacher, "student": {"model": MODEL, **student}, "evaluation": ["accuracy"], **more,
    }  # fmt: skip
    return yaml.safe_dump(sweep, sort_keys=False)


def noise(*names: str, **pgd: Any) -> dict[str, Any]:
    every: dict[str, Any] = {
        "gaussian": {"sigma": 0.1},
        "clamped": {"sigma": 0.1, "clamp": True},
        "pgd": {**PGD, **pgd},
    }
    return {"noise": {"input": {name.replace("clamped", "gaussian"): every[name] for name in names or ("pgd",)}}}


@pytest.fixture
def planned(write_sweep):
    def plan(text: str) -> Plan:
        return build_plan(load_sweep(write_sweep(text)), Path("nowhere"))

    return plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (written(noise(climbs="teacher")), "student.*: noise.input.pgd asks a teacher, and there is none"),
        (written({}, noise(climbs="teacher")), "teacher.*: noise.input.pgd asks a teacher, and there is none"),
        (written(noise(climbs="teacher") | {"loss": {"ce": {}}}), "there is none that the loss asks"),
        (written(noise(climbs="teacher") | {"dataset": {"labels": {"teacher": {"rate": 1.0}}}}), "that the loss asks"),
        (written(noise(climbs="teacher") | FROM_A_FILE), "there is none that the loss asks"),
        (written({"loss": {"trades": {"beta": 6}}}), "the loss trades compares clean images with what noise.input"),
        (written({}, {"loss": {"trades": {"beta": 6}}}), "the loss trades compares clean images with what noise.input"),
        (written(TAUGHT), "the loss rslad compares clean images with what noise.input"),
        (written({}, TAUGHT), "the loss rslad needs a teacher, and a teacher has none"),
        (
            written(noise("clamped"), dataset={"digits": {}, "moments": {"mean": [0.5], "std": [0.2]}}),
            r"gaussian cuts images off at 0 and 1, and those of this data set have no bounds",
        ),
        (
            written(noise("clamped"), dataset={"points": {"count": 32, "dimension": 2, "classes": 2}}),
            r"gaussian cuts images off at 0 and 1, and those of this data set have no bounds",
        ),
        (written(noise("gaussian", "pgd")), "gaussian moves them beyond: write gaussian after pgd"),
        (written(noise() | {"distillation": {"alpha": 0.9, "temperature": 4}, **TAUGHT}), "exactly one of them"),
        (written(noise(climbs="clean", start="clean")), "no gradient at the clean image"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_its_line(write_sweep, text: str, said: str) -> None:
    with pytest.raises(SweepFileError, match=said) as refused:
        load_sweep(write_sweep(text))
    assert "small.yaml:" in str(refused.value)


def test_what_goes_together_is_taken(planned) -> None:
    for student in (
        noise("pgd", "gaussian"),
        noise("clamped", "pgd"),
        noise(climbs="teacher") | TAUGHT,
        noise(climbs="teacher") | {"distillation": {"alpha": 1, "temperature": 4, "teacher_sees": "shown"}},
        noise(climbs="teacher") | {"loss": {"rslad": {"clean": 0.1, "responses": "stored", "shuffle": "class"}}},
        noise(climbs="clean") | {"loss": {"trades": {"beta": 6}}},
        noise() | {"dataset": {"perturbed": {"norm": "linf", "eps": 0.1, "step": 0.1, "steps": 1}}},
    ):
        assert planned(written(student))


def test_at_radius_zero_it_is_the_run_without(planned) -> None:
    """Adversarial training and trades are plain training, the weights of rslad's two equal terms are one run."""
    zero = noise(eps=0)
    plain = planned(written({}))
    (alone,) = (place.id for place in plain.places if place.role == "student")
    for same in (zero, zero | {"loss": {"trades": {"beta": 6}}}, noise(eps=0, steps=7, share=0.5)):
        assert {place.id for place in planned(written(same)).places} == {alone}
    taught = [planned(written(zero | {"loss": {"rslad": {"clean": clean}}})) for clean in (0.1, 0.9)]
    ids = [[place.id for place in plan.places if place.role == "student"] for plan in taught]
    assert ids[0] == ids[1] and alone not in ids[0]


def test_every_key_of_the_knob_and_the_losses_counts(planned) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"eps": 0.1}, {"step": 0.03}, {"steps": 4}, {"norm": "l2"}, {"start": "clean"}, {"share": 0.5},
        {"start": {"gaussian": 0.001}}, {"start": {"gaussian": 0.002}}, {"climbs": "clean"}, {"climbs": "confidence"},
    ]  # fmt: skip
    students = [noise(**change) for change in changes]
    students += [noise() | {"loss": {"trades": {"beta": beta}}} for beta in (1, 6)]
    students += [noise() | {"loss": {"rslad": {"clean": clean}}} for clean in (0.1, 0.2)]
    ids = [next(p.id for p in planned(written(each)).places if p.role == "student") for each in students]
    assert len(set(ids)) == len(ids)


def test_an_epoch_of_ten_steps_is_eleven_times_as_dear(planned) -> None:
    def cost(student: dict[str, Any]) -> float:
        plan = planned(written(student))
        student_, *_ = (place.run for place in plan.places if place.role == "student")
        teacher = next((place.run for place in plan.places if place.role == "teacher"), None)
        return training(student_, images(student_.dataset), teacher)

    assert cost(noise(steps=10)) / cost({}) == pytest.approx(11, rel=0.01)
    asks, climbs = (cost(noise(climbs=climbs) | TAUGHT) for climbs in ("labels", "teacher"))
    assert climbs - asks == pytest.approx(asks - cost(noise())), "one more answer of the teacher to each image"


def test_a_lesson_without_the_teacher_that_a_knob_asks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise\.input\.pgd asks a teacher, but this run has no teacher"):
        Lesson(10, 0, Noise.model_validate(noise(climbs="teacher")["noise"]), CE())


class Breaking(nn.Module):
    """Its answers are finite, and from the first update on their gradients in the pixels are not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.linear(flat) + (flat[:, :10] * 0).sqrt()


def test_a_gradient_that_is_lost_is_a_divergence_and_no_failure() -> None:
    split = Split(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8), torch.arange(40) % 10)
    lesson = Lesson(10, 0, Noise.model_validate(noise()["noise"]), CE())
    with pytest.raises(Diverged) as diverged:
        train(Breaking(), split, Recipe.model_validate(RECIPE), lesson, 0)
    assert diverged.value.epoch == 1
    assert math.isnan(diverged.value.history[-1]["noise/input.pgd"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_reaches_the_ball_in_any_precision_and_twice_the_same(precision: str) -> None:
    rows = []
    for _ in range(2):
        torch.manual_seed(0)
        student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
        split = Split(torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8), torch.arange(60) % 10)
        knobs = Noise.model_validate(noise(climbs="teacher")["noise"])
        lesson = Lesson(10, 0, knobs, RSLAD(clean=0.1667), teacher, precision)
        how = Recipe.model_validate({**RECIPE, "precision": precision})
        rows.append(
            [{k: v for k, v in row.items() if "time" not in k} for row in train(student, split, how, lesson, 0)]
        )
    assert rows[0] == rows[1]
    assert rows[0][-1]["noise/input.pgd"] == pytest.approx(0.08, abs=1e-6)
    assert rows[0][-1]["train/loss"] < rows[0][0]["train/loss"]


def test_each_way_of_adversarial_training_withstands_what_plain_training_does_not(write_sweep, tmp_path: Path) -> None:
    ways = {
        "plain": {},
        "at": noise(),
        "trades": {"noise": {"input": {"pgd": {**NEAR, "climbs": "clean"}}}, "loss": {"trades": {"beta": 6}}},
        "rslad": {"noise": {"input": {"pgd": {**NEAR, "climbs": "teacher"}}}, "loss": {"rslad": {"clean": 0.1667}}},
    }
    robust = {}
    for name, how in ways.items():
        recipe = {**RECIPE, "epochs": 15}
        student = how | ({"recipe": {"optimizer": {"sgd": {"lr": 1.0, "momentum": 0.9}}}} if name == "rslad" else {})
        text = written(
            student, noise(), recipe=recipe, name=name, dataset={"digits": {}, "train_size": 400},
            evaluation=["accuracy", {"pgd": {"eps": 0.08, "step": 0.02, "steps": [10], "restarts": 1, "images": 300}}],
        )  # fmt: skip
        place = str(tmp_path / "r")
        assert run_sweep(write_sweep(text), here=True, results=place, data=str(tmp_path / "d")) == 0
        table = kdtune.table(Path(place) / name).query("role == 'student'")
        robust[name] = float(table["robust/pgd10/unconditional"].iloc[0])
    assert all(robust[name] > robust["plain"] + 10 for name in ("at", "trades", "rslad")), robust
