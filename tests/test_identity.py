"""A run's id can be made of its run.yaml: what came from elsewhere is held against the name it goes by."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from kdtune.identity import id_of
from kdtune.planning.plan import build_plan
from kdtune.store.encoding import from_yaml, to_yaml
from kdtune.sweepfile.load import load_sweep

SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))
SOME = 40  # of a sweep's runs: PyYAML writes a few hundred a second


@pytest.mark.parametrize("profile", ["paper", "quick", "laptop"])
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_id_of_what_run_yaml_says_is_the_runs(path: Path, profile: str) -> None:
    plan = build_plan(load_sweep(path, profile), Path("nowhere"))
    step = max(1, len(plan.runs) // SOME)  # of all roles and points
    for place in islice(plan.runs.values(), None, None, step):
        assert id_of(from_yaml(to_yaml(place.run.description))) == place.id


def test_the_order_of_keys_is_not_part_of_it_but_among_knobs() -> None:
    knobs = {"swap": {"rate": 0.1}, "dropout": {"rate": 0.2}}
    one = {"seed": 1, "noise": {"teacher": knobs}}
    assert id_of(one) == id_of(dict(reversed(one.items())))
    assert id_of(one) != id_of({"seed": 1, "noise": {"teacher": dict(reversed(knobs.items()))}})
