"""What a setting is compared with: the one without its noise."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from kdtune.report.controls import controls

BASE = {(0.0, 0.0): [50.0, 52.0, 54.0], (0.2, 0.0): [51.0, 54.0, 57.0], (0.2, 0.1): [60.0, 61.0], (0.0, 0.1): [0.0] * 3}


def table(values: dict[tuple[Any, Any], list[float]] = BASE, **more: Any) -> pd.DataFrame:
    rows = [
        {"role": "student", "rate": rate, "sigma": sigma, "seed": seed, "id": f"{rate}{sigma}{seed}", "state": "done"}
        | {"test/accuracy": accuracy, **more}
        for (rate, sigma), found in values.items()
        for seed, accuracy in enumerate(found)
    ]
    frame = pd.DataFrame(rows)
    frame.attrs = {"sweep": "x", "axes": json.dumps(["rate", "sigma"]), "headlines": json.dumps(["test/accuracy"])}
    return frame


def test_each_axis_is_taken_away_in_turn_and_runs_are_paired_by_seed() -> None:
    found = {(each.setting, each.axis): each for each in controls(table(), ["test/accuracy"])}
    assert [*found] == [
        ("student rate=0.2 sigma=0", "rate"),
        ("student rate=0.2 sigma=0.1", "rate"),
        ("student rate=0.2 sigma=0.1", "sigma"),
        ("student rate=0 sigma=0.1", "sigma"),
    ]
    first = found["student rate=0.2 sigma=0", "rate"].differences["test/accuracy"]
    low, high = stats.ttest_rel([51, 54, 57], [50, 52, 54]).confidence_interval(0.95)
    assert first is not None and (first.mean, first.n) == (2.0, 3)
    assert (first.low, first.high) == (pytest.approx(low), pytest.approx(high)) and not first.excludes_zero
    both = found["student rate=0.2 sigma=0.1", "sigma"]
    assert both.pairs == 2 and both.differences["test/accuracy"].mean == pytest.approx(8.0)  # type: ignore[union-attr]


def test_what_is_off_is_nothing_false_or_zero_and_strengths_are_not_compared_with_each_other() -> None:
    values = {(None, 1): [1.0, 2.0], (0.1, 1): [2.0, 4.0], (0.3, 1): [5.0, 5.0], (False, 2): [1.0, 1.0]}
    found = [(each.setting, each.axis) for each in controls(table(values), ["test/accuracy"])]
    assert found == [("student rate=0.1 sigma=1", "rate"), ("student rate=0.3 sigma=1", "rate")]


def test_a_sweep_whose_axes_are_never_off_has_none_and_roles_stay_apart() -> None:
    assert not [*controls(table({(0.1, 1): [1.0], (0.2, 1): [1.0]}), ["test/accuracy"])]
    frame = table({(0.0, 1): [1.0, 1.0], (0.2, 1): [2.0, 2.0]})
    frame.loc[frame["rate"] == 0.0, "role"] = "teacher"
    frame.attrs = table().attrs
    assert not [*controls(frame, ["test/accuracy"])]


def test_runs_that_are_not_done_are_no_pairs_and_a_flag_is_told() -> None:
    frame = table()
    frame.loc[frame["id"] == "0.20.00", "state"] = "failed"
    frame["robust/pgd20"] = frame["test/accuracy"]
    frame["flags/collapsed"] = (frame["id"] == "0.00.02").astype(float)  # of a control, among the plain students
    found = {(each.setting, each.axis): each for each in controls(frame, ["test/accuracy", "robust/pgd20"])}
    assert found["student rate=0.2 sigma=0", "rate"].pairs == 2
    assert found["student rate=0.2 sigma=0", "rate"].flagged == {"robust/pgd20"}
    assert not found["student rate=0.2 sigma=0.1", "rate"].flagged
