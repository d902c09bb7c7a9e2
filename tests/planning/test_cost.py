"""Costs held against sums done by hand, and against what finished runs say they took."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kdtune.data import loading
from kdtune.evaluation.accuracy import Accuracy
from kdtune.evaluation.corruptions import Corruptions
from kdtune.evaluation.pgd import PGD
from kdtune.noise.noise import Noise
from kdtune.planning import cost
from kdtune.planning.cost import CPU_CORE, GPU, Device, Images
from kdtune.planning.plan import build_plan
from kdtune.recipe import Keep
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

DIGITS = Images((1, 8, 8), 10, train=80, validation=20, test=280)
FORWARD = 64 * 8 + 8 * 10  # multiply-adds of the two-layer network: 64 pixels, 8 units, 10 classes
PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10
EXACT = Device("CPU core", rate=1e6, step=0.0)


@pytest.fixture
def plan(write_sweep, tmp_path):
    """6 teachers and 4 students; 3 epochs of 80 images in batches of 20, 20 images held out."""
    return build_plan(load_sweep(write_sweep()), tmp_path)


@pytest.fixture
def teacher(plan):
    return next(run.run for run in plan.runs.values() if run.role == "teacher")


@pytest.fixture
def student(plan):
    return next(run.run for run in plan.runs.values() if run.role == "student")


def finish(plan, store: Store, id: str, seconds: float, device: str = "x86_64 CPU", outcome: str = "done") -> None:
    """As if the run had ended, and every evaluator had measured it."""
    store.attempt(id).finish(outcome, b"", [], {"seconds": seconds, "device": device})
    for hash, name in plan.evaluators.items():
        store.evaluations(id, store.done(id)).write(hash, {"name": name}, {"test/accuracy": 1.0}, {})


def test_training_is_three_forward_passes_an_image_and_an_answer_of_the_teacher(teacher, student):
    alone = 3 * (80 * 3 + 20) * FORWARD
    assert cost.training(teacher, DIGITS) == alone
    assert cost.training(student, DIGITS, teacher) == alone + 3 * 80 * FORWARD
    assert cost.steps(teacher, DIGITS) == 3 * 4
    assert cost.steps(teacher, replace(DIGITS, train=81)) == 3 * 5


def test_a_teacher_that_answers_several_times_costs_as_many_passes(teacher, student):
    noise = Noise.model_validate({"teacher": {"dropout": {"rate": 0.1, "passes": 5}}})
    patient = student.model_copy(update={"noise": noise})
    once = cost.training(student, DIGITS, teacher) - cost.training(student, DIGITS)
    assert cost.training(patient, DIGITS, teacher) == cost.training(student, DIGITS) + 5 * once


def test_evaluation_counts_every_image_that_is_shown(teacher):
    assert cost.passes([Accuracy()], DIGITS) == 280 + 20
    attack = PGD(eps=(0.1, 0.2), steps=(10, 20), restarts=5, images=50)
    assert cost.passes([attack], DIGITS) == 3 * 2 * 20 * 5 * 50 + 280 + 20
    assert cost.passes([PGD(eps=(0.1,), steps=(20,), restarts=1)], DIGITS) == 3 * 20 * 280 + 280 + 20
    assert cost.passes([Corruptions()], DIGITS) == 19 * 5 * 280 + 280 + 20
    assert cost.passes([Corruptions(families=("fog",), severities=(1, 3), images=50)], DIGITS) == 2 * 50 + 280 + 20


def test_a_wide_resnet_costs_what_is_known_of_it(teacher):
    """WRN-16-2 on CIFAR: 0.69 M parameters and 1.0e8 multiply-adds an image (Zagoruyko and Komodakis 2016)."""
    from kdtune.models.model import Model

    run = teacher.model_copy(update={"model": Model.model_validate("wrn-16-2")})
    cifar = Images((3, 32, 32), 10, train=50_000, validation=0, test=10_000)
    assert cost.training(run, cifar) == pytest.approx(3 * 3 * 50_000 * 1.0e8, rel=0.02)


def test_checkpoints_hold_weights_and_momentum_and_two_are_kept(teacher, tmp_path):
    assert cost.checkpoint_bytes(teacher) == 2 * 2 * 4 * PARAMETERS
    optimizer = teacher.recipe.optimizer.model_copy(update={"momentum": 0.0})
    plain = teacher.model_copy(update={"recipe": teacher.recipe.model_copy(update={"optimizer": optimizer})})
    assert cost.checkpoint_bytes(plain) == 2 * 4 * PARAMETERS
    choosy = teacher.recipe.model_copy(update={"keep": Keep(best="val/accuracy")})
    assert cost.checkpoint_bytes(teacher.model_copy(update={"recipe": choosy})) == 2 * 3 * 4 * PARAMETERS


def test_a_network_that_is_given_costs_its_evaluation_only(teacher):
    given = teacher.model_copy(update={"recipe": None, "seed": None, "checkpoint": "x.pt"})
    assert cost.training(given, DIGITS) == 0
    assert cost.checkpoint_bytes(given) == 0


def test_sizes_of_the_data_are_those_after_subset_and_hold_out(plan, tmp_path):
    dataset = next(iter(plan.runs.values())).run.dataset
    data = loading.load(dataset, tmp_path)
    loaded = Images(data.shape, data.classes, len(data.train), len(data.validation), len(data.test))
    assert cost.images(dataset) == loaded


def test_seconds_are_multiply_adds_at_a_rate_and_something_for_every_step(plan):
    id = next(id for id, run in plan.runs.items() if run.role == "student")
    quick = cost.work_of(plan, id, EXACT)
    assert quick.training == pytest.approx((3 * (80 * 4 + 20) * FORWARD) / 1e6)
    slow = cost.work_of(plan, id, replace(EXACT, step=0.5))
    assert slow.training - quick.training == pytest.approx(12 * 0.5)
    assert slow.evaluation > quick.evaluation > 0
    assert slow.seconds == slow.training + slow.evaluation
    assert cost.work_of(plan, id, EXACT, evaluators=()).evaluation == 0


def looked(plan, store: Store) -> Standing:
    return Standing(store, plan.evaluators)


def test_what_is_done_costs_nothing_and_devices_share_the_rest(plan, tmp_path):
    store, states = Store(tmp_path / "results"), dict.fromkeys(plan.runs, "new")
    whole = cost.estimate(plan, states, looked(plan, store), EXACT, 1)
    assert whole.hours == whole.device_hours
    assert whole.device_hours * 3600 == pytest.approx(sum(cost.work_of(plan, id, EXACT).seconds for id in plan.runs))
    assert cost.estimate(plan, states, looked(plan, store), EXACT, 2).hours == pytest.approx(whole.hours / 2)
    assert whole.checkpoint_bytes == 16 * PARAMETERS
    assert cost.estimate(plan, states, looked(plan, store), EXACT, 2).checkpoint_bytes == 2 * 16 * PARAMETERS
    done, diverged, *_ = plan.runs
    part = cost.estimate(plan, states | {done: "done", diverged: "diverged"}, looked(plan, store), EXACT, 1)
    saved = sum(cost.work_of(plan, id, EXACT).seconds for id in (done, diverged))
    assert (whole.device_hours - part.device_hours) * 3600 == pytest.approx(saved)
    nothing = cost.estimate(plan, dict.fromkeys(plan.runs, "done"), looked(plan, store), EXACT, 1)
    assert (nothing.hours, nothing.checkpoint_bytes) == (0, 0)
    assert str(nothing) == "nothing is left to compute"


def test_a_student_waits_for_its_teacher_however_many_devices_there_are(plan, tmp_path):
    states = dict.fromkeys(plan.runs, "new")
    found = cost.estimate(plan, states, looked(plan, Store(tmp_path / "results")), EXACT, 1000)
    work = {id: cost.work_of(plan, id, EXACT).seconds for id in plan.runs}
    students = {id: run for id, run in plan.runs.items() if run.waits_for}
    chains = [work[id] + max(work[teacher] for teacher in run.waits_for) for id, run in students.items()]
    assert found.hours * 3600 == pytest.approx(max(chains))


def test_finished_runs_correct_the_estimate(plan, tmp_path):
    store, states = Store(tmp_path / "results"), dict.fromkeys(plan.runs, "new")
    guess = cost.estimate(plan, states, looked(plan, store), EXACT, 1)
    assert (guess.compared, "rough" in str(guess)) == (0, True)
    ids = list(plan.runs)
    for id, factor in zip(ids, (4, 5, 60), strict=False):  # one was held up: the median does not mind
        finish(plan, store, id, factor * cost.work_of(plan, id, EXACT).seconds)
        states[id] = "done"
    finish(plan, store, ids[3], 1e9, device="NVIDIA H100")  # another kind of device says nothing
    finish(plan, store, ids[4], 1e-9, outcome="diverged")  # and one that was cut short neither
    states |= {ids[3]: "done", ids[4]: "diverged"}
    judged = cost.estimate(plan, states, looked(plan, store), EXACT, 1)
    left = sum(cost.work_of(plan, id, EXACT).seconds for id in ids[5:])
    assert judged.compared == 3
    assert judged.device_hours * 3600 == pytest.approx(5 * left)
    assert "judged by 3 finished runs" in str(judged)


def test_a_trained_run_costs_only_what_was_not_measured_yet(plan, tmp_path):
    store, id = Store(tmp_path / "results"), next(iter(plan.runs))
    store.attempt(id).finish("done", b"", [], {"seconds": 1.0, "device": "CPU"})
    found = cost.estimate(plan, {id: "partial"}, looked(plan, store), EXACT, 1)
    assert found.device_hours * 3600 == pytest.approx(cost.work_of(plan, id, EXACT).evaluation)


def test_a_damaged_record_is_passed_over(plan, tmp_path):
    store, id = Store(tmp_path / "results"), next(iter(plan.runs))
    finish(plan, store, id, 1.0)
    (record,) = (tmp_path / "results").rglob("provenance.json")
    record.write_text("{}")
    assert cost.compared(plan, {id: "done"}, looked(plan, store), EXACT) == []


def test_the_kind_of_device_is_what_this_machine_has(plan, tmp_path, monkeypatch):
    store, states = Store(tmp_path / "results"), dict.fromkeys(plan.runs, "new")
    for usable, device in ((True, GPU), (False, CPU_CORE)):
        monkeypatch.setattr("kdtune.planning.cost.has_usable_gpu", lambda usable=usable: usable)
        found = cost.estimate(plan, states, looked(plan, store))
        assert found.device is device
        assert found.devices >= 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (98, "98 s"), (100, "2 min"), (3540, "59 min"), (9000, "2.5 h"), (4e5, "4.6 days")],
)
def test_durations_are_said_as_a_person_would(seconds, said):
    assert cost.duration(seconds) == said


def test_no_torch_is_needed(write_sweep):
    code = (
        "import sys; from pathlib import Path; from kdtune.planning import cost;"
        "from kdtune.planning.plan import build_plan;"
        "from kdtune.sweepfile.load import load_sweep;"
        "from kdtune.store.standing import Standing; from kdtune.store.store import Store;"
        f"plan = build_plan(load_sweep({str(write_sweep())!r}), Path());"
        "standing, states = Standing(Store('nowhere')), dict.fromkeys(plan.runs, 'new');"
        "print(cost.estimate(plan, states, standing), 'torch' in sys.modules)"
    )
    folder = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert ended.stdout.startswith("about ")
    assert ended.stdout.endswith("False\n")
