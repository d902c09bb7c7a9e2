"""Rows B2 and B3: what file, data and weights can tell is told before the start, all of it at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import stored
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stand_ins import cifar10c_folder

import kdtune.training.preflight as module
from kdtune.cli.sweep import Options, run
from kdtune.data import loading
from kdtune.evaluation import autoattack
from kdtune.models.model import Model
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.preflight import preflight

Asked = Callable[..., list[str]]
STUDENT = "student:\n  model: {mlp: {hidden: [8]}}"
TEACHER = (
    "teacher:\n  model: {mlp: {hidden: [8], dropout: $rate}}\n  seeds: 3\n  select: {rule: best, metric: val/accuracy}"
)


@pytest.fixture
def plan_of(write_sweep, small_sweep: str, tmp_path: Path) -> Callable[..., Plan]:
    """The plan of the small sweep with words of it exchanged."""

    def plan_of(*changes: tuple[str, str], **overrides: Any) -> Plan:
        text = small_sweep
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        return build_plan(load_sweep(write_sweep(text)), tmp_path)

    return plan_of


@pytest.fixture
def told(plan_of, tmp_path: Path) -> Asked:
    """What is said of such a sweep before its first run."""

    def told(*changes: tuple[str, str]) -> list[str]:
        plan = plan_of(*changes)
        return preflight(plan.runs, [*plan.runs], {*plan.runs}, plan.evaluation, tmp_path)

    return told


def test_nothing_is_said_of_a_sweep_that_will_work(told: Asked) -> None:
    assert told() == []
    assert told(("precision: float32", "precision: bfloat16"), ("mlp: {hidden: [8]", "cnn: {width: 4")) == []


def test_a_last_batch_of_one_image(told: Asked) -> None:
    """Row B3: ResNet-18 has one pixel left of 8 x 8 where it normalises last, and cannot of a single image."""
    small = ("train_size: 100, validation: 0.2", "train_size: 41")
    alone = (
        (TEACHER, "teacher: null"),
        ("  distillation: {alpha: 0.9, temperature: 4}\n", ""),
        ("grid: {rate: [0.0, 0.2]}\n", ""),
    )
    alone += (("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""),)
    (problem,) = told(small, *alone, (STUDENT, "student:\n  model: resnet-18"))
    assert problem.startswith(
        "student seed=0 and 1 more: batches of 20 out of 41 images end with one of a single image"
    )
    assert "more than 1 value per channel" in problem and problem.endswith("recipe.batch_size: 19 or 21 would do")
    for size in (19, 21):
        assert told(small, *alone, (STUDENT, "student:\n  model: resnet-18"), ("size: 20", f"size: {size}")) == []
    assert told(small, *alone) == [], "an MLP takes a single image"


@given(st.integers(2, 300), st.integers(1, 320))
def test_the_sizes_that_would_do(count: int, size: int) -> None:
    fitting = [each for each in range(2, count + 1) if len(torch.arange(count).split(each)[-1]) > 1]
    below, above = [each for each in fitting if each < size], [each for each in fitting if each > size]
    assert module._sizes_that_do(count, size) == below[-1:] + above[:1]


def test_normalization_of_other_channels(told: Asked) -> None:
    for count, numbers in ((3, "[0.5, 0.5, 0.5]"), (2, "[0.5, 0.5]")):
        (problem,) = told((STUDENT, f"{STUDENT}\n  normalization: {{mean: {numbers}, std: {numbers}}}"))
        assert problem == f"student rate=0 seed=0 and 3 more: normalization has {count} channels, and the images have 1"


def test_a_crop_that_cannot_be_reflected(told: Asked) -> None:
    crop = "  epochs: 3", "  epochs: 3\n  augmentation: {crop: {padding: 8, mode: reflect}}"
    (problem,) = told(crop)
    assert problem.startswith("teacher rate=0 seed=0 and 9 more: ")
    assert problem.endswith("8 x 8 pixels cannot be reflected by 8")
    assert told((crop[0], crop[1].replace("8", "7"))) == []


def test_a_teacher_without_dropout_layers(told: Asked) -> None:
    (problem,) = told(("{mlp: {hidden: [8], dropout: $rate}}", "resnet-18"))
    assert problem.startswith("student rate=0.2 seed=0 and 1 more: noise.teacher.dropout: rate 0.2")
    assert "has no dropout layer" in problem


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A CNN's weights where an MLP is asked for."""
    network = Model.model_validate({"cnn": {"width": 4}}).build((1, 8, 8), 10)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "mine.safetensors")
    return "teacher:\n  model: {mlp: {hidden: [8]}}\n  checkpoint: mine.safetensors"


@pytest.mark.parametrize("kind", ["running_var", "weight"])
def test_a_teacher_that_gives_no_finite_answer(told: Asked, checkpoint: str, tmp_path: Path, kind: str) -> None:
    """Its weights fit and are finite, and only an answer shows what they are."""
    without = ("  noise: {teacher: {dropout: {rate: $rate}}}\n", "  noise: {target: {variability: {rate: $rate}}}\n")
    state = Model.model_validate({"cnn": {"width": 4}}).build((1, 8, 8), 10).state_dict()
    value = -1e4 if kind == "running_var" else 1e38
    state |= {name: torch.full_like(part, value) for name, part in state.items() if name.endswith(kind)}
    safetensors.torch.save_file(state, tmp_path / "mine.safetensors")
    (problem,) = told((TEACHER, checkpoint.replace("{mlp: {hidden: [8]}}", "{cnn: {width: 4}}")), without)
    assert problem.startswith("teacher: the teacher's weights give no answers (")
    assert ("negative variances in " in problem) == (kind == "running_var")


def test_a_checkpoint_that_does_not_fit(told: Asked, checkpoint: str) -> None:
    without = ("  noise: {teacher: {dropout: {rate: $rate}}}\n", "  noise: {target: {variability: {rate: $rate}}}\n")
    (problem,) = told((TEACHER, checkpoint), without)
    assert problem.startswith("teacher: ") and "mine.safetensors" in problem and "do not fit" in problem
    assert told((TEACHER, checkpoint.replace("{mlp: {hidden: [8]}}", "{cnn: {width: 4}}")), without) == []


def images(folder: Path, names: tuple[str, ...], size: tuple[int, int] = (8, 8)) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("L", size).save(folder / name / "1.png")
    return folder


def test_a_shifted_folder_of_other_classes_or_another_size(told: Asked, tmp_path: Path) -> None:
    images(tmp_path / "letters", ("a", "b"))
    images(tmp_path / "large", tuple("0123456789"), (9, 8))
    shifted = [f"{{shift: {{folder: {{path: {name}, name: {name}}}}}}}" for name in ("letters", "large")]
    problems = told(("[accuracy]", f"[accuracy, {', '.join(shifted)}]"))
    assert len(problems) == 2
    assert re.search(
        "letters.* must hold the classes of the test set; only one of them has 0, 1, .*, a, b", problems[0]
    )
    assert "has images of [3, 8, 9] (C, H, W), digits (8 x 8, scikit-learn) of [1, 8, 8]" in problems[1]


def test_cifar10c_beside_another_test_set(told: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.data.dataset import Dataset

    others = loading.load(Dataset.model_validate({"digits": {}}), tmp_path)
    rolled = loading.Split(others.test.images, others.test.labels.roll(1))
    data = loading.Data("X", others.class_names, others.shape, rolled, None, rolled, {})
    cifar10c_folder(tmp_path / "c", data, monkeypatch, ["gaussian_noise"])
    (problem,) = told(("[accuracy]", "[accuracy, {corruptions: {files: {path: c}, families: [gaussian_noise]}}]"))
    assert "CIFAR-10-C was not made from digits" in problem and "corruptions are computed" in problem


def test_a_damaged_file_of_cifar10c(told: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.data.dataset import Dataset

    data = loading.load(Dataset.model_validate({"digits": {}}), tmp_path)
    cifar10c_folder(tmp_path / "c", data, monkeypatch, ["gaussian_noise", "fog"])
    asked = "[accuracy]", "[accuracy, {corruptions: {files: {path: c}, families: [gaussian_noise, fog]}}]"
    assert told(asked) == []
    fog = tmp_path / "c" / "fog.npy"
    fog.write_bytes(fog.read_bytes()[:-1] + b"\7")
    (problem,) = told(asked)
    assert "fog.npy: not the published file" in problem


def test_all_of_it_at_once_and_nothing_started(
    write_sweep, small_sweep: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(autoattack, "PACKAGE", "no_such_package")
    images(tmp_path / "letters", ("a", "b"))
    text = small_sweep.replace(TEACHER, checkpoint).replace(
        "[accuracy]", "[accuracy, autoattack, {shift: {folder: {path: letters, name: l}}}]"
    )
    text = text.replace(
        "  noise: {teacher: {dropout: {rate: $rate}}}\n", "  noise: {target: {variability: {rate: $rate}}}\n"
    )
    text = text.replace("  epochs: 3", "  epochs: 3\n  augmentation: {crop: {padding: 9, mode: reflect}}")
    options = Options(write_sweep(text), results=str(tmp_path / "results"), data=str(tmp_path), here=True)
    assert run(options) == 4
    first, *rest = capsys.readouterr().err.strip().splitlines()
    things = [line for line in rest if not line.startswith("    ")]
    assert first == f"refused: {len(things)} things would fail"
    for said in ("no_such_package", "letters", "mine.safetensors", "cannot be reflected by 9"):
        assert any(said in line for line in things), said
    assert {path.name for path in (tmp_path / "results/runs").iterdir()} <= {"claims", ".lock"}


# How it is found out


def test_a_step_leaves_nothing_behind(plan_of, tmp_path: Path) -> None:
    plan = plan_of()
    before, random = torch.get_rng_state(), np.random.get_state()[1].copy()
    threads = torch.get_num_threads()
    preflight(plan.runs, [*plan.runs], {*plan.runs}, plan.evaluation, tmp_path)
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == random).all()
    assert torch.get_num_threads() == threads
    assert not (tmp_path / "results").exists()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The runs of which a step was tried."""
    tried: list[Any] = []
    original = module.step
    monkeypatch.setattr(module, "step", lambda run, *rest: (tried.append(run), original(run, *rest)))
    return tried


def test_each_kind_of_network_is_tried_once(told: Asked, steps: list[Any]) -> None:
    assert told(("[0.0, 0.2]", "[0.0, 0.1, 0.2, 0.3, 0.4]")) == []
    assert len(steps) == 4, "teacher and student, with the knob and without: rates make no difference"


def test_what_is_trained_is_not_tried_again(plan_of, steps: list[Any], tmp_path: Path) -> None:
    plan = plan_of()
    assert preflight(plan.runs, [*plan.runs], (), plan.evaluation, tmp_path) == [] and not steps
    assert preflight(plan.runs, (), (), plan.evaluation, tmp_path) == [] and not steps


def test_a_finished_sweep_looks_at_nothing(write_sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(write_sweep(), results=str(tmp_path / "results"), data=str(tmp_path), here=True, verbosity=-1)
    assert run(options) == 0
    monkeypatch.setattr(module, "preflight", lambda *_: pytest.fail("looked again"))
    assert run(options) == 0
    assert len(stored.finished(Store(tmp_path / "results"))) == 10


def test_a_run_that_diverges_is_a_result_and_not_refused(told: Asked) -> None:
    assert told(("lr: 0.1", "lr: 1e30")) == []


def test_what_a_users_own_code_raises(told: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.losses.kd import KD

    monkeypatch.setattr(KD, "__call__", lambda *_: {}["no such\n view"])
    (problem,) = told()
    assert problem == "student rate=0 seed=0 and 3 more: KeyError: 'no such\\n view'"
