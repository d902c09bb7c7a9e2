"""Runs in the oracle's world: what an untrained teacher is, what its students learn from, what that leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
import stored
import torch
from torch import nn
from world import DATA, STUDENT, TEACHER, WORLD, at, of_role, performed, planned

import kdtune
from kdtune.api import run_sweep
from kdtune.cli.evaluate import evaluate_late
from kdtune.data.loading import load
from kdtune.evaluation.evaluator import predict
from kdtune.models.model import Model
from kdtune.run import Run
from kdtune.store.store import Store
from kdtune.training import weights
from kdtune.training.network import build_network, load_finished, starting_network
from kdtune.training.preflight import preflight
from kdtune.training.run import perform
from kdtune.training.taught import answers_of

LONG = WORLD.replace("epochs: 3", "epochs: 20")  # 80 points in batches of 16: 100 steps
LABELS = STUDENT.replace("loss: {mse: {}}", "loss: {ce: {}}")
SHAPE, CLASSES = (12, 1, 1), 3


def swept(root: Path, text: str) -> pandas.DataFrame:
    """The table of a whole sweep, by id."""
    (root / "world.yaml").write_text(text)
    assert run_sweep(root / "world.yaml", profile="paper", here=True, results=str(root / "r"), data=str(root)) == 0
    return kdtune.table(root / "r/world").set_index("id")


def rows_of(network: nn.Module) -> torch.Tensor:
    """W1, float64 [width, D]."""
    (layer, _) = (each for each in network.modules() if isinstance(each, nn.Linear))
    return layer.weight.detach().double()


def off_the_subspace(root: Path, run: Run, network: nn.Module) -> torch.Tensor:
    columns = load(run.dataset, root).subspace.double()
    return rows_of(network) - rows_of(network) @ columns @ columns.T


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pandas.DataFrame]:
    root = tmp_path_factory.mktemp("world")
    return root, swept(root, WORLD.replace(STUDENT, LABELS).replace("[accuracy]", "[accuracy, fit, agreement]"))


def test_every_student_is_told_what_its_own_teacher_answers(finished: tuple[Path, pandas.DataFrame]) -> None:
    """In training, held out and in the test: rates of a real run against the two networks that it left."""
    root, table = finished
    store, seen = Store(root / "r"), []
    for id in table.index[table.role == "student"]:
        chosen = stored.provenance(store, id)["teacher"]["id"]
        assert table.seed[chosen] == table.seed[id], "paired: each by the one of its seed"
        student, teacher = kdtune.load(id, str(root / "r")), kdtune.load(chosen, str(root / "r"))
        data = load(planned_run(root, id).dataset, root)
        rates = []
        for split in (data.train, data.validation, data.test):
            alike = predict(student, split.images).argmax(1) == predict(teacher, split.images).argmax(1)
            rates.append(100 * alike.double().mean().item())
        assert [table[name][id] for name in ("fit/accuracy", "val/accuracy", "test/accuracy")] == pytest.approx(rates)
        assert table["test/accuracy"][id] == table["teacher/agreement"][id]
        stand_ins = predict(student, data.test.images).argmax(1) == torch.arange(100) % 3
        assert rates[2] != 100 * stand_ins.double().mean().item(), "labels that the set is read with are nobody's"
        seen.append(answers_of(teacher, "cpu")(data.test.images))
    assert (seen[0] != seen[1]).any(), "two teachers, two truths"


def planned_run(root: Path, id: str) -> Run:
    return kdtune.plan(root / "world.yaml", profile="paper", data=str(root)).runs[id].run


def test_a_teacher_that_is_not_trained_is_what_its_seed_draws_and_always_right(
    finished: tuple[Path, pandas.DataFrame],
) -> None:
    root, table = finished
    store, kept = Store(root / "r"), []
    for id in table.index[table.role == "teacher"]:
        run = planned_run(root, id)
        assert run.recipe is None and run.watch == () and "recipe" not in run.description
        network = starting_network(run, SHAPE, CLASSES)
        assert stored.weights(store, id) == weights.save(network)
        assert stored.history(store, id) == []
        assert table["test/accuracy"][id] == table["val/accuracy"][id] == table["fit/accuracy"][id] == 100
        assert pandas.isna(table["teacher/agreement"][id])
        kept.append(rows_of(network))
    assert not torch.equal(*kept), "another seed, another teacher"


@pytest.mark.parametrize(
    "model",
    [
        {"two-layer": {"width": 4, "init": {"normal": 0.1}}},
        {"two-layer": {"width": 4, "init": {"grid": {"strength": 0.0}}}},
        {"mlp": {"hidden": [4]}},
    ],
)
def test_a_student_of_the_same_seed_does_not_begin_as_its_teacher(model: dict[str, Any], tmp_path: Path) -> None:
    """Nor with the same rows: networks of one kind begin with the same numbers of a stream, whatever their width."""
    told = str(model).replace("'", "")
    text = WORLD.replace("{two-layer: {width: 4, init: {grid: {strength: 1.0}}}}", told)
    plan = planned(text.replace("{two-layer: {width: 8, init: {normal: 0.1}}}", told.replace("4", "8")), tmp_path)
    teacher, student = (of_role(plan, role)[0].run for role in ("teacher", "student"))
    assert teacher.seed == student.seed == 0
    theirs, ours = (rows_of(starting_network(run, SHAPE, CLASSES)) for run in (teacher, student))
    cosine = torch.nn.functional.normalize(theirs) @ torch.nn.functional.normalize(ours).T
    assert cosine.abs().max() < 0.99
    own = Model.model_validate(model)
    trained = rows_of(build_network(own, None, 0, SHAPE, CLASSES))
    assert not torch.equal(trained, theirs)


def initial_and_final(root: Path, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(I - P) W1 of the first student before and after its training."""
    plan = planned(text, root)
    context = at(root)
    assert {str(outcome.state) for outcome in performed(plan, context).values()} == {"done"}
    run = of_role(plan, "student")[0].run
    begun, ended = starting_network(run, SHAPE, CLASSES), load_finished(run.id, context.store)
    assert (rows_of(ended) - rows_of(begun)).norm(dim=1).max() > 0.05, "it has learned"
    return off_the_subspace(root, run, begun), off_the_subspace(root, run, ended)


def test_plain_gradient_descent_leaves_rows_off_the_subspace_as_they_were(tmp_path: Path) -> None:
    before, after = initial_and_final(tmp_path, LONG)
    assert (after - before).abs().max() < 1e-5 < before.abs().max()


def test_weight_decay_shrinks_them_by_its_factor_a_step(tmp_path: Path) -> None:
    before, after = initial_and_final(tmp_path, LONG.replace("weight_decay: 0.0", "weight_decay: 0.1"))
    assert (after - before * (1 - 0.05 * 0.1) ** 100).abs().max() < 1e-5
    assert (after - before).abs().max() > 0.01


def test_noise_off_the_subspace_moves_them_and_noise_within_it_does_not(tmp_path: Path) -> None:
    noisy = LONG.replace(
        "{mse: {}}", "{mse: {teacher_sees: shown}}\n  noise: {input: {gaussian: {sigma: 0.5, within: W}}}"
    )
    before, after = initial_and_final(tmp_path, noisy.replace("W}", "complement}"))
    assert (after - before).abs().max() > 0.01
    before, after = initial_and_final(tmp_path, noisy.replace("W}", "subspace}"))
    assert (after - before).abs().max() < 1e-5


def test_a_student_that_is_its_teacher_has_no_loss_and_full_marks(tmp_path: Path) -> None:
    """The teacher is a file with the weights that the student's seed draws."""
    model = Model.model_validate({"two-layer": {"width": 8, "init": {"normal": 0.1}}})
    (tmp_path / "own.safetensors").write_bytes(weights.save(build_network(model, None, 0, SHAPE, CLASSES)))
    own = "teacher: {model: {two-layer: {width: 8, init: {normal: 0.1}}}, checkpoint: own.safetensors}\n"
    text = WORLD.replace(TEACHER, own).replace("seeds: 2", "seeds: 1")
    measured = "[accuracy, {specialization: {subspace: data}}, {oracle: {steps: 3, subspace: data}}]"
    table = swept(tmp_path, text.replace("[accuracy]", measured))
    (id,) = table.index[table.role == "student"]
    row, history = table.loc[id], stored.history(Store(tmp_path / "r"), id)
    assert {(each["train/loss"], each["train/accuracy"]) for each in history} == {(0.0, 100.0)}
    for name in ("best", "strong", "cos_in", "cos_out", "best@moved", "initial"):
        assert row[f"specialization/{name}"] == pytest.approx(1, abs=1e-6), name
    for name in ("clean", "pgd3", "pgd3@in", "pgd3@out"):
        assert row[f"oracle/{name}"] == 100, name
    assert row["oracle/gap"] == row["oracle/gap_in"] == row["oracle/gap_out"] == 0
    assert row["test/accuracy"] == 100


def test_what_is_measured_late_is_what_would_have_been_measured(tmp_path: Path) -> None:
    more = "{oracle: {steps: 3, subspace: data}}"
    early, late = tmp_path / "early", tmp_path / "late"
    early.mkdir()
    late.mkdir()
    at_once = swept(early, WORLD.replace("[accuracy]", f"[accuracy, fit, {more}]"))
    swept(late, WORLD)
    for each in ("fit", more):
        assert evaluate_late(late / "r/world", None, each, here=True) == 0
    after = kdtune.table(late / "r/world").set_index("id")
    measured = [name for name in at_once if "/" in name and not name.startswith("flags/")]
    assert {"fit/accuracy", "test/accuracy", "oracle/pgd3@out", "val/accuracy"} <= set(measured)
    pandas.testing.assert_frame_equal(after.loc[at_once.index, measured], at_once[measured])


def test_a_student_that_is_interrupted_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    plan = planned(
        WORLD.replace("{mse: {}}", "{mse: {}}\n  noise: {input: {gaussian: {sigma: 0.5, within: complement}}}"),
        tmp_path,
    )
    whole, parts = at(tmp_path, "a"), at(tmp_path, "b", checkpoint_every=0.0, stopped=lambda: True)
    performed(plan, whole)
    performed(plan, replace(parts, stopped=lambda: False), "teacher")
    student = of_role(plan, "student")[0]
    assert [perform(student.run, plan.evaluation, parts).state for _ in range(2)] == ["stopped"] * 2
    assert perform(student.run, plan.evaluation, replace(parts, stopped=lambda: False)).state == "done"
    assert stored.weights(whole.store, student.id) == stored.weights(parts.store, student.id)


def test_a_pool_that_answers_as_one_labels_as_one(tmp_path: Path) -> None:
    """rule: average: labels are of the mean of the logits, and so is the test."""
    text = (
        WORLD.replace(STUDENT, LABELS)
        .replace("{rule: paired}", "{rule: average}")
        .replace("[accuracy]", "[accuracy, agreement]")
    )
    table = swept(tmp_path, text)
    teachers = [kdtune.load(id, str(tmp_path / "r")) for id in table.index[table.role == "teacher"]]
    (id, _) = table.index[table.role == "student"]
    points = load(planned_run(tmp_path, id).dataset, tmp_path).test.images
    truth = torch.stack([predict(each, points) for each in teachers]).mean(0).argmax(1)
    alike = predict(kdtune.load(id, str(tmp_path / "r")), points).argmax(1) == truth
    assert (
        table["test/accuracy"][id]
        == table["teacher/agreement"][id]
        == pytest.approx(100 * alike.double().mean().item())
    )


def test_images_that_have_labels_keep_them_beside_an_untrained_teacher(tmp_path: Path) -> None:
    """On digits an untrained teacher is at chance: nobody writes its answers over the labels."""
    text = WORLD.replace(DATA, "{digits: {}, train_size: 60, validation: 0.2}")
    table = swept(tmp_path, text.replace("width: 4", "width: 16"))
    assert (table["test/accuracy"][table.role == "teacher"] < 40).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_tried_before_the_start_in_both_precisions(precision: str, tmp_path: Path) -> None:
    plan = planned(WORLD.replace("float32", precision), tmp_path)
    assert preflight(plan.runs, [*plan.runs], [*plan.runs], plan.evaluation, tmp_path) == []
    assert {str(outcome.state) for outcome in performed(plan, at(tmp_path)).values()} == {"done"}


# Ids


@pytest.mark.parametrize(
    ("there", "instead", "changed"),
    [
        ("std: 1.5", "std: 1.6", "teacher student"),
        ("rank: 4", "rank: 5", "teacher student"),
        ("classes: 3", "classes: 4", "teacher student"),
        ("count: 100", "count: 101", "teacher student"),
        ("validation: 0.2}", "validation: 0.2, seed: 1}", "teacher student"),
        ("strength: 1.0", "strength: 1.5", "teacher student"),
        ("untrained: true, ", "untrained: true, seeds: [0, 1], ", ""),
        ("untrained: true, ", "untrained: true, recipe: {epochs: 7}, ", ""),
        ("untrained: true, ", "untrained: true, recipe: {keep: {best: val/accuracy}}, ", ""),
        ("epochs: 3", "epochs: 4", "student"),
        ("normal: 0.1", "normal: 0.2", "student"),
        ("mse: {}", "mse: {teacher_sees: shown}", ""),
        ("mse: {}", "mse: {teacher_sees: shown}}\n  noise: {input: {gaussian: {sigma: 0.1}}", "student"),
    ],
)
def test_what_changes_numbers_changes_ids_and_nothing_else_does(
    there: str, instead: str, changed: str, tmp_path: Path
) -> None:
    assert there in WORLD
    before, after = planned(WORLD, tmp_path), planned(WORLD.replace(there, instead), tmp_path)
    moved = [
        role
        for role in ("teacher", "student")
        if {place.id for place in of_role(before, role)}.isdisjoint({place.id for place in of_role(after, role)})
    ]
    assert moved == changed.split()


def test_what_a_knob_says_of_the_subspace_is_part_of_the_id(tmp_path: Path) -> None:
    arms = [
        "gaussian: {sigma: 0.1}",
        "gaussian: {sigma: 0.1, within: complement}",
        "gaussian: {sigma: 0.1, within: subspace}",
        "pgd: {norm: l2, eps: 0.5, step: 0.25, steps: 2, climbs: mse}",
        "pgd: {norm: l2, eps: 0.5, step: 0.25, steps: 2, climbs: oracle}",
        "pgd: {norm: l2, eps: 0.5, step: 0.25, steps: 2, climbs: oracle, share: 0.5}",
    ]
    ids = set()
    for loss in ("{mse: {}}", "{mse: {teacher_sees: shown}}"):
        for arm in arms:
            text = WORLD.replace("loss: {mse: {}}", f"loss: {loss}\n  noise: {{input: {{{arm}}}}}")
            ids.add(of_role(planned(text, tmp_path), "student")[0].id)
    assert len(ids) == 2 * len(arms)
