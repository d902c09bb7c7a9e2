"""A pool that teaches as one, and answers that belong to other images of the same class."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SMALL
from hypothesis import given
from hypothesis import strategies as st

import kdtune
from kdtune.__main__ import main
from kdtune.planning import cost
from kdtune.planning.plan import build_plan
from kdtune.randomness import draw
from kdtune.store.standing import members_of
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.ensemble import Ensemble
from kdtune.training.network import load_finished
from kdtune.training.taught import others_of_a_class

PLAIN = SMALL.replace("rate: [0.0, 0.2]", "arm: [a]").replace(", dropout: $rate", "")
PLAIN = PLAIN.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", "").replace("grid: {arm: [a]}\n", "")
AVERAGE = PLAIN.replace("select: {rule: best, metric: val/accuracy}", "select: {rule: average}")
STORED = PLAIN.replace("temperature: 4}", "temperature: 4, responses: stored}")
SHUFFLED = PLAIN.replace("temperature: 4}", "temperature: 4, responses: stored, shuffle: class}")


def do(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout + done.stderr


def swept(text: str, root: Path) -> list[dict[str, str]]:
    """The students' rows of a sweep of this text."""
    (root / "x.yaml").write_text(text)
    status, said = do("sweep", root / "x.yaml", "--results", root / "r", "--data", root, "--here")
    assert status == 0, said
    rows = list(csv.DictReader((root / "r/small/paper/results.csv").open()))
    return [row for row in rows if row["role"] == "student"]


# The whole pool


def test_its_answer_is_the_mean_of_logits_which_is_the_geometric_mean_of_softened_answers() -> None:
    torch.manual_seed(0)
    members = [torch.nn.Linear(4, 3) for _ in range(5)]
    images = torch.rand(7, 4)
    logits = torch.stack([member(images) for member in members])
    answer = Ensemble(members)(images)
    assert torch.equal(answer, logits.mean(dim=0))
    for temperature in (1.0, 4.0):
        softened = (logits.double() / temperature).softmax(dim=2)
        product = softened.prod(dim=0) ** (1 / len(members))
        wanted = product / product.sum(dim=1, keepdim=True)
        assert torch.allclose((answer.double() / temperature).softmax(dim=1), wanted, atol=1e-6)


def test_a_student_of_the_whole_pool(tmp_path: Path) -> None:
    rows = swept(AVERAGE, tmp_path)
    (tmp_path / "plan.yaml").write_text(AVERAGE)
    plan = build_plan(load_sweep(tmp_path / "plan.yaml"), tmp_path)
    pool = [id for id, place in plan.runs.items() if place.role == "teacher"]
    assert len(pool) == 3 and {row["teacher.id"] for row in rows} == {"+".join(pool)}
    store = Store(tmp_path / "r")
    done = store.done(rows[0]["id"])
    assert done is not None
    origin = json.loads(store.file(rows[0]["id"], done, "provenance.json"))["teacher"]
    assert origin["members"].keys() == {*pool}
    assert all(origin["members"][id] == store.done(id).files["model.safetensors"] for id in pool)  # type: ignore[union-attr]
    assert not rows[0].get("teacher.metric"), "nobody was chosen"
    assert [*members_of(origin)] == pool, "in the order of the pool, in which their logits are summed"
    assert members_of({"id": "a", "weights_sha256": "b"}) == {"a": "b"}
    description = next(place.run.description for place in plan.places if place.role == "student")
    assert description["teacher"] == {"runs": pool, "rule": "average"}


def test_stored_answers_of_a_pool_are_those_of_the_mean(tmp_path: Path) -> None:
    """An independent mean, of the networks that the store gives."""
    swept(AVERAGE.replace("temperature: 4}", "temperature: 4, responses: stored}"), tmp_path)
    (path,) = tmp_path.glob("responses/*/answers.npy")
    kept = np.load(path)[:, 0]
    plan = kdtune.plan(tmp_path / "x.yaml", data=str(tmp_path))
    networks = [load_finished(id, Store(tmp_path / "r")) for id, place in plan.runs.items() if place.role == "teacher"]
    from kdtune.data.loading import inputs, load

    place = next(place for place in plan.places if place.role == "student")
    images = inputs(load(place.run.dataset, tmp_path, "cpu", place.run.content).train.images)
    with torch.no_grad():
        wanted = torch.stack([network(images) for network in networks]).mean(dim=0)
    assert np.abs(kept - wanted.numpy()).max() < 0.01


def test_a_late_evaluation_asks_the_whole_pool(tmp_path: Path) -> None:
    swept(AVERAGE, tmp_path)
    late = ["evaluate", tmp_path / "r/small", "--evaluation", "agreement", "--data", tmp_path, "--here"]
    status, said = do(*late)
    assert status == 0, said
    rows = list(csv.DictReader((tmp_path / "r/small/paper/results.csv").open()))
    assert all(0 < float(row["teacher/agreement"]) <= 100 for row in rows if row["role"] == "student")


def test_its_teachers_are_counted_in_what_it_costs(tmp_path: Path) -> None:
    works = []
    for name, text in (("one", PLAIN), ("pool", AVERAGE)):
        (tmp_path / f"{name}.yaml").write_text(text)
        plan = build_plan(load_sweep(tmp_path / f"{name}.yaml"), tmp_path)
        student = next(place for place in plan.places if place.role == "student").run
        seen = cost.images(student.dataset)
        teacher = next(place for place in plan.places if place.role == "teacher").run
        works.append((cost.training(student, seen, teacher), cost.training(student, seen)))
    asked_one, asked_pool = (with_teacher - without for with_teacher, without in works)
    assert asked_pool == 3 * asked_one > 0


@pytest.mark.parametrize(
    ("there", "instead", "told"),
    [
        ("{rule: average}", "{rule: average, metric: val/accuracy}", "rule: paired and average have none"),
        ("temperature: 4}", "temperature: 4, shuffle: class}", "write responses: stored"),
        ("temperature: 4}", "temperature: 4, responses: stored, shuffle: all}", "shuffle"),
    ],
)
def test_what_does_not_go_together_is_refused(there: str, instead: str, told: str, tmp_path: Path) -> None:
    assert there in AVERAGE
    (tmp_path / "x.yaml").write_text(AVERAGE.replace(there, instead))
    with pytest.raises(SweepFileError, match=told):
        load_sweep(tmp_path / "x.yaml")


# Answers to other images


@given(st.lists(st.integers(0, 4), min_size=0, max_size=60), st.integers(0, 9))
def test_every_image_has_another_one_of_its_class_and_each_is_taken_once(classes: list[int], seed: int) -> None:
    labels = torch.tensor([*classes, *classes], dtype=torch.int64)  # two of each at least
    if not len(labels):
        return
    others = others_of_a_class(labels, draw(seed, "x"))
    assert torch.equal(others.sort().values, torch.arange(len(labels)))
    assert torch.equal(labels[others], labels) and not (others == torch.arange(len(labels))).any()


def test_the_order_is_drawn_and_stays() -> None:
    labels = torch.arange(40) % 2
    first, again, other = (others_of_a_class(labels, draw(seed, "x")) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_class_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="class 2 has one training image"):
        others_of_a_class(torch.tensor([0, 0, 2]), draw(0, "x"))


def test_a_student_of_shuffled_answers_sees_those_of_another_image_all_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    original = torch.nn.functional.kl_div

    def noted(student: torch.Tensor, teacher: torch.Tensor, **words: Any) -> torch.Tensor:
        seen.append(teacher.detach().clone())
        return original(student, teacher, **words)

    monkeypatch.setattr("torch.nn.functional.kl_div", noted)
    rows = swept(SHUFFLED.replace("seeds: 2", "seeds: 1"), tmp_path)
    monkeypatch.undo()
    plan = kdtune.plan(tmp_path / "x.yaml", data=str(tmp_path))
    (path,) = tmp_path.glob("responses/*/answers.npy")
    kept = torch.from_numpy(np.load(path))[:, 0].float()
    from kdtune.data.loading import load

    place = next(place for place in plan.places if place.role == "student")
    labels = load(place.run.dataset, tmp_path, "cpu", place.run.content).train.labels
    others = others_of_a_class(labels, draw(0, "responses.shuffle"))
    softened = (kept[others] / 4).log_softmax(dim=1)
    rows_seen = torch.cat(seen)[-3 * len(labels) :]  # before them a step was tried
    found = torch.cdist(rows_seen, softened).argmin(dim=1)
    assert torch.allclose(softened[found], rows_seen, atol=1e-4), "each answer is one of the teacher's"
    assert torch.equal(found.bincount(minlength=len(labels)), torch.full((len(labels),), 3)), "each once an epoch"
    assert rows[0]["distillation.shuffle"] == "class"


def test_shuffled_and_plain_are_other_runs_of_one_teacher_and_one_file_of_answers(tmp_path: Path) -> None:
    first = swept(STORED, tmp_path)
    second = swept(SHUFFLED, tmp_path)
    assert {row["id"] for row in first}.isdisjoint(row["id"] for row in second)
    assert {row["teacher.id"] for row in first} == {row["teacher.id"] for row in second}
    assert len([*tmp_path.glob("responses/*/answers.npy")]) == 1
