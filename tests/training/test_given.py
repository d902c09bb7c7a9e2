"""Answers that somebody else's teacher gave: those of the file, for the images that they belong to."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stored
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save

import kdtune
from kdtune.api import run_sweep
from kdtune.cli.sweep import Options, run
from kdtune.data.error import DataError
from kdtune.data.loading import Data, inputs, load
from kdtune.data.sets.published import Digits
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step
from kdtune.planning.plan import build_plan
from kdtune.recipe import Augmentation, Crop, Flip, Recipe
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.given import given_answers
from kdtune.training.network import load_finished

IMAGES = 934  # all training images of the digits
RECIPE = Recipe(
    optimizer=SGD(lr=0.05), schedule=Step(milestones=(), factor=1.0), precision="float32", batch_size=20, epochs=1,
    augmentation=Augmentation(crop=Crop(padding=1, mode="zero"), flip=Flip()),
)  # fmt: skip
VIEWS = 18


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(IMAGES, VIEWS, 10)).astype(np.float16)


def digits(**settings: object) -> Data:
    return load(Digits.model_validate(settings), Path("nowhere"))


def saved(array: np.ndarray, path: Path) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        save_file({"logits": array}, path)
    return path


@pytest.mark.parametrize("kind", [".npy", ".safetensors"])
@pytest.mark.parametrize("parts", [{}, {"train_size": 200, "validation": 0.2}])
def test_each_image_has_its_own_whatever_is_left_of_the_set(
    kind: str, parts: dict[str, float], logits: np.ndarray, tmp_path: Path
) -> None:
    data, whole = digits(**parts), digits().train.images
    found = given_answers(saved(logits, tmp_path / f"a{kind}"), None, data, IMAGES, RECIPE)
    assert found.shape == (len(data.train), VIEWS, 10)
    for place in range(0, len(data.train), 7):
        same = (whole == data.train.images[place]).all(dim=(1, 2, 3)).nonzero()[:, 0].tolist()
        assert any(np.array_equal(found[place].numpy(), logits[each]) for each in same)


def test_one_answer_stands_for_all_views(logits: np.ndarray, tmp_path: Path) -> None:
    one = logits[:, 0].astype(np.float32)
    found = given_answers(saved(one, tmp_path / "a.npy"), None, digits(), IMAGES, RECIPE)
    assert found.shape == (IMAGES, VIEWS, 10) and (found == torch.from_numpy(one)[:, None]).all()


def test_one_answer_takes_no_more_room_on_another_device_than_in_the_file(logits: np.ndarray, tmp_path: Path) -> None:
    """There 162 views would be 162 copies: 3.2 GB for CIFAR-100."""
    data = digits(train_size=200)
    elsewhere = replace(data, train=data.train.to("meta"))  # a device without storage: its strides tell
    found = given_answers(saved(logits[:, 0], tmp_path / "a.npy"), None, elsewhere, IMAGES, RECIPE)
    assert found.device.type == "meta" and found.shape == (200, VIEWS, 10) and found.stride() == (10, 0, 1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a, path: np.save(path, a[:900]), r"\[900, 18, 10\].*\[934, 18, 10\] or \[934, 10\]"),
        (lambda a, path: np.save(path, a[:, :5]), r"holds an array \[934, 5, 10\]"),
        (lambda a, path: np.save(path, a[..., :9]), r"holds an array \[934, 18, 9\]"),
        (lambda a, path: np.save(path, a.astype(np.float64)), "holds float64; logits are float16 or float32"),
        (lambda a, path: np.save(path, np.where(a == a[930, 3, 2], np.nan, a)), "not all of its logits are finite"),
        (lambda a, path: path.write_bytes(pickle.dumps(a)), "cannot be read .*pickle.*would do"),
        (lambda a, path: path.write_bytes(b""), "cannot be read"),
        (lambda a, path: np.save(path, np.array([{}], dtype=object)), "cannot be read"),
        (lambda a, path: None, r"a.npy: the answers in it cannot be read"),
        (lambda a, path: path.mkdir(), r"a.npy: the answers in it cannot be read"),
    ],
)
def test_what_is_refused(spoil: Callable[..., object], said: str, logits: np.ndarray, tmp_path: Path) -> None:
    spoil(logits, tmp_path / "a.npy")
    with pytest.raises(DataError, match=said):
        given_answers(tmp_path / "a.npy", None, digits(), IMAGES, RECIPE)


def test_other_files_and_files_that_changed(logits: np.ndarray, tmp_path: Path) -> None:
    save_file({"a": logits, "b": logits}, tmp_path / "two.safetensors")
    (tmp_path / "no.safetensors").write_bytes(b"none")
    (tmp_path / "a.csv").write_text("1,2")
    others = {"two.safetensors": "2 tensors, not one", "no.safetensors": "cannot be read", "a.csv": "it ends in .csv"}
    torch_save({"a": torch.zeros(IMAGES, 10, dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, logits)
    (tmp_path / "header.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': [(".ljust(0x76))
    others |= {"half.safetensors": "it holds bfloat16", "archive.npy": "an .npz", "header.npy": "cannot be read"}
    for name, said in others.items():
        with pytest.raises(DataError, match=said):
            given_answers(tmp_path / name, None, digits(), IMAGES, RECIPE)
    with pytest.raises(DataError, match="has changed since the sweep was planned"):
        given_answers(saved(logits, tmp_path / "a.npy"), "0" * 64, digits(), IMAGES, RECIPE)


GIVEN = """\
name: small
dataset: {digits: {}, train_size: 100, validation: 0.2}
seeds: 2
recipe:
  optimizer: {sgd: {lr: 0.1, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 20
  epochs: 3
student:
  model: {mlp: {hidden: [8]}}
  distillation: {alpha: 0.9, temperature: 4, responses: {file: answers.npy}}
evaluation: [accuracy]
"""
TAUGHT = GIVEN.replace(", responses: {file: answers.npy}", "").replace(
    "student:\n",
    "teacher: {model: {cnn: {width: 8}}, seeds: 1, select: {rule: best, metric: val/accuracy}}\nstudent:\n",
)


def test_students_learn_from_them_as_from_the_teacher_who_gave_them(write_sweep, tmp_path: Path) -> None:
    """The teacher's own logits, in float32: the loss of every epoch is that of the students who asked it."""
    results, flags = tmp_path / "results", {"here": True, "data": str(tmp_path / "d")}
    assert run_sweep(write_sweep(TAUGHT), results=str(results), **flags) == 0
    store = Store(results)
    table = kdtune.table(results / "small")
    (teacher,) = table.loc[table["role"] == "teacher", "id"]
    with torch.no_grad():
        answers = load_finished(teacher, store, store.done(teacher)).eval()(inputs(digits().train.images))
    saved(answers.numpy(), tmp_path / "answers.npy")
    asked = [stored.history(store, id) for id in table.loc[table["role"] == "student", "id"]]
    other = tmp_path / "other"
    for loss in ("distillation: {", "loss: {dkd: {beta: 2.0, "):
        text = GIVEN.replace("distillation: {", loss).replace("npy}}", "npy}}}" if "dkd" in loss else "npy}}")
        assert run_sweep(write_sweep(text), results=str(other), **flags) == 0
        students = kdtune.table(other / "small")
        assert list(students["role"]) == ["student"] * 2 and not students["taught"].any()
        given = [stored.history(Store(other), id) for id in students["id"]]
        described = stored.description(Store(other), students["id"][0])
        digest = hashlib.sha256((tmp_path / "answers.npy").read_bytes()).hexdigest()
        kept = described.get("distillation") or described["loss"]["dkd"]
        assert kept["responses"] == {"file": digest} and str(tmp_path) not in str(described)
        if "dkd" not in loss:
            for ours, theirs in zip(given, asked, strict=True):
                assert [row["train/loss"] for row in ours] == pytest.approx([row["train/loss"] for row in theirs])


def test_other_answers_are_other_runs_and_another_path_is_not(write_sweep, tmp_path: Path, logits: np.ndarray) -> None:
    ids = []
    for name, array in {"answers.npy": logits[:, 0], "same.npy": logits[:, 0], "other.npy": logits[:, 1]}.items():
        saved(array, tmp_path / name)
        plan = build_plan(load_sweep(write_sweep(GIVEN.replace("answers.npy", name))), tmp_path)
        assert {place.role for place in plan.places} == {"student"} and not any(each.waits_for for each in plan.places)
        ids.append([*plan.runs])
    assert ids[0] == ids[1] and not set(ids[0]) & set(ids[2])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("evaluation:", "  noise: {teacher: {dropout: {rate: 0.2}}}\nevaluation:", "one answer to each view"),
        ("temperature: 4", "temperature: 4, teacher_sees: shown", "of clean images, and teacher_sees: shown is not"),
        ("responses: {file: answers.npy}", "responses: {fiel: answers.npy}", "did you mean file"),
        ("responses: {file: answers.npy}", "responses: store", "stored"),
        ("  model: {mlp", "  dataset: {only: errors}\n  model: {mlp", "there is no teacher"),
    ],
)  # fmt: skip
def test_what_the_file_cannot_say(write_sweep, old: str, new: str, said: str) -> None:
    with pytest.raises(SweepFileError, match=said):
        load_sweep(write_sweep(GIVEN.replace(old, new)))


@pytest.mark.parametrize(("shape", "said"), [(None, "answers cannot be read"), ((900, 10), "holds an array [900, 10]")])
def test_a_file_that_does_not_fit_is_refused_before_anything_starts(
    write_sweep, tmp_path: Path, capsys, shape: tuple[int, ...] | None, said: str
) -> None:
    if shape is not None:
        saved(np.zeros(shape, np.float32), tmp_path / "answers.npy")
    options = Options(write_sweep(GIVEN), results=str(tmp_path / "r"), data=str(tmp_path / "d"), here=True)
    assert run(options) == 4
    told = capsys.readouterr().err
    assert str(tmp_path / "answers.npy") in told and said in told
    assert not list((tmp_path / "r").rglob("run.yaml"))
