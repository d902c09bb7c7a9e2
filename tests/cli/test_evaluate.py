"""A new evaluator on finished runs evaluates only."""

from __future__ import annotations

import csv

import pytest

from kdtune.cli.evaluate import evaluate_late
from kdtune.cli.sweep import Options, run
from kdtune.store.store import Store

PGD = "{pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 1, images: 20}}"


@pytest.fixture
def results(write_sweep, tmp_path):
    folder = tmp_path / "results"
    assert run(Options(write_sweep(), results=str(folder), here=True, verbosity=-1)) == 0
    return folder


def rows(results) -> list[dict[str, str]]:
    return list(csv.DictReader((results / "small" / "paper" / "results.csv").open()))


def test_a_new_evaluator_measures_all_runs_and_trains_none(results, monkeypatch):
    weights = {key: Store(results).objects.get(key) for key in Store(results).objects.list("runs") if "/20" in key}
    before = rows(results)
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: pytest.fail("trained"))
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    after = rows(results)
    assert all(row["robust/pgd2/unconditional"] for row in after)
    assert [{name: row[name] for name in before[0]} for row in after] == before, "what was known is as it was"
    assert weights == {key: Store(results).objects.get(key) for key in weights}


def test_the_same_attack_on_held_out_images_stands_beside_that_on_test_images(results):
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    before = rows(results)
    assert evaluate_late(results / "small", None, PGD.removesuffix("}") + ", on: val}", here=True) == 0
    assert all(row["val/robust/pgd2/unconditional"] for row in rows(results))
    assert [{name: row[name] for name in before[0]} for row in rows(results)] == before, "nothing left the table"


def test_it_goes_through_ray_too(results, monkeypatch):
    assert evaluate_late(results / "small", "paper", PGD) == 0
    assert all(row["robust/pgd2/unconditional"] for row in rows(results))


def test_unfinished_runs_are_left_alone(results):
    (results / "runs" / "done" / rows(results)[-1]["id"]).unlink()
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    assert len(rows(results)) == 9
    assert len(Store(results).finished()) == 9


def test_what_is_wrong_is_said(results, tmp_path, capsys):
    assert evaluate_late(results / "small", None, "pdg", here=True) == 2
    assert "did you mean pgd" in capsys.readouterr().err
    assert evaluate_late(tmp_path / "nowhere", None, "pgd", here=True) == 2
    assert evaluate_late(results / "small", "laptop", "pgd", here=True) == 2


def test_a_folder_whose_runs_are_others_by_now_is_left_as_it_is(results, capsys, monkeypatch):
    """Images that were changed, a new RECIPE_VERSION: measured would be nothing, and the table empty."""
    before = (results / "small" / "paper" / "results.csv").read_bytes()
    monkeypatch.setattr("kdtune.config.RECIPE_VERSION", 99)
    assert evaluate_late(results / "small", None, PGD, here=True) == 2
    assert "10 of its 10 runs are other runs by now" in capsys.readouterr().err
    assert (results / "small" / "paper" / "results.csv").read_bytes() == before
