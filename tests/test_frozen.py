"""Ids and evaluators' hashes stand still from version 0.2 on: a result is found again by them, in months too.

`frozen.yaml` holds them for the sweeps that come with kdtune. What is new is off by default and leaves no trace, so
it changes nothing here. Where a number must change, RECIPE_VERSION rises, or the evaluator's `version`, with a line in
CHANGELOG; then `python tests/test_frozen.py` writes the file anew.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdtune.planning.plan import Plan, build_plan
from kdtune.run import RECIPE_VERSION
from kdtune.sweepfile.load import load_sweep

ROOT = Path(__file__).parents[1]
FROZEN = Path(__file__).with_name("frozen.yaml")
NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
PROFILES = ("paper", "quick", "laptop")


@cache
def plan(name: str, profile: str) -> Plan:
    return build_plan(load_sweep(ROOT / "sweeps" / f"{name}.yaml", profile), Path("nowhere"))


def runs(name: str, profile: str) -> dict[str, Any]:
    """How many runs, and a digest of their sorted ids."""
    ids = sorted(plan(name, profile).runs)
    return {"runs": len(ids), "sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}


def evaluators() -> dict[str, str]:
    """The hash of every evaluator of these sweeps, by what a sweep file says."""
    every = {each for name in NAMES for profile in PROFILES for each in plan(name, profile).evaluation}
    return {json.dumps(each.dumped()): each.hash for each in sorted(every, key=lambda each: json.dumps(each.dumped()))}


def now() -> dict[str, Any]:
    sweeps = {name: {profile: runs(name, profile) for profile in PROFILES} for name in NAMES}
    return {"recipe_version": RECIPE_VERSION, "sweeps": sweeps, "evaluators": evaluators()}


@cache
def frozen() -> dict[str, Any]:
    return dict(yaml.safe_load(FROZEN.read_text()))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_the_runs_of_a_sweep_keep_their_ids(name: str, profile: str) -> None:
    assert runs(name, profile) == frozen()["sweeps"][name][profile]


def test_evaluators_keep_their_hashes() -> None:
    assert evaluators() == frozen()["evaluators"]


def test_what_is_frozen_is_of_this_recipe_version() -> None:
    assert frozen()["recipe_version"] == RECIPE_VERSION
    assert f"RECIPE_VERSION {RECIPE_VERSION}" in (ROOT / "CHANGELOG.md").read_text()
    assert sorted(frozen()["sweeps"]) == NAMES


if __name__ == "__main__":
    FROZEN.write_text(yaml.safe_dump(now(), sort_keys=False, width=1000))
