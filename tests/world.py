"""The oracle's world in small: Gaussian points whose labels are an untrained teacher's, students that learn from it in
seconds, and a source that others have their images from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdtune.planning.place import Place
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.context import RunContext
from kdtune.training.run import Outcome, perform

DATA = "{gaussian: {dimension: 12, rank: 4, std: 1.5, classes: 3, count: 100}, validation: 0.2}"
TEACHER = """\
teacher: {model: {two-layer: {width: 4, init: {grid: {strength: 1.0}}}}, untrained: true, select: {rule: paired}}
"""
WIDE = "{two-layer: {width: 8, init: {normal: 0.1}}}"
PGD = "{norm: l2, eps: 0.5, step: 0.25, steps: 2, climbs: oracle}"
SOURCE = f"""\
source:
  model: {WIDE}
  loss: {{mse: {{teacher_sees: shown}}}}
  noise: {{input: {{pgd: {PGD}}}}}
"""
STUDENT = f"""\
student:
  model: {WIDE}
  loss: {{mse: {{}}}}
"""
ROBUST = f"""\
student:
  model: {WIDE}
  dataset: {{robust: {{steps: 20, step: 0.2}}}}
"""
WORLD = f"""\
name: world
dataset: {DATA}
seeds: 2
recipe:
  optimizer: {{sgd: {{lr: 0.05, momentum: 0.0, weight_decay: 0.0}}}}
  schedule: {{step: {{milestones: [], factor: 1.0}}}}
  precision: float32
  batch_size: 16
  epochs: 3
{TEACHER}{STUDENT}evaluation: [accuracy]
"""
SOURCED = WORLD.replace(STUDENT, SOURCE + ROBUST)


def planned(text: str, root: Path) -> Plan:
    (root / "world.yaml").write_text(text)
    return build_plan(load_sweep(root / "world.yaml"), root)


def at(root: Path, results: str = "r", **words: Any) -> RunContext:
    return RunContext(Store(root / results), root, **words)


def of_role(plan: Plan, role: str) -> list[Place]:
    return [place for place in plan.places if place.role == role]


def performed(plan: Plan, context: RunContext, *roles: str) -> dict[str, Outcome]:
    """The runs of these roles, by default all, one after the other, those that others wait for first."""
    places = [place for place in plan.runs.values() if not roles or place.role in roles]
    return {place.id: perform(place.run, plan.evaluation, context) for place in places}
