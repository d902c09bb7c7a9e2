"""What stored answers cost and save, by hand; when that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtune.cli.sweep import Options, run
from kdtune.planning import cost
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.responses import Listening, listening
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

FORWARD = 64 * 32 + 32 * 10  # multiply-adds of the teacher
SWEEP = """\
name: small
dataset: {digits: {}, train_size: 100, validation: 0.2}
seeds: 3
recipe:
  optimizer: {sgd: {lr: 0.1}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  augmentation: {crop: {padding: 1, mode: zero}, flip: {}}
  precision: float32
  batch_size: 20
  epochs: 7
teacher: {model: {mlp: {hidden: [32]}}, seeds: 2, select: {rule: best, metric: val/accuracy}}
student:
  model: {mlp: {hidden: [8]}}
  distillation: {alpha: 0.9, temperature: 4, responses: stored}
evaluation: [accuracy]
"""


@pytest.fixture
def plan_of(write_sweep, tmp_path: Path):
    return lambda text: build_plan(load_sweep(write_sweep(text)), tmp_path)


def estimated(plan: Plan, place: Path) -> cost.Estimate:
    standing = Standing(Store(place), plan.evaluators)
    device = cost.Device("CPU core", rate=1e3, step=0.0)
    return cost.estimate(plan, standing.states(plan.runs), standing, device, 1)


def test_a_teacher_answers_once_to_every_view(plan_of) -> None:
    plan = plan_of(SWEEP)
    (found,) = listening(plan, plan.runs)
    asking, storing = 3 * 7 * 80 * FORWARD, 18 * 80 * FORWARD
    assert found == Listening(students=3, stored=True, asking=asking, storing=storing, size=2 * 80 * 18 * 10)


def test_the_estimate_counts_them_once(plan_of, tmp_path: Path) -> None:
    stored, computed = (
        estimated(plan_of(text), tmp_path / "results") for text in (SWEEP, SWEEP.replace("stored", "computed"))
    )
    saved = 1000 * 3600 * (computed.device_hours - stored.device_hours)
    assert saved == pytest.approx((3 * 7 - 18) * 80 * FORWARD)


@pytest.mark.parametrize(
    ("old", "new", "groups"),
    [
        ("seeds: 2, select: {rule: best, metric: val/accuracy}", "select: {rule: paired}", 3),  # a teacher each
        ("seeds: 2, ", "seeds: 3, ", 1),
        ("evaluation:", "  noise: {teacher: {dropout: {rate: 0.1}}}\nevaluation:", 0),
        ("temperature: 4", "temperature: 4, teacher_sees: shown", 0),  # which a sweep file refuses beside stored
        ("  distillation: {alpha: 0.9, temperature: 4}", "  loss: {dkd: {alpha: 1.0, beta: 2.0, temperature: 4}}", 1),
        ("  distillation: {alpha: 0.9, temperature: 4}\n", "", 0),
    ],
)
def test_who_shares_what(plan_of, old: str, new: str, groups: int) -> None:
    plan = plan_of(SWEEP.replace(", responses: stored", "").replace(old, new))
    found = listening(plan, plan.runs)
    assert len(found) == groups and sum(each.students for each in found) == (3 if groups else 0)
    assert not any(each.stored for each in found)


@pytest.mark.parametrize(
    ("responses", "epochs", "said"),
    [
        ("computed", 70, "responses: stored would save about"),
        ("computed", 5, None),  # 15 epochs are fewer than 18 views
        ("stored", 5, "responses: stored cost"),
        ("stored", 70, None),
    ],
)
def test_when_they_pay_is_told(plan_of, tmp_path: Path, responses: str, epochs: int, said: str | None) -> None:
    plan = plan_of(SWEEP.replace("stored", responses).replace("epochs: 7", f"epochs: {epochs}"))
    told = cost.on_responses(plan, [*plan.runs], estimated(plan, tmp_path / "results"))
    assert (told is None) == (said is None)
    if said and told:
        assert told.startswith(said) and "3 students of 1 teacher" in told


def test_where_one_arm_could_not_none_is_advised(plan_of, tmp_path: Path, write_sweep, capsys, monkeypatch) -> None:
    """A fickle teacher has no one answer: its arm would be compared with others that have."""
    arms = SWEEP.replace("stored", "computed").replace("epochs: 7", "epochs: 70")
    fickle = arms.replace("seeds: 3\n", "seeds: 3\ngrid: {rate: [0.0, 0.2]}\n").replace(
        "evaluation:", "  noise: {teacher: {dropout: {rate: $rate}}}\nevaluation:"
    ).replace("hidden: [32]}", "hidden: [32], dropout: $rate}")  # fmt: skip
    monkeypatch.setattr(cost, "WORTH", 0.0)  # of tiny networks most of the time is none of the teacher's
    plan = plan_of(fickle)
    assert cost.on_responses(plan, [*plan.runs], estimated(plan, tmp_path / "results")) is None
    for text, told in ((fickle, False), (arms, True)):
        flags = {"results": str(tmp_path / "r"), "data": str(tmp_path), "dry_run": True}
        assert run(Options(write_sweep(text), **flags)) == 0
        assert ("would save about" in capsys.readouterr().out) == told
