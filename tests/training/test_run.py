"""One run from start to end, for real: trained, evaluated, stored, resumed."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import stored
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import kdtune.training.run
from kdtune.data.loading import load
from kdtune.evaluation.accuracy import accuracy
from kdtune.evaluation.evaluation import Evaluation
from kdtune.evaluation.flags import flags_of
from kdtune.models.model import Model
from kdtune.models.small import MLP
from kdtune.networks import Normalization
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.report import summary, table
from kdtune.run import Choice, Run
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.context import RunContext
from kdtune.training.loop import TrainingState
from kdtune.training.network import build_network, load_finished, starting_network
from kdtune.training.run import capture_of, heard, perform, weights_of
from kdtune.training.teacher import best

MASKING = "{masking: {eps: 0.1, step: 0.05, images: 30, queries: 5}}"
PGD = "{pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 1, images: 20}}"


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


def perform_until(epoch: int, run: Run, evaluation: Evaluation, store: Store, data: Path) -> None:
    """Its process is gone when so many epochs are over, each kept as a checkpoint."""

    def kill(history):
        if len(history) == epoch:
            raise Killed

    with pytest.raises(Killed):
        perform(run, evaluation, RunContext(store, data, checkpoint_every=0, report=kill))


def result(store: Store, id: str) -> tuple:
    """All of a run that must be the same, byte for byte, however often it was interrupted."""
    (hash,) = {Path(key).stem for key in store.objects.list(f"runs/{id}") if "/evaluations/" in key}
    history = stored.history(store, id)
    rows = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in history]
    return stored.weights(store, id), rows, store.evaluation(id, hash)


def test_a_sweep_from_teachers_to_students(plan_of, place):
    plan = plan_of()
    assert set(do(plan, place).values()) == {"done"}
    (hash,) = plan.evaluators
    for id, planned in plan.runs.items():
        metrics = place.store.evaluation(id, hash)
        assert 0 <= metrics["val/accuracy"] <= 100 and metrics["test/nll"] > 0
        history = stored.history(place.store, id)
        assert [row["epoch"] for row in history] == [1, 2, 3]
        assert ("train/kd" in history[0]) == (planned.role == "student")
        assert history[-1]["val/accuracy"] == pytest.approx(metrics["val/accuracy"])
        assert stored.description(place.store, id) == planned.run.description
        assert stored.checkpoint(place.store, id) is None
        if planned.role == "student":
            chosen = stored.provenance(place.store, id)["teacher"]
            scores = {teacher: place.store.evaluation(teacher, hash)["val/accuracy"] for teacher in planned.waits_for}
            best = max(scores.values())
            assert chosen["id"] == next(teacher for teacher, score in scores.items() if score == best)
            if planned.parameters["rate"] == 0.2:
                assert history[0]["noise/teacher.dropout"] == pytest.approx(0.2, abs=0.1)


def test_where_less_is_better_the_least_teaches(plan_of, place, small_sweep):
    """Row A6: four teachers, chosen by val/nll."""
    text = small_sweep.replace("metric: val/accuracy", "metric: val/nll").replace("  seeds: 3", "  seeds: 4")
    plan = plan_of(text.replace("rate: [0.0, 0.2]", "rate: 0.2").replace("seeds: 2", "seeds: 1"))
    assert set(do(plan, place).values()) == {"done"}
    (hash,) = plan.evaluators
    (student,) = (planned for planned in plan.runs.values() if planned.role == "student")
    scores = {id: place.store.evaluation(id, hash)["val/nll"] for id in student.waits_for}
    chosen = stored.provenance(place.store, student.id)["teacher"]
    assert chosen["id"] == min(scores, key=scores.get) != max(scores, key=scores.get)
    assert chosen["score"] == min(scores.values())


@given(
    st.lists(st.one_of(st.none(), st.just(float("nan")), st.floats(-2, 2).map(round), st.floats(0, 1)), max_size=6),
    st.sampled_from(["lower", None]),
)
def test_the_best_is_the_first_of_equals_and_never_no_number(values, better):
    scores = {f"t{seed}": value for seed, value in enumerate(values)}
    choice = Choice(runs=tuple(scores), rule="best", metric="val/x", evaluator="e", better=better)
    numbers = [value for value in values if value is not None and value == value]
    if not numbers:
        with pytest.raises(RuntimeError, match="val/x is a number for none of the teachers"):
            best(choice, scores)
        return
    chosen, score = best(choice, scores)
    assert score == (min(numbers) if better == "lower" else max(numbers))
    assert chosen == f"t{values.index(score)}"


def test_doing_it_again_changes_nothing(plan_of, place):
    plan = plan_of()
    do(plan, place)
    before = {key: place.store.objects.get(key) for key in place.store.objects.list("runs")}
    assert Dispatch(plan, Standing(place.store, plan.evaluators)).next() is None
    assert before == {key: place.store.objects.get(key) for key in place.store.objects.list("runs")}


def test_killed_at_any_epoch_it_ends_with_the_same_bytes(plan_of, tmp_path):
    plan = plan_of()
    undisturbed = RunContext(Store(tmp_path / "a"), tmp_path / "data")
    do(plan, undisturbed)
    student = list(plan.runs)[-1]
    planned = [plan.runs[id] for id in (*plan.runs[student].waits_for, student)]
    for epoch in (1, 2, 3):
        store = Store(tmp_path / f"killed at {epoch}")
        for each in planned:
            perform_until(epoch, each.run, plan.evaluation, store, tmp_path / "data")
            assert stored.checkpoint(store, each.id) is not None
            assert perform(each.run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
            assert result(store, each.id) == result(undisturbed.store, each.id), epoch


def test_a_run_that_keeps_its_best_epoch_ends_with_it_however_it_was_interrupted(plan_of, tmp_path, small_sweep):
    text = small_sweep.replace("epochs: 3", "epochs: 5\n  keep: {best: val/accuracy}").replace("lr: 0.1", "lr: 0.7")
    plan = plan_of(text)
    undisturbed, store = RunContext(Store(tmp_path / "a"), tmp_path / "data"), Store(tmp_path / "b")
    states = do(plan, undisturbed)
    (hash,) = plan.evaluators
    columns = {row["id"]: row for row in table.rows(plan, Standing(undisturbed.store, plan.evaluators), states)}
    epochs = []
    for id in plan.runs:
        history = stored.history(undisturbed.store, id)
        scores = [row["val/accuracy"] for row in history]
        kept = stored.provenance(undisturbed.store, id)["kept"]
        assert kept == {"epoch": scores.index(max(scores)) + 1, "metric": "val/accuracy", "score": max(scores)}
        assert undisturbed.store.evaluation(id, hash)["val/accuracy"] == pytest.approx(max(scores))
        assert columns[id]["kept.epoch"] == kept["epoch"]
        epochs.append(kept["epoch"])
    assert min(epochs) < 5, "else nothing is shown"

    for id, planned in plan.runs.items():
        perform_until(4, planned.run, plan.evaluation, store, tmp_path / "data")
        assert perform(planned.run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
        assert result(store, id) == result(undisturbed.store, id)
        assert stored.provenance(store, id)["kept"] == stored.provenance(undisturbed.store, id)["kept"]


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

    for id, planned in plan.runs.items():
        perform_until(2, planned.run, plan.evaluation, store, tmp_path / "data")
        assert perform(planned.run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
        assert result(store, id) == result(undisturbed.store, id)
    _, student = plan.runs
    logged = {name: value for name, value in stored.history(store, student)[-1].items() if name.startswith("noise/")}
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
        assert stored.corrupted(place.store, id).tolist() == corrupted.tolist()
        assert stored.history(place.store, id)[0]["noise/labels.corruption"] == float(corrupted.double().mean())
    untouched = plan_of()
    do(untouched, place)
    assert not any("labels.npz" in place.store.done(id).files for id in untouched.runs)


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
        history = stored.history(place.store, row["id"])[0]
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


# What a run rests on is there when it is used (rows A1, A2, C1, C2)


def damage(store: Store, id: str, name: str, how: str = "flip") -> None:
    """A file of a finished run that is not as it was written; `name` may be `done`."""
    key = f"runs/done/{id}" if name == "done" else f"runs/{id}/{store.done(id).attempt}/{name}"
    data = bytearray(store.objects.get(key))
    data[len(data) // 2] ^= 4
    store.objects.delete(key)
    if how != "missing":
        store.objects.put(key, bytes(data) if how == "flip" else b"")


LOSSES = [("done", "missing"), ("done", "flip"), ("model.safetensors", "flip"), ("provenance.json", "cut")]


def best_of(plan, place, student: str) -> str:
    (hash,) = plan.evaluators
    scores = {id: place.store.evaluation(id, hash)["val/accuracy"] for id in plan.runs[student].waits_for}
    return max(scores, key=scores.get)


@pytest.mark.parametrize(("name", "how"), LOSSES)
def test_a_student_never_learns_from_what_is_left_of_its_pool(plan_of, place, name, how):
    """Row A1: the best teacher is gone or damaged after it was found done, before its student starts."""
    plan = plan_of()
    student = list(plan.runs)[-1]
    for id in plan.runs[student].waits_for:
        assert perform(plan.runs[id].run, plan.evaluation, place).state == "done"
    best = best_of(plan, place, student)
    before = stored.weights(place.store, best)
    damage(place.store, best, name, how)
    ended = perform(plan.runs[student].run, plan.evaluation, place)
    assert ended.state == "failed" and best in str(ended.error) and "trains" in str(ended.error)
    assert place.store.done(student) is None
    assert set(do(plan, place).values()) == {"done"}
    assert stored.weights(place.store, best) == before
    assert stored.provenance(place.store, student)["teacher"]["id"] == best


@pytest.mark.parametrize(("name", "how"), LOSSES)
def test_a_sweep_trains_a_lost_teacher_again_before_its_students(plan_of, place, name, how, caplog):
    """Row A1: within one command, which believed the teacher done when it began."""
    plan = plan_of()
    student = list(plan.runs)[-1]
    teachers = plan.runs[student].waits_for
    for id in teachers:
        perform(plan.runs[id].run, plan.evaluation, place)
    best = best_of(plan, place, student)
    dispatch = Dispatch(plan, Standing(place.store, plan.evaluators))
    order = []
    while (planned := dispatch.next()) is not None:
        if planned.waits_for == teachers and "lost" not in order:
            damage(place.store, best, name, how)
            order.append("lost")
        order.append(planned.id)
        dispatch.started(planned.id)
        dispatch.ended(planned.id, perform(planned.run, plan.evaluation, place).traceback)
    assert set(dispatch.states.values()) == {"done"} and dispatch.over
    assert order.index("lost") < order.index(best) < len(order) - 1
    assert stored.provenance(place.store, student)["teacher"]["id"] == best
    assert f"its teacher {best} is not done any more" in caplog.text


def test_a_student_whose_own_fault_it_is_fails_once(plan_of, place, monkeypatch):
    plan = plan_of()
    student = list(plan.runs)[-1]
    for id in plan.runs[student].waits_for:
        perform(plan.runs[id].run, plan.evaluation, place)
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: 1 / 0)
    only = plan.only({"id": student})
    assert do(only, place)[student] == "failed"


@pytest.mark.parametrize(("name", "how"), [*LOSSES[1:], ("run.yaml", "missing"), ("run.yaml", "flip")])
def test_a_finished_run_that_is_damaged_is_trained_again_when_it_is_needed(plan_of, place, small_sweep, name, how):
    """Row C1: here by a new evaluator, which needs the network."""
    plan = plan_of()
    do(plan, place)
    id = list(plan.runs)[-1]
    before = stored.weights(place.store, id)
    damage(place.store, id, name, how)
    more = plan_of(small_sweep.replace("[accuracy]", f"[accuracy, {PGD}]"))
    assert set(do(more, place).values()) == {"done"}
    assert stored.weights(place.store, id) == before
    assert set(Standing(place.store, more.evaluators).states(more.runs).values()) == {"done"}


def test_other_weights_have_no_old_numbers(plan_of, place, monkeypatch):
    """Row A2: all `done` deleted, trained again where the bytes come out otherwise."""
    plan = plan_of()
    id = next(iter(plan.runs))
    perform(plan.runs[id].run, plan.evaluation, place)
    (hash,) = plan.evaluators
    weights, first = stored.weights(place.store, id), place.store.evaluation(id, hash)
    place.store.objects.delete(f"runs/done/{id}")
    original = kdtune.training.run.train

    def elsewhere(network, *rest, **more):
        history = original(network, *rest, **more)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(-1)
        return history

    monkeypatch.setattr(kdtune.training.run, "train", elsewhere)
    assert perform(plan.runs[id].run, plan.evaluation, place).state == "done"
    assert stored.weights(place.store, id) != weights
    second = place.store.evaluation(id, hash)
    assert second != first
    shown = accuracy(load_finished(id, place.store), load(plan.runs[id].run.dataset, place.data_dir).test)
    assert second["test/accuracy"] == pytest.approx(shown)


def test_an_attempt_that_goes_on_takes_over_what_was_measured(plan_of, place, small_sweep, monkeypatch):
    """Row A2: cut off in its second evaluator, it does not measure the first anew."""
    plan = plan_of(small_sweep.replace("[accuracy]", f"[accuracy, {PGD}]"))
    id = next(iter(plan.runs))

    def killed(self, subject):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("kdtune.evaluation.pgd.PGD.measure", killed)
        perform(plan.runs[id].run, plan.evaluation, place)
    assert place.store.done(id) is None
    monkeypatch.setattr("kdtune.evaluation.accuracy.Accuracy.measure", lambda *_: pytest.fail("measured again"))
    assert perform(plan.runs[id].run, plan.evaluation, place).state == "done"
    accuracy_hash, pgd_hash = plan.evaluators
    assert place.store.evaluation(id, accuracy_hash)["test/nll"] > 0 and place.store.evaluation(id, pgd_hash)


@pytest.mark.parametrize("how", ["bytes", "missing", "shape", "optimizer", "epoch", "history"])
def test_a_checkpoint_that_does_not_load_is_set_aside_and_the_one_before_used(plan_of, tmp_path, caplog, how):
    """Row C2: its digest fits all the same."""
    plan = plan_of()
    undisturbed, store = RunContext(Store(tmp_path / "a"), tmp_path / "data"), Store(tmp_path / "b")
    run = next(iter(plan.runs.values())).run
    perform(run, plan.evaluation, undisturbed)

    perform_until(2, run, plan.evaluation, store, tmp_path / "data")
    (checkpoint, data), (before, _) = store.checkpoints(run.id)
    assert (checkpoint.epoch, before.epoch) == (2, 1)
    state = TrainingState.from_bytes(data)
    if how == "missing":
        del state.network[next(iter(state.network))]
    elif how == "shape":
        state.network = {name: tensor[..., :1] for name, tensor in state.network.items()}
    elif how == "optimizer":
        first = state.optimizer["state"][0]
        state.optimizer["state"][0] = {name: value[..., :1] for name, value in first.items()}
    elif how == "epoch":
        state.epoch = 7
    elif how == "history":
        state.history = state.history[1:]
    bad = b"no state" if how == "bytes" else state.to_bytes()
    store.attempt(run.id, checkpoint.attempt).save_checkpoint(2, bad)
    assert perform(run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
    assert "does not load" in caplog.text
    assert result(store, run.id) == result(undisturbed.store, run.id)


def test_with_no_checkpoint_that_loads_training_starts_anew(plan_of, tmp_path):
    plan = plan_of()
    store = Store(tmp_path / "b")
    run = next(iter(plan.runs.values())).run
    for epoch in (1, 2):
        store.attempt(run.id).save_checkpoint(epoch, b"no state")
    assert perform(run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
    assert [row["epoch"] for row in stored.history(store, run.id)] == [1, 2, 3]


def test_late_evaluation_needs_the_teacher_only_where_it_is_looked_at(plan_of, place, small_sweep):
    plan = plan_of()
    do(plan, place)
    student = list(plan.runs)[-1]
    teacher = stored.provenance(place.store, student)["teacher"]["id"]
    damage(place.store, teacher, "model.safetensors", "missing")
    more = plan_of(small_sweep.replace("[accuracy]", f"[accuracy, {PGD}]"))
    assert perform(more.runs[student].run, more.evaluation, place).state == "done"
    asking = plan_of(small_sweep.replace("[accuracy]", f"[accuracy, {MASKING}]"))
    failed = perform(asking.runs[student].run, asking.evaluation, place)
    assert failed.state == "failed" and f"its teacher {teacher} is" in str(failed.error)


def test_a_teacher_with_other_weights_by_now_is_not_taken_for_the_one_that_taught(plan_of, place, small_sweep):
    plan = plan_of()
    do(plan, place)
    student = list(plan.runs)[-1]
    teacher = stored.provenance(place.store, student)["teacher"]["id"]
    other = next(id for id in plan.runs[student].waits_for if id != teacher)
    origin, history = stored.provenance(place.store, teacher), stored.history(place.store, teacher)
    place.store.objects.delete(f"runs/done/{teacher}")
    again = place.store.attempt(teacher)
    again.write_description(plan.runs[teacher].run.description)
    again.finish("done", stored.weights(place.store, other), history, origin)
    asking = plan_of(small_sweep.replace("[accuracy]", f"[accuracy, {MASKING}]"))
    failed = perform(asking.runs[student].run, asking.evaluation, place)
    assert failed.state == "failed" and "has other weights by now" in str(failed.error)


def test_evaluators_see_the_teacher_at_once_or_later(plan_of, tmp_path, small_sweep):
    """A student's own teacher, without the noise it taught with; those who learned alone have none."""
    sweep = small_sweep.replace("[accuracy]", f"[accuracy, {MASKING}]")
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


@pytest.mark.parametrize("fault", ["random", "detached"])
def test_a_network_that_cannot_be_measured_is_a_run_with_a_flag(fault, plan_of, place, small_sweep, monkeypatch):
    """Row D11: both were failed runs."""
    built = MLP.build

    class Faulty(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if fault == "detached":
                return super().forward(images.detach())
            return functional.dropout(super().forward(images), 0.5, training=True)

    monkeypatch.setattr(MLP, "build", lambda self, shape, classes: Faulty(built(self, shape, classes)))
    alone = small_sweep.replace("  distillation: {alpha: 0.9, temperature: 4}\n", "").replace("0.0, 0.2", "0.0")
    alone = alone[: alone.index("teacher:")] + alone[alone.index("student:") :]
    alone = alone.replace(
        "  noise: {teacher: {dropout: {rate: $rate}}}\n", "  noise: {input: {gaussian: {sigma: $rate}}}\n"
    )
    small = "images: 10, eps: 0.1, step: 0.05"
    asked = f"[{{masking: {{{small}, queries: 5}}}}, accuracy, {{pgd: {{{small}, steps: 2, restarts: 1}}}}]"
    plan = plan_of(alone.replace("[accuracy]", asked))
    assert set(do(plan, place).values()) == {"done"}
    standing = Standing(place.store, plan.evaluators)
    for id in plan.runs:
        found, history = standing.measured(id), stored.history(place.store, id)
        up, numbers = flags_of(found), {name.split("/")[0] for name in found}
        if fault == "random":
            assert up == ("randomised",) and numbers == {"flags"}
            assert all("val/accuracy" not in row for row in history)
        else:
            assert "zero_gradient" in up and "masking/square" in found and "test/accuracy" in found
            assert "robust" not in numbers and "val/accuracy" in history[-1]


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
    assert stored.history(place.store, teacher) == []
    (hash,) = plan.evaluators
    original = place.store.evaluation(next(iter(plan_of().runs)), hash)
    assert place.store.evaluation(teacher, hash) == original

    wrong = plan_of(own.replace("hidden: [8], dropout: $rate", "hidden: [9], dropout: $rate"))
    states = do(wrong, place)
    bad = next(id for id, planned in wrong.runs.items() if planned.role == "teacher")
    assert states[bad] == "failed"
    assert "in the file" in Standing(place.store).look(bad).failure["message"]


def test_every_step_and_every_batch_of_an_evaluation_is_heard(plan_of, place):
    from dataclasses import replace

    pulses = []
    plan = plan_of()
    first = next(iter(plan.runs.values()))
    assert perform(first.run, plan.evaluation, replace(place, pulse=lambda: pulses.append(1) or 7)).state == "done"
    steps, held_out, evaluated = 3 * 4, 3 * 2, 2 + 2  # 80 images in batches of 20; `predict` asks its first batch twice
    assert len(pulses) >= steps + held_out + evaluated


def test_an_evaluator_may_ask_for_the_network_as_its_seed_initialised_it(plan_of, place):
    run = next(iter(plan_of().runs.values())).run
    data, kept = load(run.dataset, place.data_dir), {"last": nn.Identity()}
    ask = weights_of(run, data, place, kept.__getitem__)
    started = starting_network(run, data.shape, data.classes).state_dict()
    found = ask("initial").state_dict()
    assert found.keys() == started.keys() and all(torch.equal(found[name], started[name]) for name in started)
    assert ask("initial") is ask("initial") and ask("last") is kept["last"]
    with pytest.raises(ValueError, match="the weights came from a file"):
        weights_of(run.model_copy(update={"checkpoint": "own.pt"}), data, place, kept.__getitem__)("initial")


@pytest.mark.parametrize("standardised", [False, True])
def test_so_is_a_loss_that_asks_for_features(standardised):
    """Such a run was ended as stuck after five minutes: its steps never go through the network as a whole."""
    model, shape = Model.model_validate({"mlp": {"hidden": [8]}}), (1, 8, 8)
    normalization = Normalization(mean=(0.5,), std=(0.2,)) if standardised else None
    network, pulses = build_network(model, normalization, 0, shape, 10), []
    with heard(network, lambda: pulses.append(1)):
        network.classifier(network.features(torch.zeros(2, *shape)))
        assert len(pulses) == 1
    network(torch.zeros(2, *shape))
    assert len(pulses) == 1, "heard after its run"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "--gpus-per-run"),
        (RuntimeError("CUDA error: out of memory"), "--gpus-per-run"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "--max-concurrent",
        ),
        (MemoryError(), "--max-concurrent"),
        (RuntimeError("shapes do not fit"), None),
    ],
)
def test_a_run_that_is_short_of_memory_says_what_would_do(plan_of, place, monkeypatch, error, advice):
    import kdtune.training.run

    def short(*_, **__):
        raise error

    monkeypatch.setattr(kdtune.training.run, "train", short)
    plan = plan_of()
    first = next(iter(plan.runs.values()))
    outcome = perform(first.run, plan.evaluation, place)
    assert outcome.state == "failed"
    last = outcome.traceback.strip().splitlines()[-1]
    assert ("batch_size" in last and advice in last) if advice else last == "RuntimeError: shapes do not fit"
    kept = Standing(place.store).look(first.id).failure
    assert kept["traceback"] == outcome.traceback


def test_where_the_failure_itself_finds_no_room_the_error_is_told(plan_of, place, monkeypatch):
    from kdtune.store.attempt import Attempt
    from kdtune.store.objects import StorageError

    def full(*_, **__):
        raise StorageError("cannot write x: No space left on device (5 bytes needed, 0 free)")

    monkeypatch.setattr(Attempt, "write_failure", full)
    monkeypatch.setattr(Attempt, "finish", full)
    plan = plan_of()
    outcome = perform(next(iter(plan.runs.values())).run, plan.evaluation, place)
    assert outcome.state == "failed" and "5 bytes needed" in outcome.traceback


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_what_was_trained_before_it_was_killed_is_not_trained_again(plan_of, tmp_path, epoch):
    """Rows 1 and 12: of the epochs of its checkpoint even the times are those of the first attempt."""
    run = next(iter((plan := plan_of()).runs.values())).run
    store, kept = Store(tmp_path / "results"), []

    def kill(history):
        if len(history) == epoch:
            kept.extend(dict(row) for row in history)
            raise Killed

    with pytest.raises(Killed):
        perform(run, plan.evaluation, RunContext(store, tmp_path / "data", checkpoint_every=0, report=kill))
    (newest, data), *before = store.checkpoints(run.id)
    if before:  # the newest one damaged: one interval is lost, and no more
        key = f"runs/{run.id}/{newest.attempt}/checkpoints/{newest.epoch}.pt"
        store.objects.put(key, data[:-1])
        kept.pop()
    assert perform(run, plan.evaluation, RunContext(store, tmp_path / "data")).state == "done"
    assert stored.history(store, run.id)[: len(kept)] == kept and len(kept) == max(epoch - 1, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_after_a_loss_that_is_one_diverge(plan_of, place, monkeypatch, value):
    """faults 17: the last step of one teacher breaks it; the others go on, and it teaches nobody."""
    plan, original = plan_of(), kdtune.training.run.train
    broken = next(iter(plan.runs))

    def train(network, split, recipe, lesson, seed, **more):
        history = original(network, split, recipe, lesson, seed, **more)
        if not calls:
            with torch.no_grad():
                next(network.parameters()).view(-1)[0] = value
        calls.append(1)
        return history

    calls = []
    monkeypatch.setattr(kdtune.training.run, "train", train)
    states = do(plan, place)
    assert states[broken] == "diverged" and set(states.values()) == {"diverged", "done"}
    assert "model.safetensors" not in place.store.done(broken).files
    for id, planned in plan.runs.items():
        if broken in planned.waits_for:
            assert stored.provenance(place.store, id)["teacher"]["id"] != broken


def test_steps_become_graphs_on_a_gpu_but_where_they_are_not_trusted(plan_of, place, monkeypatch):
    """Not a run's with code of the user's own, which may decide in Python what a step does."""
    (run, *_) = (planned.run for planned in plan_of().runs.values())
    on_gpu = replace(place, device="cuda")
    assert capture_of(run, replace(on_gpu, captured=False)) is None and capture_of(run, place) is None
    signs: list[int] = []
    capture = capture_of(run, replace(on_gpu, pulse=lambda: signs.append(1)))
    assert capture is not None and not capture.refused
    capture.pulse()
    assert signs == [1]
    monkeypatch.setattr(kdtune.training.run, "texts_of", lambda run: {"counting.py": "steps = 0"})
    assert capture_of(run, on_gpu) is None
