"""Labels and images that a run's teacher decides on: `labels.teacher`, `only`, and that it comes before the data."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import stored
import torch
from sklearn.metrics import confusion_matrix

import kdtune
from kdtune.api import run_sweep
from kdtune.cli.evaluate import evaluate_late
from kdtune.data.error import DataError
from kdtune.data.loading import Split, load
from kdtune.data.sets.published import Digits
from kdtune.evaluation.evaluator import predict
from kdtune.noise.labels import LabelsKnob, Teacher
from kdtune.planning.plan import build_plan
from kdtune.randomness import draw
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.preflight import preflight

LEARNS = """\
name: errors
dataset: {digits: {}, train_size: 600, validation: 0.2}
seeds: 2
recipe:
  optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 16
  epochs: 2
teacher: {model: {mlp: {hidden: [16]}}, select: {rule: paired}}
student:
  model: {cnn: {width: 4}}
  dataset: {labels: {teacher: {rate: 1.0}}, only: errors}
evaluation: [accuracy, agreement]
"""


TEACHER = "teacher: {model: {mlp: {hidden: [16]}}, select: {rule: paired}}\n"


def taught(only: str | None = None, validation: float | None = None, **labels: dict) -> Digits:
    return Digits.model_validate({"labels": labels, "only": only, "validation": validation})


def of_half(images: torch.Tensor) -> torch.Tensor:
    """A teacher of digits that is wrong about as often as not, by the pixels alone."""
    return (images.flatten(1).long().sum(1) // 7) % 10


def test_wrong_answers_are_shuffled_within_classes_or_among_all() -> None:
    """Held against scikit-learn: `class` keeps the confusion matrix, `all` how often each class is answered."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(10, size=2000))
    answers = torch.where(
        torch.from_numpy(rng.random(2000)) < 0.4, labels, torch.from_numpy(rng.integers(10, size=2000))
    )
    plain, within, among = (
        Teacher(rate=1.0, shuffle=how)(labels, 10, draw(0, "labels.teacher"), lambda: answers)
        for how in (None, "class", "all")
    )
    assert torch.equal(plain, answers)
    before = confusion_matrix(labels, answers)
    assert (confusion_matrix(labels, within) == before).all() and not torch.equal(within, answers)
    assert (confusion_matrix(labels, among).sum(0) == before.sum(0)).all()
    assert (confusion_matrix(labels, among) != before).any()
    right = labels == answers
    for shuffled in (within, among):
        assert torch.equal(shuffled[right], answers[right]), "what is right stays"
        moved = (shuffled != answers)[~right].double().mean()
        assert moved > 0.5


def test_rates_are_paired_and_nothing_is_asked_at_zero() -> None:
    labels = torch.arange(500) % 10
    answers = (labels + 1) % 10
    taken = [Teacher(rate=rate)(labels, 10, draw(3, "x"), lambda: answers) != labels for rate in (0.1, 0.4, 1.0)]
    assert (taken[0] <= taken[1]).all() and (taken[1] <= taken[2]).all() and taken[2].all()
    assert 0.3 < taken[1].double().mean() < 0.5
    assert not Digits.model_validate({"labels": {"teacher": {"rate": 0.0}}}).asks


def test_only_leaves_what_the_teacher_answers_wrongly_or_rightly(tmp_path: Path) -> None:
    sets = {how: taught(how, 0.25, teacher={"rate": 1.0}) for how in (None, "errors", "correct")}
    parts = {how: load(dataset, tmp_path, answer=of_half) for how, dataset in sets.items()}
    whole = parts.pop(None)
    clean = load(Digits(validation=0.25), tmp_path)
    wrong = (of_half(clean.train.images) != clean.train.labels).nonzero()[:, 0]
    assert torch.equal(parts["errors"].train.images, clean.train.images[wrong])
    assert torch.equal(parts["errors"].train.labels, of_half(clean.train.images[wrong]))
    assert len(parts["errors"].train) + len(parts["correct"].train) == len(whole.train) == len(clean.train)
    assert parts["errors"].noise == {"labels.teacher": 1.0} and parts["correct"].noise == {"labels.teacher": 0.0}
    assert parts["errors"].corrupted.all() and not parts["correct"].corrupted.any()
    held_out = [len(part.validation) for part in (whole, parts["errors"], parts["correct"])]
    assert held_out[0] == held_out[1] + held_out[2] == len(clean.validation)
    assert torch.equal(parts["errors"].test.labels, clean.test.labels), "test labels stay clean"


def test_controls_keep_the_images_and_take_other_labels(tmp_path: Path) -> None:
    """`only` looks at the teacher's answers, whatever label knobs write."""
    errors = load(taught("errors", teacher={"rate": 1.0}), tmp_path, answer=of_half)
    for labels in ({}, {"corruption": {"rate": 1.0}}, {"teacher": {"rate": 1.0, "shuffle": "class"}}):
        other = load(taught("errors", **labels), tmp_path, answer=of_half)
        assert torch.equal(other.train.images, errors.train.images)
    assert other.noise == {"labels.teacher": 1.0}


def test_clean_leaves_those_whose_label_is_true_and_asks_nobody(tmp_path: Path) -> None:
    dataset = taught("clean", corruption={"rate": 0.5})
    assert not dataset.asks
    found = load(dataset.model_copy(update={"only": "clean"}), tmp_path, answer=None)
    assert (
        found.corrupted is not None
        and not found.corrupted.any()
        and 0.5 < len(found.train) / len(load(Digits(), tmp_path).train) < 0.6
    )


def test_too_few_are_told_with_their_count(tmp_path: Path) -> None:
    right = load(Digits(), tmp_path).train.labels
    nearly = torch.cat([(right[:15] + 1) % 10, right[15:]])
    with pytest.raises(DataError, match=r"only: errors on digits.* leaves 15 images to train on; it takes 20, 2 for"):
        load(taught("errors", teacher={"rate": 1.0}), tmp_path, answer=lambda images: nearly)
    one = load(taught("errors", teacher={"rate": 1.0}), tmp_path, answer=lambda images: torch.full((len(images),), 7))
    assert set(one.train.labels.tolist()) == {7}, "whoever answers one class errs all the same"


def test_without_a_teacher_what_it_would_say_is_left_out(tmp_path: Path) -> None:
    dataset = Digits.model_validate(
        {"labels": {"teacher": {"rate": 1.0}, "corruption": {"rate": 0.2}}, "only": "errors"}
    )
    found = load(dataset, tmp_path)
    plain = load(taught(corruption={"rate": 0.2}), tmp_path)
    assert torch.equal(found.train.labels, plain.train.labels) and len(found.train) == len(plain.train)


def test_a_last_batch_of_one_joins_the_one_before_where_nobody_could_count() -> None:
    images, order = torch.zeros(9, 1, 2, 2, dtype=torch.uint8), torch.arange(9)
    sizes = [[len(batch) for batch in Split(images, order, joined).batches(order, 4)] for joined in (False, True)]
    assert sizes == [[4, 4, 1], [4, 5]]
    assert [len(batch) for batch in Split(images[:1], order[:1], True).batches(order[:1], 4)] == [1]


def test_it_is_a_knob_that_a_sweep_file_finds_and_its_runs_wait_for_teachers(write_sweep) -> None:
    assert LabelsKnob.kinds()["teacher"] is Teacher
    plan = build_plan(load_sweep(write_sweep(LEARNS)), Path("nowhere"))
    roles = Counter(place.role for place in plan.places)
    assert roles == {"teacher": 2, "student": 2}
    for place in plan.places:
        if place.role == "student":
            assert [plan.runs[id].run.seed for id in place.waits_for] == [place.run.seed]
            assert place.run.content["only"] == "errors" and "distillation" not in place.run.description


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (TEACHER, "", "student.dataset.labels.teacher is set, but there is no teacher"),
        ("validation: 0.2}", "validation: 0.2, only: errors}", "a teacher has none: write it below student.dataset"),
        (
            "teacher: {model",
            "teacher: {dataset: {labels: {teacher: {rate: 1}}}, model",
            "labels.teacher asks a teacher",
        ),
        ("rate: 1.0", "rate: 1.5", "labels.teacher.rate"),
        ("rate: 1.0", "rate: 1.0, shuffle: classes", "shuffle"),
        ("only: errors", "only: error", "only"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(write_sweep, before: str, after: str, said: str) -> None:
    assert LEARNS.count(before) == 1
    with pytest.raises(SweepFileError, match=said):
        load_sweep(write_sweep(LEARNS.replace(before, after)))


def test_a_size_that_only_the_teacher_decides_on_is_no_last_batch_of_one(write_sweep, tmp_path: Path) -> None:
    """BatchNorm, and 481 images before the errors are known: the preflight cannot count what will be left."""
    text = LEARNS.replace("train_size: 600", "train_size: 601").replace("{cnn: {width: 4}}", "resnet-18")
    text = text.replace("{mlp: {hidden: [16]}}", "{mlp: {hidden: [16]}}, recipe: {batch_size: 15}")
    file = load_sweep(write_sweep(text))
    plan = build_plan(file, tmp_path)
    assert len(load(Digits(train_size=601, validation=0.2), tmp_path).train) % 16 == 1
    assert preflight(plan.runs, list(plan.runs), list(plan.runs), plan.evaluation, tmp_path) == []


def test_only_some_images_of_no_teacher_is_told_too(write_sweep) -> None:
    text = LEARNS.replace(TEACHER, "").replace("{labels: {teacher: {rate: 1.0}}, only: errors}", "{only: correct}")
    with pytest.raises(SweepFileError, match=r"student\.dataset\.only: correct is set, but there is no teacher"):
        load_sweep(write_sweep(text))


def test_a_student_learns_from_its_teachers_errors_alone(write_sweep, tmp_path: Path) -> None:
    """The labels kept are the teacher's answers to the images that it gets wrong; measured late, they are the same."""
    results = tmp_path / "r"
    assert run_sweep(write_sweep(LEARNS), here=True, results=str(results), data=str(tmp_path)) == 0
    table = kdtune.table(results / "errors").set_index("id")
    store = Store(results)
    whole = load(Digits(train_size=600, validation=0.2), tmp_path)
    for id in table.index[table.role == "student"]:
        chosen = json.loads(json.dumps(stored.provenance(store, id)["teacher"]))["id"]
        answers = predict(kdtune.load(chosen, str(results)), whole.train.images).argmax(1)
        wrong = answers != whole.train.labels
        (kept,) = results.glob(f"runs/{id}/*/labels.npz")
        with np.load(kept) as labels:
            assert labels["labels"].tolist() == answers[wrong].tolist()
        student, teacher = (kdtune.load(one, str(results)) for one in (id, chosen))
        same = predict(student, whole.test.images).argmax(1) == predict(teacher, whole.test.images).argmax(1)
        assert table["teacher/agreement"][id] == pytest.approx(100 * same.double().mean().item())
        history = stored.history(store, id)
        assert {entry["train/images"] for entry in history} == {int(wrong.sum())}
        assert {entry["noise/labels.teacher"] for entry in history} == {1.0}
    assert table["teacher/agreement"][table.role == "teacher"].isna().all(), "a teacher has none"
    before = list(csv.DictReader((results / "errors/paper/results.csv").open()))
    assert evaluate_late(results / "errors", None, "{pgd: {images: 4, steps: [1]}}", here=True) == 0
    after = list(csv.DictReader((results / "errors/paper/results.csv").open()))
    assert [{name: row[name] for name in before[0]} for row in after] == before


def test_a_student_measured_late_has_the_errors_of_the_teacher_that_it_had(write_sweep, tmp_path: Path) -> None:
    """Its teacher was trained again since, to other weights: what it was trained on is not to be had any more."""
    results = tmp_path / "r"
    assert run_sweep(write_sweep(LEARNS), here=True, results=str(results), data=str(tmp_path)) == 0
    assert evaluate_late(results / "errors", None, "fit", here=True) == 0
    table = kdtune.table(results / "errors").set_index("id")
    store = Store(results)
    for id in table.index[table.role == "student"]:
        assert table["fit/images"][id] == stored.history(store, id)[0]["train/images"]
    student = next(id for id in table.index if table.role[id] == "student")
    chosen = stored.provenance(store, student)["teacher"]
    from kdtune.training.teacher import teacher_had

    assert teacher_had(student, store, "cpu")[1] == chosen
    assert teacher_had("0" * 12, store, "cpu") is None
    (record,) = results.glob(f"runs/{student}/*/provenance.json")
    altered = json.loads(record.read_text())
    altered["teacher"]["weights_sha256"] = "0" * 64
    from kdtune.store.standing import Standing

    known = Standing(store)
    known.refresh(student)
    with pytest.MonkeyPatch.context() as patch:
        look = type(known).look
        patch.setattr(
            Standing, "look", lambda self, id: _with(look(self, id), altered) if id == student else look(self, id)
        )
        with pytest.raises(RuntimeError, match="has other weights by now"):
            teacher_had(student, store, "cpu")


def _with(known, provenance: dict):
    from types import SimpleNamespace

    return SimpleNamespace(done=known.done, provenance=provenance)
