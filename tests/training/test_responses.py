"""Stored answers of a teacher: those it would give, in whatever view an image is seen; shared by its students."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stored
import torch
from torch import nn

import kdtune
from kdtune.api import run_sweep
from kdtune.data.augmentation import drawn_views, viewed
from kdtune.data.error import DataError
from kdtune.data.loading import Split, inputs, load
from kdtune.data.sets.published import Digits
from kdtune.losses.kd import KD
from kdtune.noise.noise import Noise
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step
from kdtune.randomness import draw
from kdtune.recipe import Augmentation, Crop, Flip, Recipe
from kdtune.store import responses as kept_answers
from kdtune.store.encoding import to_json
from kdtune.store.layout import claim_key
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training import responses
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train

AUGMENTATION = Augmentation(crop=Crop(padding=1, mode="zero"), flip=Flip())


def recipe(precision: str = "float32", augmentation: Augmentation = AUGMENTATION, epochs: int = 2) -> Recipe:
    schedule = Step(milestones=(), factor=1.0)
    return Recipe(
        optimizer=SGD(lr=0.05, momentum=0.9), schedule=schedule, precision=precision, batch_size=32, epochs=epochs,
        augmentation=augmentation,
    )  # fmt: skip


def network(seed: int, width: int = 6) -> nn.Module:
    from kdtune.models.small import CNN

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = CNN(width=width).build((1, 8, 8), 10)
        made(torch.rand(64, 1, 8, 8))  # BatchNorm's averages
    return made.eval()


@pytest.fixture
def digits() -> Split:
    return load(Digits(train_size=120), Path("nowhere")).train


def nobody() -> None:
    """Signs of life that nobody waits for."""


def stored_answers(
    teacher: nn.Module,
    known_as: str,
    split: Split,
    recipe: Recipe,
    data: Path,
    pulse: Callable[[], None],
    results: Path | str | None = None,
) -> torch.Tensor:
    """On the machine with this data folder, by default with results of its own."""
    store = Store(results or Path(f"{data}-results"))
    return responses.stored_answers(teacher, known_as, split, recipe, data, store, pulse)


class Counted(nn.Module):
    """A teacher that says how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.asked = network(1), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return self.network(images)


@pytest.mark.parametrize(
    ("augmentation", "count"),
    [
        (Augmentation(), 1),
        (Augmentation(flip=Flip()), 2),
        (Augmentation(crop=Crop(padding=1, mode="reflect")), 9),
        (AUGMENTATION, 18),
        (Augmentation(crop=Crop(padding=4, mode="reflect"), flip=Flip()), 162),
    ],
)
def test_every_view_is_one_that_augmentation_draws(augmentation: Augmentation, count: int, digits: Split) -> None:
    assert augmentation.views == count
    images = digits.images[:40].repeat(100, 1, 1, 1)
    views = drawn_views(len(images), augmentation, draw(3, "augmentation"))
    again = drawn_views(len(images), augmentation, draw(3, "augmentation"))
    assert torch.equal(viewed(images, augmentation, again), viewed(images, augmentation, views))
    assert views.min() >= 0 and views.max() < count and len(views.unique()) == count
    one = torch.rand(1, 1, 12, 12).expand(count, -1, -1, -1)
    assert len(viewed(one, augmentation, torch.arange(count)).unique(dim=0)) == count, "no two views are alike"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_they_are_what_the_teacher_says_of_every_view(tmp_path: Path, digits: Split, precision: str) -> None:
    """Half precision rounds logits by a thousandth; bfloat16's own rounding is coarser than that."""
    teacher = network(1)
    answers = stored_answers(teacher, "w", digits, recipe(precision), tmp_path, nobody)
    assert answers.shape == (120, 18, 10) and answers.dtype == torch.float16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        for view in range(18):
            seen = viewed(digits.images, AUGMENTATION, torch.full((120,), view))
            torch.testing.assert_close(answers[:, view].float(), teacher(inputs(seen)).float(), rtol=2e-3, atol=2e-3)


def test_the_loss_is_that_of_a_teacher_who_is_asked(tmp_path: Path, digits: Split) -> None:
    """Over two epochs of training: losses within a thousandth, weights within what half precision makes of them."""
    ends, losses = [], []
    for kept in (False, True):
        teacher, student = network(1), network(2)
        answers = stored_answers(teacher, "w", digits, recipe(), tmp_path, nobody) if kept else None
        lesson = Lesson(10, 0, Noise(), KD(alpha=0.9, temperature=4), teacher)
        history = train(student, replace(digits, answers=answers), recipe(), lesson, 0)
        ends.append(torch.cat([value.flatten() for value in student.parameters()]))
        losses.append([row["train/loss"] for row in history])
        assert (history[0]["time/teacher"] == 0) == kept
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert (ends[0] - ends[1]).abs().max() < 5e-3


def test_a_second_run_computes_nothing_and_a_damaged_file_is_fetched_or_done_again(
    tmp_path: Path, digits: Split, caplog: pytest.LogCaptureFixture
) -> None:
    data, teacher = tmp_path / "data", Counted()

    def answers() -> torch.Tensor:
        return stored_answers(teacher, "w", digits, recipe(), data, nobody)

    first = answers().clone()
    assert teacher.asked == 18 and torch.equal(answers(), first) and teacher.asked == 18
    (file,) = data.glob("responses/*/answers.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert torch.equal(answers(), first) and file.read_bytes() == whole, "fetched from the results"
    assert teacher.asked == 18 and not caplog.records
    (part,) = Path(f"{data}-results").glob("runs/responses/*/*/000")
    for damaged in (None, whole[:-1]):
        file.with_name("about.json").write_text("[]")
        if damaged is None:
            part.unlink()
        else:
            part.write_bytes(damaged)
        before, teacher.asked = len(caplog.records), 0
        assert torch.equal(answers(), first) and teacher.asked == 18, "computed again"
        assert f"{part} is " in caplog.records[before].getMessage()
        (part,) = (each for each in Path(f"{data}-results").glob("runs/responses/*/*/000") if each != part)
    for other in (
        ("v", digits, recipe()),
        ("w", digits[torch.arange(60)], recipe()),
        ("w", digits, recipe("bfloat16")),
    ):
        stored_answers(teacher, *other, data, nobody)
    assert len(list(data.glob("responses/*/about.json"))) == 4, "other weights, images, precision"


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_machines_of_one_sweep_compute_them_once(
    place: str, tmp_path: Path, digits: Split, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_answers, "PART", 10_000)  # bytes: 43,328 in several parts
    results = tmp_path / "results" if place == "folder" else request.getfixturevalue("s3").bucket()
    teacher, found = Counted(), []
    for machine in ("one", "other"):
        found.append(stored_answers(teacher, "w", digits, recipe(), tmp_path / machine, nobody, results))
    assert teacher.asked == 18 and torch.equal(*found)
    one, other = (next(tmp_path.glob(f"{machine}/responses/*/answers.npy")) for machine in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert Store(results).owner(f"responses/{one.parent.name}") is None, "the claim was given back"


def test_a_machine_waits_for_the_one_that_computes_and_takes_over_from_one_that_is_gone(
    tmp_path: Path, digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "WAIT_S", 0.02)
    teacher, store, signs = Counted(), Store(tmp_path / "results"), []
    first = stored_answers(teacher, "w", digits, recipe(), tmp_path / "one", nobody, tmp_path / "before")
    (file,) = (tmp_path / "one").glob("responses/*/answers.npy")
    kept = store.responses(file.parent.name)
    claim = store.claim(kept.claim)
    assert claim is not None

    def pulse() -> None:
        signs.append(1)
        if len(signs) == 3:
            kept.publish(file, claim.attempt)  # the other machine is done

    found = stored_answers(teacher, "w", digits, recipe(), tmp_path / "two", pulse, tmp_path / "results")
    assert len(signs) >= 3 and torch.equal(found, first) and teacher.asked == 18
    claim.release()
    gone = {"host": "another", "pid": 1, "attempt": "20260101T000000000000-000000", "heartbeat": 1.0}
    store.objects.put(claim_key(store.responses(_key_of(digits)).claim), to_json(gone))
    stored_answers(teacher, "v", digits, recipe(), tmp_path / "two", nobody, tmp_path / "results")
    assert teacher.asked == 36, "ninety seconds without a heartbeat"


def test_who_loses_the_claim_while_computing_has_what_the_first_published(tmp_path: Path, digits: Split) -> None:
    """Two kinds of GPU differ in the last bits: students of one description shall not, by where they learn."""
    other = stored_answers(network(3), "w", digits, recipe(), tmp_path / "one", nobody, tmp_path / "elsewhere")
    (file,) = (tmp_path / "one").glob("responses/*/answers.npy")
    kept = Store(tmp_path / "results").responses(file.parent.name)

    class Overtaken(Counted):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if not self.asked:
                assert kept.publish(file, "20260101T000000000000-000000")
            return super().forward(images)

    teacher = Overtaken()
    found = stored_answers(teacher, "w", digits, recipe(), tmp_path / "two", nobody, tmp_path / "results")
    assert torch.equal(found, other) and teacher.asked == 18


def _key_of(split: Split) -> str:
    return responses._key("v", split, recipe())


def test_whoever_waits_gives_signs_of_life(tmp_path: Path, digits: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "WAIT_S", 0.05)
    ready, go, signs = threading.Event(), threading.Event(), []

    class Slow(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            ready.set()
            go.wait(20)
            return images.flatten(1)[:, :10]

    def first() -> None:
        stored_answers(Slow(), "w", digits, recipe(), tmp_path, nobody)

    thread = threading.Thread(target=first)
    thread.start()
    assert ready.wait(20)

    def pulse() -> None:
        signs.append(1)
        if len(signs) == 3:
            go.set()

    stored_answers(Slow(), "w", digits, recipe(), tmp_path, pulse)
    thread.join()
    assert len(signs) >= 3


def test_the_least_used_go_where_there_are_too_many(
    tmp_path: Path, digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, weights in enumerate("abc"):
        stored_answers(network(1), weights, digits, recipe(), tmp_path, nobody)
        newest = max(tmp_path.glob("responses/*/about.json"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    monkeypatch.setenv(responses.LIMIT, str(2.5 * 120 * 18 * 10 * 2 / 1e9))
    stored_answers(network(1), "d", digits, recipe(), tmp_path, nobody)
    times = sorted(path.stat().st_mtime for path in tmp_path.glob("responses/*/about.json"))
    assert len(times) == 2 and times[0] == 2, "the one just computed, and the last one used before it"


def test_what_half_precision_cannot_hold_and_where_nobody_may_write(
    tmp_path: Path, digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loud(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :10] * 1e6 + 1e5

    with pytest.raises(ValueError, match="too large for responses: stored"):
        stored_answers(Loud(), "w", digits, recipe(), tmp_path, nobody)
    monkeypatch.setenv(responses.LIMIT, "50GB")
    with pytest.raises(DataError, match=r"KDTUNE_RESPONSES_GB: came '50GB'; a number of gigabytes"):
        stored_answers(network(1), "w", digits, recipe(), tmp_path, nobody)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        stored_answers(network(1), "w", digits, recipe(), tmp_path / "file", nobody)


STORED = """\
name: small
dataset: {digits: {}, train_size: 100, validation: 0.2}
seeds: 2
grid: {responses: [computed, stored]}
recipe:
  optimizer: {sgd: {lr: 0.1, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  augmentation: {crop: {padding: 1, mode: zero}}
  precision: float32
  batch_size: 20
  epochs: 3
teacher: {model: {cnn: {width: 8}}, seeds: 2, select: {rule: best, metric: val/accuracy}}
student:
  model: {mlp: {hidden: [8]}}
  distillation: {alpha: 0.9, temperature: 4, responses: $responses}
evaluation: [accuracy]
"""


def test_a_sweep_stores_them_once_for_all_students(write_sweep, tmp_path: Path) -> None:
    results = tmp_path / "r"
    assert run_sweep(write_sweep(STORED), here=True, results=str(results), data=str(tmp_path / "d")) == 0
    (folder,) = (path for path in (tmp_path / "d/responses").iterdir() if path.is_dir())
    assert np.load(folder / "answers.npy").shape == (80, 9, 10) and json.loads((folder / "about.json").read_text())
    table = kdtune.table(results / "small")
    students = table[table["role"] == "student"]
    assert students["id"].nunique() == 4, "stored answers make other runs"
    by = students.groupby("responses")["test/accuracy"].mean()
    assert abs(by["stored"] - by["computed"]) < 3
    store = Store(results)
    for id in students.loc[students["responses"] == "stored", "id"]:
        assert stored.description(store, id)["distillation"]["responses"] == "stored"
        assert all(row["time/teacher"] == 0 for row in stored.history(store, id))
    for id in students.loc[students["responses"] == "computed", "id"]:
        assert "responses" not in stored.description(store, id)["distillation"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  noise: {teacher: {dropout: {rate: 0.2}}}\n", "one answer to each view; noise.teacher.dropout needs more"),
        ("  noise: {input: {gaussian: {sigma: 0.1}}}\n", "teacher_sees: shown is not"),
    ],
)
def test_what_is_not_one_answer_to_a_clean_view_is_refused(write_sweep, more: str, said: str) -> None:
    text = STORED.replace("responses: $responses", "responses: stored, teacher_sees: shown").replace(
        "grid: {responses: [computed, stored]}\n", ""
    )
    with pytest.raises(SweepFileError, match=said):
        load_sweep(write_sweep(text.replace("evaluation:", more + "evaluation:")))


def test_two_teachers_of_one_file_and_other_normalizations_are_two(write_sweep, tmp_path: Path) -> None:
    """Constants of a normalization are no weights: the digest of these does not tell."""
    results, data = str(tmp_path / "r"), str(tmp_path / "d")
    text = STORED.replace("responses: [computed, stored]", "norm: [null, {mean: [0.9], std: [0.05]}]")
    text = text.replace("responses: $responses", "responses: stored").replace("seeds: 2\ngrid", "seeds: 1\ngrid")
    assert run_sweep(write_sweep(text.replace("seeds: 2, select", "normalization: $norm, seeds: 1, select").replace(
        "rule: best, metric: val/accuracy", "rule: paired")), here=True, results=results, data=data) == 0  # fmt: skip
    folders = [path for path in (tmp_path / "d/responses").iterdir() if path.is_dir()]
    assert len(folders) == 2
    weights = kdtune.table(tmp_path / "r/small").query("role == 'student'")["teacher.weights_sha256"]
    assert weights.nunique() == 2 or len(folders) == 2


@pytest.mark.parametrize(
    "of", ["{moments: {mean: [0.3], std: [0.2]}}", "{perturbed: {norm: l2, eps: 1.0, step: 0.1, steps: 2}}"]
)
def test_images_that_are_no_bytes_are_told_with_their_line(write_sweep, of: str) -> None:
    own = "  model: {mlp: {hidden: [8]}}\n"
    text = STORED.replace(own, f"{own}  dataset: {of}\n").replace("mode: zero", "mode: reflect")
    with pytest.raises(SweepFileError, match=r"small.yaml:\d+: student: responses: stored are of images of 8 bits"):
        load_sweep(write_sweep(text))
