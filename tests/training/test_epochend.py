"""What is measured while a run trains, and the weights that are kept beside those that it ends with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import stored
import torch

import kdtune
import kdtune.training.run
from kdtune.data.loading import load
from kdtune.evaluation.accuracy import accuracy
from kdtune.evaluation.pgd import PGD
from kdtune.evaluation.subject import Context, Subject
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.layout import BESIDE
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFileError, load_sweep
from kdtune.training.average import added, averaged
from kdtune.training.context import RunContext
from kdtune.training.loop import TrainingState
from kdtune.training.network import load_finished
from kdtune.training.run import perform

ATTACK = "pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 1, images: 40}"
ON_VAL, ON_TEST = f"{{{ATTACK}, on: val, every: 1}}", f"{{{ATTACK}, every: 3}}"
ROBUST = "val/robust/pgd2/unconditional"
ALONE = """
name: alone
dataset: {digits: {}, train_size: 200, validation: 0.4}
seeds: 1
grid: {}
recipe:
  optimizer: {sgd: {lr: 0.5, momentum: 0.9, weight_decay: 0.0}}
  schedule: {step: {milestones: [0.5], factor: 0.5}}
  precision: float32
  batch_size: 20
  epochs: 8
student: {model: {cnn: {width: 4}}}
evaluation: [accuracy]
"""
EPOCHS = 8


class Killed(BaseException):
    """Stands for a process that is gone."""


def sweep(keep: str = "", average: str = "", evaluation: str = "accuracy", text: str = ALONE) -> str:
    more = "".join(f"  {key}: {value}\n" for key, value in (("keep", keep), ("average", average)) if value)
    return text.replace("  epochs: 8\n", f"  epochs: 8\n{more}").replace("[accuracy]", f"[{evaluation}]")


@pytest.fixture
def plan_of(write_sweep):
    return lambda text: build_plan(load_sweep(write_sweep(text)), Path("nowhere"))


def done(plan: Plan, store: Store, tmp_path: Path, cut: int | None = None) -> str:
    """The id of the only run, performed; killed once after `cut` epochs, then gone on with."""
    ((id, planned),) = plan.runs.items()

    def kill(history: list) -> None:
        if len(history) == cut:
            raise Killed

    if cut is not None:
        with pytest.raises(Killed):
            perform(planned.run, plan.evaluation, RunContext(store, tmp_path, checkpoint_every=0, report=kill))
        assert stored.checkpoint(store, id) is not None
    outcome = perform(planned.run, plan.evaluation, RunContext(store, tmp_path))
    assert outcome.state == "done", outcome.traceback
    return id


def files(store: Store, id: str) -> dict[str, bytes]:
    """All weights that it kept."""
    record = store.done(id)
    assert record is not None
    return {name: store.file(id, record, name) for name in record.files if name.endswith(".safetensors")}


def untimed(store: Store, id: str) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in stored.history(store, id)]


EVERYTHING = {
    "keep": f"{{best: {ROBUST}}}",
    "average": "{from: 0.5}",
    "evaluation": f"accuracy, {ON_VAL}, {ON_TEST}, {{accuracy: {{}}, of: last}}, {{{ATTACK}, of: average, on: val}}",
}


def test_watching_keeping_and_averaging_leave_training_as_it_is(plan_of, tmp_path):
    store = Store(tmp_path / "results")
    plain = done(plan_of(sweep()), store, tmp_path)
    whole = done(plan_of(sweep(**EVERYTHING)), store, tmp_path)
    assert whole != plain
    assert files(store, plain).keys() == {"model.safetensors"}
    assert files(store, whole)[BESIDE["last"]] == files(store, plain)["model.safetensors"]
    known = [{k: row[k] for k in one} for one, row in zip(untimed(store, plain), untimed(store, whole), strict=True)]
    assert known == untimed(store, plain)


@pytest.mark.parametrize("cut", [1, 4, 5, EPOCHS])
def test_interrupted_and_gone_on_with_it_keeps_the_same(plan_of, tmp_path, cut):
    plan, undisturbed, store = plan_of(sweep(**EVERYTHING)), Store(tmp_path / "a"), Store(tmp_path / "b")
    id = done(plan, undisturbed, tmp_path)
    assert done(plan, store, tmp_path, cut) == id
    assert files(store, id) == files(undisturbed, id) and len(files(store, id)) == 3
    assert untimed(store, id) == untimed(undisturbed, id)
    assert stored.provenance(store, id)["kept"] == stored.provenance(undisturbed, id)["kept"]
    for evaluator in plan.evaluation:
        assert store.evaluation(id, evaluator.hash) == undisturbed.evaluation(id, evaluator.hash)


def test_the_history_has_what_is_watched_and_the_best_of_it_is_kept(plan_of, tmp_path):
    store = Store(tmp_path / "results")
    plan = plan_of(sweep(**EVERYTHING))
    id = done(plan, store, tmp_path)
    history = stored.history(store, id)
    assert [row["epoch"] for row in history if "robust/pgd2" in row] == [3, 6, 8]
    scores = [row[ROBUST] for row in history]
    kept = stored.provenance(store, id)["kept"]
    assert kept == {"epoch": scores.index(max(scores)) + 1, "metric": ROBUST, "score": max(scores)}
    assert kept["epoch"] < EPOCHS, "else nothing is shown"
    standing = Standing(store, plan.evaluators)
    standing.refresh(id)
    measured = standing.measured(id)
    assert measured[ROBUST] == max(scores)
    assert measured["last/val/accuracy"] == history[-1]["val/accuracy"]
    # The curve's last point is of the last weights.
    data, place = load(plan.runs[id].run.dataset, tmp_path), Context(tmp_path)
    last = load_finished(id, store, file=BESIDE["last"])
    (watched,) = [each for each in plan.runs[id].run.watch if each.on is None]
    again = watched.measured(Subject(last, data, place)).metrics
    assert {name: history[-1][name] for name in again} == again
    model = load_finished(id, store, file=BESIDE["average"])
    of_mean = PGD(eps=(0.1,), step=0.05, steps=(2,), restarts=1, images=40, on="val").measured(
        Subject(model, data, place)
    )
    assert {f"val/average/{name.removeprefix('val/')}": value for name, value in of_mean.metrics.items()}.items() <= (
        measured.items()
    )


def test_other_weights_are_measured_late_too_and_loaded(plan_of, tmp_path):
    store = Store(tmp_path / "results")
    how = {"keep": "{best: val/accuracy}", "average": "{from: 0.5}"}
    id = done(plan_of(sweep(**how)), store, tmp_path)
    late = ", ".join(["accuracy", *(f"{{accuracy: {{}}, of: {of}}}" for of in ("last", "average"))])
    plan = plan_of(sweep(**how, evaluation=late))
    assert list(plan.runs) == [id] and done(plan, store, tmp_path) == id
    standing = Standing(store, plan.evaluators)
    standing.refresh(id)
    measured, history = standing.measured(id), stored.history(store, id)
    assert measured["last/val/accuracy"] == history[-1]["val/accuracy"] < measured["val/accuracy"]
    for of in ("last", "average"):
        network = kdtune.load(id, str(tmp_path / "results"), of=of)
        data = load(plan.runs[id].run.dataset, tmp_path)
        assert measured[f"{of}/test/accuracy"] == accuracy(network, data.test)


def test_where_less_is_better_the_lowest_is_kept(plan_of, tmp_path):
    store = Store(tmp_path / "results")
    text = sweep("{best: val/nll}", evaluation="{accuracy: {}, every: 1}")
    id = done(plan_of(text), store, tmp_path)
    scores = [row["val/nll"] for row in stored.history(store, id)]
    assert stored.provenance(store, id)["kept"]["epoch"] == scores.index(min(scores)) + 1 < EPOCHS


def test_what_is_watched_is_part_of_what_a_run_is_and_what_is_measured_in_the_end_is_not(plan_of):
    plain = plan_of(sweep())
    once, thrice = (plan_of(sweep(evaluation=f"accuracy, {{{ATTACK}, every: {n}}}")) for n in (1, 3))
    never = plan_of(sweep(evaluation=f"accuracy, {{{ATTACK}}}"))
    assert plain.runs.keys() == never.runs.keys()
    assert len({*plain.runs, *once.runs, *thrice.runs}) == 3
    assert once.evaluators == thrice.evaluators == never.evaluators
    ((hash, _),) = [item for item in never.evaluators.items() if item[1] == "pgd"]
    (run,) = (place.run for place in thrice.runs.values())
    assert run.description["watch"] == {hash: 3}
    assert type(run).model_validate_json(run.model_dump_json()).id == run.id


def test_test_labels_choose_nothing(plan_of, tmp_path, monkeypatch):
    plan, stores = plan_of(sweep(**EVERYTHING)), [Store(tmp_path / name) for name in "ab"]
    id = done(plan, stores[0], tmp_path)
    whole = kdtune.training.run.data_of

    def garbage(*args, **kwargs):
        data = whole(*args, **kwargs)
        return replace(data, test=replace(data.test, labels=(data.test.labels + 3) % 10))

    monkeypatch.setattr(kdtune.training.run, "data_of", garbage)
    assert done(plan, stores[1], tmp_path) == id
    assert files(stores[1], id) == files(stores[0], id)
    histories = [untimed(store, id) for store in stores]
    assert histories[0][-1]["robust/clean"] != histories[1][-1]["robust/clean"]


def test_a_run_that_kept_no_such_weights_says_so(plan_of, tmp_path):
    """As one does that was trained before such were kept."""
    store = Store(tmp_path / "results")
    id = done(plan_of(sweep()), store, tmp_path)
    with pytest.raises(LookupError, match=r"kept no last\.safetensors.*forget"):
        load_finished(id, store, file=BESIDE["last"])
    with pytest.raises(ValueError, match="not the last"):
        Subject(torch.nn.Identity(), None, Context(tmp_path)).of("last")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"keep": "{best: val/robust/pgd2}"}, "measured by no entry of evaluation with on: val and every"),
        ({"keep": "{best: test/accuracy}"}, "test/accuracy"),
        ({"keep": f"{{best: {ROBUST}}}", "evaluation": f"accuracy, {{{ATTACK}, on: val}}"}, "with on: val and every"),
        ({"evaluation": "accuracy, {accuracy: {}, of: last}"}, "recipe.keep is not set"),
        ({"evaluation": "accuracy, {accuracy: {}, of: average}"}, "recipe.average is not set"),
        ({"keep": "{best: val/accuracy}", "evaluation": "accuracy, {accuracy: {}, of: last, every: 1}"}, "one of them"),
        (
            {"keep": "{best: val/accuracy}", "evaluation": "accuracy, {calibration: {}, every: 1}"},
            "which are not there before",
        ),
        ({"average": "{from: 1.0}"}, "less than 1"),
        ({"evaluation": "{accuracy: {}, every: 0}"}, "every"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(plan_of, how, said):
    with pytest.raises(SweepFileError, match=said):
        plan_of(sweep(**how))


# --- the mean ---


def network_with_norms() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10)
    )


def test_the_mean_is_that_of_torch(plan_of):
    """torch.optim.swa_utils, whose statistics of BatchNorm are of batches as they come too."""
    (place,) = plan_of(ALONE).runs.values()
    split = load(place.run.dataset, Path("nowhere")).train
    batches = [images.float() / 255 for images in split.images.split(20)]
    network = network_with_norms()
    network(batches[0])
    theirs = torch.optim.swa_utils.AveragedModel(network)
    mean = None
    for _ in range(4):
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        network(batches[0])
        theirs.update_parameters(network)
        mean = added(mean, network)
    torch.optim.swa_utils.update_bn(batches, theirs)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ours = averaged(network, mean, split, 20)
    assert mean is not None and mean["count"] == 4
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not ours.training and ours[1].momentum == 0.1


@pytest.mark.parametrize(("fraction", "epochs"), [(0.0, 8), (0.5, 4), (0.4, 4), (0.95, 1)])
def test_it_is_over_the_epochs_that_begin_there_or_later_and_over_one_at_least(plan_of, tmp_path, fraction, epochs):
    store = Store(tmp_path / "results")
    ((id, planned),) = plan_of(sweep(average=f"{{from: {fraction}}}")).runs.items()
    ends: list[dict] = []

    def note(history: list) -> None:
        found = stored.checkpoint(store, id)
        assert found is not None
        ends.append(vars(TrainingState.from_bytes(found[1])))

    perform(planned.run, (), RunContext(store, tmp_path, checkpoint_every=0, report=note))
    assert [end["average"]["count"] if end["average"] else 0 for end in ends] == [
        max(0, epoch - EPOCHS + epochs) for epoch in range(1, EPOCHS + 1)
    ]
    for name, mean in ends[-1]["average"]["weights"].items():
        stacked = torch.stack([end["network"][name] for end in ends[-epochs:]])
        torch.testing.assert_close(mean, stacked.double().mean(0).float(), rtol=1e-5, atol=1e-6)
