"""Students whose temperature and weight are read from their teacher's calibration: in a sweep, resumed, elsewhere."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stored
import torch
from click.testing import CliRunner
from conftest import SMALL
from torch import nn

import kdtune
from kdtune.__main__ import main
from kdtune.evaluation.calibration import Calibration
from kdtune.evaluation.subject import Subject
from kdtune.losses.kd import KD
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.preflight import preflight
from kdtune.training.run import RunContext, perform
from kdtune.training.teacher import calibration_of, choose_teacher, loss_of, taught_by

NOISE = "noise: {input: {gaussian: {sigma: 0.2}}}"
STATED = (
    SMALL.replace("{rate: [0.0, 0.2]}", "{arm: [a]}")
    .replace("grid: {arm: [a]}\n", "")
    .replace(", dropout: $rate", "")
    .replace("noise: {teacher: {dropout: {rate: $rate}}}", NOISE)
    .replace("epochs: 3\n", "epochs: 3\n  keep: {best: val/accuracy}\n")
    .replace("temperature: 4}", "temperature: 4, teacher_sees: shown}")
)
ENTRY = "{calibration: {eps: 0.1, step: 0.05, steps: 3, images: 40}}"
CALIBRATED = STATED.replace("alpha: 0.9, temperature: 4", "calibrated: calibration").replace(
    "[accuracy]", f"[accuracy, {ENTRY}]"
)


class Colder(nn.Module):
    """Another network than the one kept: its logits divided, and with another class's added."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images)
        return logits / 3 + logits.roll(1, dims=1) / 6


@pytest.fixture(autouse=True)
def last_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has kept its last epoch."""

    def of(self: Subject, which: str | None) -> Subject:
        return replace(self, network=Colder(self.network)) if which else self

    monkeypatch.setattr(Subject, "of", of)


def do(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout + done.stderr


def swept(text: str, root: Path, results: str = "r", status: int = 0) -> list[dict[str, str]]:
    """The students' rows of a sweep of this text."""
    (root / "x.yaml").write_text(text)
    ended, said = do("sweep", root / "x.yaml", "--results", root / results, "--data", root, "--here")
    assert ended == status, said
    (place,) = (root / results).glob("*/paper/results.csv")
    return [row for row in csv.DictReader(place.open()) if row["role"] == "student"]


def planned(text: str, root: Path) -> Plan:
    (root / "plan.yaml").write_text(text)
    return build_plan(load_sweep(root / "plan.yaml"), root)


def students(plan: Plan) -> list[Place]:
    return [place for place in plan.places if place.role == "student"]


def test_a_calibrated_student_is_the_one_to_which_its_teachers_numbers_are_stated(tmp_path: Path) -> None:
    """Weight by weight: nothing but where the two numbers come from differs."""
    (hash,) = (each.hash for each in planned(CALIBRATED, tmp_path).evaluation if isinstance(each, Calibration))
    rows = swept(CALIBRATED, tmp_path)
    store = Store(tmp_path / "r")
    assert len(rows) == 2
    for row in rows:
        measured = store.evaluation(row["teacher.id"], hash)
        temperature, weight = (measured[f"val/calibration/{name}"] for name in ("temperature", "weight"))
        chosen = stored.provenance(store, row["id"])["teacher"]
        assert chosen["calibrated"] == {"temperature": temperature, "alpha": weight}
        assert (float(row["calibrated.temperature"]), float(row["calibrated.alpha"])) == (temperature, weight)
        assert stored.description(store, row["id"])["distillation"] == {"calibrated": hash, "teacher_sees": "shown"}
        assert row["distillation.calibrated"] == hash and not row.get("distillation.alpha")
        assert float(row["val/calibration/temperature"]) > 0, "a student is measured too"
        stated = STATED.replace("alpha: 0.9, temperature: 4", f"alpha: {weight}, temperature: {temperature}")
        stated = stated.replace("name: small", "name: stated")
        for place in students(planned(stated, tmp_path)):
            if str(place.run.seed) == row["seed"]:
                assert perform(place.run, (), context(tmp_path, "r")).state == "done"
                assert stored.weights(store, place.id) == stored.weights(store, row["id"])
                assert place.id != row["id"]


def context(root: Path, results: str, **words: Any) -> RunContext:
    return RunContext(Store(root / results), root, **words)


def teachers_done(plan: Plan, at: RunContext) -> Place:
    """The first student of a plan, when its whole pool is finished."""
    for id, place in plan.runs.items():
        if place.role == "teacher":
            assert perform(place.run, plan.evaluation, at).state == "done", id
    return students(plan)[0]


def test_a_student_that_is_interrupted_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    plan = planned(CALIBRATED, tmp_path)
    whole, parts = context(tmp_path, "a"), context(tmp_path, "b", checkpoint_every=0.0, stopped=lambda: True)
    student = teachers_done(plan, whole)
    assert perform(student.run, plan.evaluation, whole).state == "done"
    assert teachers_done(plan, replace(parts, stopped=lambda: False)).id == student.id
    assert [perform(student.run, plan.evaluation, parts).state for _ in range(2)] == ["stopped"] * 2
    assert perform(student.run, plan.evaluation, replace(parts, stopped=lambda: False)).state == "done"
    assert stored.weights(whole.store, student.id) == stored.weights(parts.store, student.id)


def test_a_checkpoint_made_with_other_numbers_is_not_gone_on_with() -> None:
    teacher = {"id": "a", "weights_sha256": "b"}
    one, other = (teacher | {"calibrated": {"temperature": 2.0, "alpha": alpha}} for alpha in (0.5, 0.6))
    assert len({taught_by(each) for each in (teacher, one, other)}) == 3
    assert (taught_by({}), taught_by(teacher)) == ("", "b"), "as before: checkpoints of other students stay good"


def test_teachers_that_were_finished_before_are_calibrated_late(tmp_path: Path) -> None:
    swept(STATED, tmp_path)
    store = Store(tmp_path / "r")
    before = stored.finished(store)
    (tmp_path / "r/small").rename(tmp_path / "small")  # its folder is a view
    rows = swept(CALIBRATED, tmp_path)
    assert {row["id"] for row in rows}.isdisjoint(before)
    assert {row["teacher.id"] for row in rows} <= before
    assert all(float(row["calibrated.temperature"]) > 0 for row in rows)


def test_teachers_that_were_imported_are_as_good(tmp_path: Path) -> None:
    first = swept(CALIBRATED, tmp_path)
    status, said = do("bundle", tmp_path / "r/small", tmp_path / "small.tar")
    assert status == 0, said
    status, said = do("import", tmp_path / "small.tar", "--results", tmp_path / "there")
    assert status == 0, said
    more = CALIBRATED.replace("name: small", "name: more").replace(NOISE, "noise: {input: {gaussian: {sigma: 0.3}}}")
    (tmp_path / "x.yaml").write_text(more)
    status, said = do("sweep", tmp_path / "x.yaml", "--results", tmp_path / "there", "--data", tmp_path, "--here")
    assert status == 0, said
    rows = list(csv.DictReader((tmp_path / "there/more/paper/results.csv").open()))
    numbers = {row["teacher.id"]: row["calibrated.temperature"] for row in rows if row["role"] == "student"}
    assert numbers == {row["teacher.id"]: row["calibrated.temperature"] for row in first}


def test_a_teacher_without_its_last_epoch_is_told_and_so_is_one_that_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: Subject, which: str | None) -> Subject:
        if which:
            raise ValueError("of this network one set of weights is here")
        return self

    monkeypatch.setattr(Subject, "of", none)
    plan, at = planned(CALIBRATED, tmp_path), context(tmp_path, "r")
    student = teachers_done(plan, at)
    with pytest.raises(
        RuntimeError, match=r"has no calibration to learn with: it has kept no weights of its last epoch"
    ):
        choose_teacher(student.run, at.store, "cpu")
    outcome = perform(student.run, plan.evaluation, at)
    assert outcome.state == "failed" and "has no calibration" in outcome.traceback
    other = student.run.model_copy(update={"loss": KD(calibrated="0123456789ab")})
    with pytest.raises(RuntimeError, match="was not calibrated; the sweep's command does that first"):
        choose_teacher(other, at.store, "cpu")


class Known:
    """A standing in which one evaluator has measured this."""

    def __init__(self, metrics: dict[str, float]) -> None:
        self.metrics = metrics

    def look(self, id: str) -> Known:
        return self

    def evaluation(self, evaluator: str) -> dict[str, float]:
        return self.metrics


@pytest.mark.parametrize("prefix", ["val/calibration", "test/calibration", "val/calibration@a=1"])
def test_it_is_read_under_whatever_name_it_was_measured(prefix: str, tmp_path: Path) -> None:
    run = students(planned(CALIBRATED, tmp_path))[0].run
    standing: Any = Known({f"{prefix}/{name}": value for name, value in (("temperature", 1.5), ("weight", 0.8))})
    found = calibration_of(run, "a", standing)
    assert found == {"temperature": 1.5, "alpha": 0.8}
    assert loss_of(run, {"calibrated": found}) == KD(alpha=0.8, temperature=1.5, teacher_sees="shown")
    flagged: Any = Known({"flags/randomised": 1.0})
    with pytest.raises(RuntimeError, match="it has flags/randomised"):
        calibration_of(run, "a", flagged)


def test_a_run_that_states_its_numbers_asks_nobody(tmp_path: Path) -> None:
    run = students(planned(STATED, tmp_path))[0].run
    nobody: Any = None
    assert calibration_of(run, "a", nobody) == {} and loss_of(run, {"id": "a"}) == run.loss


# The description


def test_an_id_holds_which_calibration_and_no_number(tmp_path: Path) -> None:
    ids = set()
    for entry in (ENTRY, ENTRY.replace("0.05", "0.06"), ENTRY.replace("}}", "}, label: b}")):
        name = "calibration@b" if "label" in entry else "calibration"
        text = CALIBRATED.replace(ENTRY, entry).replace("calibrated: calibration", f"calibrated: {name}")
        (found,) = (each for each in planned(text, tmp_path).evaluation if isinstance(each, Calibration))
        run = students(planned(text, tmp_path))[0].run
        assert run.description["distillation"] == {"calibrated": found.hash, "teacher_sees": "shown"}
        again = type(run).model_validate(json.loads(json.dumps(run.model_dump(mode="json"))))
        assert again.id == run.id
        ids.add(run.id)
    assert len(ids) == 3
    assert len({place.id for text in (CALIBRATED, STATED) for place in planned(text, tmp_path).places}) == 3 + 2 * 2


def test_two_calibrations_beside_each_other_and_one_of_them_an_axis(tmp_path: Path) -> None:
    both = CALIBRATED.replace(ENTRY, f"{ENTRY}, {{calibration: {{eps: 0.2}}, label: wide}}")
    both = both.replace("seeds: 2\n", "seeds: 1\ngrid: {by: [calibration, calibration@wide]}\n")
    plan = planned(both.replace("calibrated: calibration", "calibrated: $by"), tmp_path)
    assert len({place.run.description["distillation"]["calibrated"] for place in students(plan)}) == 2


def test_a_step_is_tried_before_the_start(tmp_path: Path) -> None:
    plan = planned(CALIBRATED, tmp_path)
    assert preflight(plan.runs, [*plan.runs], [*plan.runs], plan.evaluation, tmp_path) == []


def test_a_mapping_does_what_a_file_does(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(CALIBRATED)
    assert kdtune.plan(tmp_path / "x.yaml", data=str(tmp_path)).runs.keys() == planned(CALIBRATED, tmp_path).runs.keys()


# What is refused

POOL = "  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n"
DISTILLATION = "distillation: {calibrated: calibration, teacher_sees: shown}"
REFUSED: dict[str, tuple[str, str, str]] = {
    "alpha beside it": (
        "calibrated: calibration", "calibrated: calibration, alpha: 0.5",
        "student.distillation.alpha: calibrated: calibration reads alpha from the teacher's calibration"),
    "both beside it": (
        "calibrated: calibration", "calibrated: calibration, temperature: 2, alpha: 0.5", "reads alpha from"),
    "temperature beside it": (
        "calibrated: calibration", "calibrated: calibration, temperature: 2",
        "student.distillation.temperature: calibrated: calibration reads temperature from"),
    "neither": ("calibrated: calibration, ", "", "student.distillation.alpha: is missing"),
    "half": ("calibrated: calibration, ", "alpha: 0.5, ", "student.distillation.temperature: is missing"),
    "no entry": (
        f", {ENTRY}", "", "student.distillation.calibrated: came 'calibration'; no entry of evaluation is called so"),
    "a slip": ("calibrated: calibration", "calibrated: calibraton", "did you mean calibration?"),
    "a label is lacking": (ENTRY, ENTRY.replace("}}", "}, label: b}"), "did you mean calibration@b?"),
    "another evaluator": (
        "calibrated: calibration", "calibrated: accuracy", "which measures no temperature and no weight"),
    "the mean of a pool": ("{rule: best, metric: val/accuracy}", "{rule: average}", "no single teacher"),
    "a teacher from a file": (POOL, "  checkpoint: own.pt\n", "a teacher that is not trained here has none such"),
    "answers from a file": (
        "calibrated: calibration, teacher_sees: shown", "calibrated: calibration, responses: {file: a.npy}",
        "of a teacher that is not here"),
    "as a loss": (
        DISTILLATION, "loss: {kd: {calibrated: accuracy, teacher_sees: shown}}", "student.loss.kd.calibrated: came"),
    "nothing held out": (
        "train_size: 100, validation: 0.2", "train_size: 100", "nothing is held out: set dataset.validation"),
    "on val": (ENTRY, ENTRY.replace("}}", "}, on: val}"), "calibration is not measured on held-out images by itself"),
}  # fmt: skip


@pytest.mark.parametrize(("there", "instead", "said"), REFUSED.values(), ids=REFUSED)
def test_what_a_file_may_not_say(there: str, instead: str, said: str, tmp_path: Path) -> None:
    assert there in CALIBRATED
    (tmp_path / "x.yaml").write_text(CALIBRATED.replace(there, instead))
    with pytest.raises(SweepFileError) as caught:
        load_sweep(tmp_path / "x.yaml")
    assert said in str(caught.value)
    assert "x.yaml:" in str(caught.value), "and its line"


def test_test_images_may_choose_in_the_paper_profile_alone(tmp_path: Path) -> None:
    text = CALIBRATED.replace("images: 40}", "images: 40, fitted_on: test}")
    (tmp_path / "x.yaml").write_text(f"{text}profiles: {{quick: {{seeds: 1}}}}\n")
    assert load_sweep(tmp_path / "x.yaml").points
    with pytest.raises(SweepFileError, match="only the paper profile may fit to test data; remove fitted_on: test"):
        load_sweep(tmp_path / "x.yaml", "quick")
    measured = STATED.replace("[accuracy]", "[accuracy, {calibration: {fitted_on: test}}]")
    (tmp_path / "y.yaml").write_text(f"{measured}profiles: {{quick: {{seeds: 1}}}}\n")
    assert load_sweep(tmp_path / "y.yaml", "quick").points, "to measure it chooses nothing"
