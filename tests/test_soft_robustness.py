"""The sweep on soft targets: its arms, and that the smoothing in the file is as soft as the teachers' answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdtune import plan
from kdtune.evaluation.accuracy import Accuracy
from kdtune.evaluation.softness import Softness, matched_smoothing
from kdtune.launch.here import launch_here
from kdtune.launch.interrupt import Interrupt
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan
from kdtune.report.progress import Progress
from kdtune.store.standing import Standing
from kdtune.store.store import Store

FILE = Path(__file__).parents[1] / "sweeps" / "soft_robustness.yaml"
STATED = re.compile(r"(laptop|mnist) ([\d.]+) \(5 teachers, ([\d.]+)\s+to ([\d.]+); entropy ([\d.]+)")


def stated() -> dict[str, tuple[float, ...]]:
    """By profile what the header says: the rate, the range over teachers, the mean entropy in nats."""
    said = re.sub(r"\n#? ?", " ", FILE.read_text().split("\nname:")[0])
    return {profile: tuple(map(float, numbers)) for profile, *numbers in STATED.findall(said)}


def arms(plan: Plan) -> dict[str, set[int]]:
    """Seeds of the students by arm, the one without input noise."""
    found: dict[str, set[int]] = {}
    for place in plan.places:
        if place.role == "student" and not place.run.noise.knobs("input"):
            run = place.run
            loss = run.loss
            taught = f"{run.teacher.rule}{' shuffled' * loss.shuffled}" if run.teacher and loss else "alone"
            noisy = " ".join(f"{knob.key}={knob.stated:g}" for knob in run.noise.knobs("target").values())
            found.setdefault(f"{taught} {noisy}".strip(), set()).add(run.seed or 0)
    return found


@pytest.mark.parametrize(("profile", "rate"), [("paper", 0.1), ("quick", 0.1), ("laptop", 0.518), ("mnist", 0.438)])
def test_every_arm_has_five_paired_seeds(profile: str, rate: float, tmp_path: Path) -> None:
    five = {*range(5)}
    assert arms(plan(FILE, profile, {"dataset": "digits"}, data=str(tmp_path))) == {
        "alone": five,
        f"alone smoothing={rate:g}": five,
        "paired": five,
        "paired shuffled": five,
        "average": five,
        "paired variability=0.5": five,
    }


def test_the_smoothing_in_the_file_has_the_entropy_that_its_header_states(tmp_path: Path) -> None:
    found = stated()
    assert found.keys() == {"laptop", "mnist"}
    for profile, (rate, least, most, entropy) in found.items():
        assert f"alone smoothing={rate:g}" in arms(plan(FILE, profile, {"dataset": "digits"}, data=str(tmp_path)))
        assert rate == pytest.approx(matched_smoothing(entropy, 10), abs=6e-4) and least < rate < most


def test_a_teacher_of_the_laptop_profile_is_as_soft_as_stated(tmp_path: Path) -> None:
    _, least, most, _ = stated()["laptop"]
    evaluation = (Accuracy(), Softness())
    whole = plan(FILE, "laptop", {"evaluation": [each.dumped() for each in evaluation]}, data=str(tmp_path))
    (one,) = whole.only({"role": "teacher", "r": 0, "seed": 0}).runs
    alone = whole.of([one])
    standing = Standing(Store(tmp_path / "results"), alone.evaluators)
    dispatch = Dispatch(alone, standing)
    launch_here(dispatch, Progress(alone, dispatch, verbosity=-1), tmp_path, 60.0, Interrupt())
    measured = standing.measured(one)["softness/smoothing"]
    assert measured is not None and least - 0.02 < measured < most + 0.02
