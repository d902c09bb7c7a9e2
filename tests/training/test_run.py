"""One run from start to end, for real: trained, evaluated, stored, resumed."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch

from kdtune.data.loading import load
from kdtune.evaluation.flags import flags_of
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.report import summary, table
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.run import RunContext, load_finished, perform


class Killed(BaseException):
    """Stands for a process that is gone: nothing of the run's own can catch it."""


@pytest.fixture
def place(tmp_path):
    return RunContext(Store(tmp_path / "results"), tmp_path / "data")


@pytest.fixture
def plan_of(write_sweep):
    def plan_of(text: str | None = None):
        return build_plan(load_sweep(write_sweep(text) if text else write_sweep()), Path("nowhere"))

    return plan_of


def do(plan, place) -> dict[str, str]:
    """The whole plan, one run after the other."""
    dispatch = Dispatch(plan, Standing(place.store, plan.evaluators))
    while (planned := dispatch.next()) is not None:
        ended = perform(planned.run, plan.evaluation, place)
        dispatch.ended(planned.id, ended.traceback)
    return dispatch.states


def result(store: Store, id: str) -> tuple:
    """All of a run that must be the same, byte for byte, however often it was interrupted."""
    (hash,) = (
        key.rsplit("/", 1)[1][:-5] for key in store.objects.list(f"runs/{id}/evaluations") if key.endswith(".json")
    )
    rows = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in store.history(id)]
    return store.weights(id), rows, store.evaluation(id, hash)


def test_a_sweep_from_teachers_to_students(plan_of, place):
    plan = plan_of()
    assert set(do(plan, place).values()) == {"done"}
    (hash,) = plan.evaluators
    for id, planned in plan.runs.items():
        metrics = place.store.evaluation(id, hash)
        assert 0 <= metrics["val/accuracy"] <= 100 and metrics["test/nll"] > 0
        history = place.store.history(id)
        assert [row["epoch"] for row in history] == [1, 2, 3]
        assert ("train/kd" in history[0]) == (planned.role == "student")
        assert history[-1]["val/accuracy"] == pytest.approx(metrics["val/accuracy"])
        assert place.store.description(id) == planned.run.description
        assert place.store.checkpoint(id) is None
        if planned.role == "student":
            chosen = place.store.provenance(id)["teacher"]
            scores = {teacher: place.store.evaluation(teacher, hash)["val/accuracy"] for teacher in planned.waits_for}
            best = max(scores.values())
            assert chosen["id"] == next(teacher for teacher, score in scores.items() if score == best)
            if planned.parameters["rate"] == 0.2:
                assert history[0]["noise/teacher.dropout"] == pytest.approx(0.2, abs=0.1)


def test_doing_it_again_changes_nothing(plan_of, place):
    plan = plan_of()
    do(plan, place)
    before = {key: place.store.objects.get(key) for key in place.store.objects.list("runs")}
    assert Dispatch(plan, Standing(place.store, plan.evaluators)).next() is None
    assert before == {key: place.store.objects.get(key) for key in place.store.objects.list("runs")}


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_killed_at_any_epoch_it_ends_with_the_same_bytes(plan_of, tmp_path, epoch):
    plan = plan_of()
    undisturbed = RunContext(Store(tmp_path / "a"), tmp_path / "data")
    do(plan, undisturbed)
    student = list(plan.runs)[-1]

    def kill(history):
        if len(history) == epoch:
            raise Killed

    store = Store(tmp_path / "b")
    planned = [plan.runs[id] for id in (*plan.runs[student].waits_for, student)]
    for each in planned:
        with pytest.raises(Killed):
            perform(each.run, plan.evaluation, RunContext(store, tmp_path / "data", checkpoint_every=0, report=kill))
        assert store.checkpoint(each.id) is not None
        assert perform(each.run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
    for each in planned:
        assert result(store, each.id) == result(undisturbed.store, each.id)


def test_a_run_that_keeps_its_best_epoch_ends_with_it_however_it_was_interrupted(plan_of, tmp_path, small_sweep):
    text = small_sweep.replace("epochs: 3", "epochs: 5\n  keep: {best: val/accuracy}").replace("lr: 0.1", "lr: 0.7")
    plan = plan_of(text)
    undisturbed, store = RunContext(Store(tmp_path / "a"), tmp_path / "data"), Store(tmp_path / "b")
    states = do(plan, undisturbed)
    (hash,) = plan.evaluators
    columns = {row["id"]: row for row in table.rows(plan, Standing(undisturbed.store, plan.evaluators), states)}
    epochs = []
    for id in plan.runs:
        history = undisturbed.store.history(id)
        scores = [row["val/accuracy"] for row in history]
        kept = undisturbed.store.provenance(id)["kept"]
        assert kept == {"epoch": scores.index(max(scores)) + 1, "metric": "val/accuracy", "score": max(scores)}
        assert undisturbed.store.evaluation(id, hash)["val/accuracy"] == pytest.approx(max(scores))
        assert columns[id]["kept.epoch"] == kept["epoch"]
        epochs.append(kept["epoch"])
    assert min(epochs) < 5, "else nothing is shown"

    def kill(history):
        if len(history) == 4:
            raise Killed

    for id, planned in plan.runs.items():
        with pytest.raises(Killed):
            perform(planned.run, plan.evaluation, RunContext(store, tmp_path / "data", checkpoint_every=0, report=kill))
        assert perform(planned.run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
        assert result(store, id) == result(undisturbed.store, id)
        assert store.provenance(id)["kept"] == undisturbed.store.provenance(id)["kept"]


EVERY_KNOB = """
  noise:
    input: {gaussian: {sigma: 0.1, clamp: true}}
    teacher:
      dropout: {rate: 0.2, bn: train, passes: 2}
      signal_noise: {sigma: 0.1}
      swap: {rate: 0.5, pairs: all, threshold: 0.3}
    target: {variability: {rate: 0.2}, smoothing: {rate: 0.1}}
"""


@pytest.fixture
def noisy_sweep(small_sweep):
    """All knobs at once, on a teacher with batch normalisation, and corrupted labels."""
    text = small_sweep.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", EVERY_KNOB.lstrip("\n"))
    text = text.replace("model: {mlp: {hidden: [8], dropout: $rate}}", "model: {cnn: {width: 2, dropout: $rate}}")
    text = text.replace("[0.0, 0.2]", "[0.2]").replace("seeds: 2", "seeds: 1").replace("seeds: 3", "seeds: 1")
    return text.replace("validation: 0.2}", "validation: 0.2, labels: {corruption: {rate: 0.3}}}")


def test_with_every_knob_on_a_run_goes_on_to_the_same_bytes(plan_of, tmp_path, noisy_sweep):
    plan = plan_of(noisy_sweep)
    undisturbed, store = RunContext(Store(tmp_path / "a"), tmp_path / "data"), Store(tmp_path / "b")
    assert set(do(plan, undisturbed).values()) == {"done"}

    def kill(history):
        if len(history) == 2:
            raise Killed

    for id, planned in plan.runs.items():
        with pytest.raises(Killed):
            perform(planned.run, plan.evaluation, RunContext(store, tmp_path / "data", checkpoint_every=0, report=kill))
        assert perform(planned.run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
        assert result(store, id) == result(undisturbed.store, id)
    _, student = plan.runs
    logged = {name: value for name, value in store.history(student)[-1].items() if name.startswith("noise/")}
    assert logged == {
        "noise/input.gaussian": pytest.approx(0.08, abs=0.03),  # half of what would leave [0, 1] is cut off
        "noise/teacher.dropout": pytest.approx(0.2, abs=0.1),
        "noise/teacher.signal_noise": pytest.approx(0.1, rel=0.3),
        "noise/teacher.swap": pytest.approx(0.5, abs=0.2),
        "noise/target.variability": pytest.approx(0.2, abs=0.3),
        "noise/target.smoothing": pytest.approx(0.1),
        "noise/labels.corruption": pytest.approx(0.27, abs=0.15),
    }


def test_which_labels_are_wrong_is_kept_beside_the_run(plan_of, place, noisy_sweep):
    """The same mask for the teacher and its student; none where labels are clean."""
    plan = plan_of(noisy_sweep)
    do(plan, place)
    dataset = next(iter(plan.runs.values())).run.dataset
    corrupted = load(dataset, place.data_dir).corrupted
    clean = load(dataset.model_copy(update={"labels": ()}), place.data_dir).train.labels
    assert torch.equal(corrupted, load(dataset, place.data_dir).train.labels != clean)
    for id in plan.runs:
        assert place.store.corrupted(id).tolist() == corrupted.tolist()
        assert place.store.history(id)[0]["noise/labels.corruption"] == float(corrupted.double().mean())
        assert "labels.npz" in place.store.done(id).files
    untouched = plan_of()
    do(untouched, place)
    assert all(place.store.corrupted(id) is None for id in untouched.runs)


def test_a_student_alone_and_one_with_a_teacher_in_one_sweep(plan_of, place, small_sweep):
    """Gaussian augmentation beside Soft Randomization: the teacher is an axis whose value may be null."""
    text = small_sweep.replace("{rate: [0.0, 0.2]}", "{kd: [null, {alpha: 0.9, temperature: 4}], sigma: [0.0, 0.1]}")
    text = text.replace("distillation: {alpha: 0.9, temperature: 4}", "distillation: $kd").replace("$rate", "0.1")
    text = text.replace("{teacher: {dropout: {rate: 0.1}}}", "{input: {gaussian: {sigma: $sigma}}}")
    plan = plan_of(text)
    states = do(plan, place)
    assert set(states.values()) == {"done"} and len(states) == 3 + 2 * 2 * 2
    rows = table.rows(plan, Standing(place.store, plan.evaluators), states)
    students = [row for row in rows if row["role"] == "student"]
    assert Counter(row["kd"] for row in students) == {None: 4, "alpha=0.9,temperature=4": 4}
    for row in students:
        history = place.store.history(row["id"])[0]
        alone = row["kd"] is None
        assert alone == ("train/kd" not in history) == ("teacher.id" not in row) == ("distillation.alpha" not in row)
        assert history.get("noise/input.gaussian", 0) == pytest.approx(row["sigma"], rel=0.1)
    assert all("kd" not in row for row in rows if row["role"] == "teacher")
    assert {planned.name for planned in plan.runs.values()} >= {
        "student kd=null sigma=0.1 seed=0",
        "student kd=alpha=0.9,temperature=4 sigma=0 seed=1",
        "teacher seed=2",
    }
    assert "student kd=alpha=0.9,temperature=4 sigma=0.1" in summary.table(plan, rows)
    assert b"alpha=0.9" in table.to_csv(rows)
    frame = parquet.read_table(io.BytesIO(table.to_parquet(rows, {}))).to_pandas()
    assert frame["kd"].isna().sum() == 4 + 3


def test_a_new_evaluator_on_a_finished_run_trains_nothing(plan_of, place, small_sweep, monkeypatch):
    do(plan_of(), place)
    more = plan_of(
        small_sweep.replace(
            "[accuracy]", "[accuracy, {pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 1, images: 20}}]"
        )
    )
    assert set(Dispatch(more, Standing(place.store, more.evaluators)).states.values()) == {"partial"}
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: pytest.fail("trained"))
    assert set(do(more, place).values()) == {"done"}
    id, hash = list(more.runs)[-1], list(more.evaluators)[-1]
    assert "robust/pgd2" in place.store.evaluation(id, hash)


def test_evaluators_see_the_teacher_at_once_or_later(plan_of, tmp_path, small_sweep):
    """A student's own teacher, without the noise it taught with; those who learned alone have none."""
    sweep = small_sweep.replace("[accuracy]", "[accuracy, {masking: {eps: 0.1, step: 0.05, images: 30, queries: 5}}]")
    at_once, later = (RunContext(Store(tmp_path / name), tmp_path / "data") for name in ("a", "b"))
    plan = plan_of(sweep)
    do(plan, at_once)
    do(plan_of(), later)
    do(plan, later)
    _, hash = plan.evaluators
    for id, planned in plan.runs.items():
        metrics = at_once.store.evaluation(id, hash)
        assert metrics == later.store.evaluation(id, hash)
        assert ("masking/transfer" in metrics) == (planned.role == "student")
        assert (flags_of(metrics) is not None) and "masking/pgd100" in metrics


def test_divergence_is_a_result_and_not_tried_again(plan_of, place, small_sweep):
    plan = plan_of(small_sweep.replace("lr: 0.1", "lr: 1e30"))
    states = do(plan, place)
    assert {states[id] for id, planned in plan.runs.items() if planned.role == "teacher"} == {"diverged"}
    assert {states[id] for id, planned in plan.runs.items() if planned.role == "student"} == {"skipped"}
    assert Dispatch(plan, Standing(place.store, plan.evaluators)).next() is None


def test_a_runs_own_exception_is_kept_with_its_cause(plan_of, place, monkeypatch):
    plan = plan_of()
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: 1 / 0)
    id = next(iter(plan.runs))
    assert perform(plan.runs[id].run, plan.evaluation, place).state == "failed"
    failure = Standing(place.store).look(id).failure
    assert failure["type"] == "ZeroDivisionError" and "train" in failure["traceback"]
    assert place.store.owner(id) is None, "its claim is released"
    monkeypatch.undo()
    assert perform(plan.runs[id].run, plan.evaluation, place).state == "done"


def test_a_run_claimed_elsewhere_is_left_alone(plan_of, place):
    plan = plan_of()
    id = next(iter(plan.runs))
    with place.store.claim(id):
        assert perform(plan.runs[id].run, plan.evaluation, place).state == "elsewhere"
    assert Standing(place.store).state(id) == "new"


def test_a_finished_network_is_loaded_from_the_store_alone(plan_of, place):
    plan = plan_of()
    do(plan, place)
    network = load_finished(list(plan.runs)[-1], place.store)
    assert not network.training
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(LookupError):
        load_finished("0" * 12, place.store)


def test_a_teacher_of_ones_own_teaches_without_being_trained(plan_of, place, small_sweep, tmp_path):
    do(plan_of(), place)
    trained = load_finished(next(iter(plan_of().runs)), place.store)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in trained.state_dict().items()}}, tmp_path / "own.pt"
    )
    own = small_sweep.replace("  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n", "  checkpoint: own.pt\n")
    own = own.replace("{rate: [0.0, 0.2]}", "{rate: [0.2]}")
    plan = plan_of(own)
    assert set(do(plan, place).values()) == {"done"}
    teacher = next(id for id, planned in plan.runs.items() if planned.role == "teacher")
    assert place.store.history(teacher) == []
    (hash,) = plan.evaluators
    original = place.store.evaluation(next(iter(plan_of().runs)), hash)
    assert place.store.evaluation(teacher, hash) == original

    wrong = plan_of(own.replace("hidden: [8], dropout: $rate", "hidden: [9], dropout: $rate"))
    states = do(wrong, place)
    bad = next(id for id, planned in wrong.runs.items() if planned.role == "teacher")
    assert states[bad] == "failed"
    assert "in the file" in Standing(place.store).look(bad).failure["message"]
