"""A new evaluator on finished runs evaluates only."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import stored
from conftest import SMALL
from PIL import Image

from kdtune.cli.evaluate import evaluate_late
from kdtune.cli.sweep import Options, run
from kdtune.report import table
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


@pytest.mark.faults  # long: half a minute of Ray
def test_it_goes_through_ray_too(results, monkeypatch):
    assert evaluate_late(results / "small", "paper", PGD) == 0
    assert all(row["robust/pgd2/unconditional"] for row in rows(results))


def test_unfinished_runs_are_left_alone(results):
    (results / "runs" / "done" / rows(results)[-1]["id"]).unlink()
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    states = [row["state"] for row in rows(results)]
    assert states == ["done"] * 9 + ["new"]
    assert len(stored.finished(Store(results))) == 9


def test_the_command_that_does_it_again_is_its_own(results, capsys):
    """The folder's sweep.yaml given to the sweep's command is another profile's, in another folder."""
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run again")]
    words = shlex.split(line.removeprefix("run again"))
    assert words[:2] == ["kdtune", "evaluate"] and Path(words[2]) == results / "small" / "paper"
    assert words[3:] == ["--evaluation", PGD, "--here"]


def test_what_is_wrong_is_said(results, tmp_path, capsys):
    assert evaluate_late(results / "small", None, "pdg", here=True) == 2
    assert "did you mean pgd" in capsys.readouterr().err
    assert evaluate_late(tmp_path / "nowhere", None, "pgd", here=True) == 2
    assert evaluate_late(results / "small", "laptop", "pgd", here=True) == 2


def test_a_folder_whose_runs_are_others_by_now_is_left_as_it_is(results, capsys, monkeypatch):
    """Images that were changed, a new RECIPE_VERSION: measured would be nothing, and the table empty."""
    before = (results / "small" / "paper" / "results.csv").read_bytes()
    monkeypatch.setattr("kdtune.run.RECIPE_VERSION", 99)
    assert evaluate_late(results / "small", None, PGD, here=True) == 2
    assert "10 of its 10 runs are other runs by now" in capsys.readouterr().err
    assert (results / "small" / "paper" / "results.csv").read_bytes() == before


# Nothing measured leaves the table


def plan_json(results) -> dict:
    return json.loads((results / "small" / "paper" / "plan.json").read_bytes())


def sweep_again(results, write_sweep, text=None) -> None:
    options = Options(write_sweep(text) if text else write_sweep(), results=str(results), here=True, verbosity=-1)
    assert run(options) == 0


def kept(before, after) -> bool:
    return [{name: row[name] for name in before[0]} for row in after] == before


@pytest.fixture
def attacked(results, write_sweep):
    """The sweep with an attack of its own, finished; and its text."""
    text = SMALL.replace("[accuracy]", f"[accuracy, {PGD}]")
    sweep_again(results, write_sweep, text)
    return text


def attrs(results) -> dict[str, str]:
    """What the table says of itself, but for the radii of all that attacks."""
    return {key: value for key, value in table.read(results / "small").attrs.items() if key != "radii"}


def test_another_attack_is_added_and_says_in_what_it_differs(results, attacked, write_sweep, capsys):
    """Row A10: the sweep's own columns, closing table and figure stay; so they do after the sweep's own command."""
    before, about = rows(results), attrs(results)
    late = "{pgd: {eps: [0.2], step: 0.05, steps: [1], restarts: 1, images: 10}}"
    capsys.readouterr()
    assert evaluate_late(results / "small", None, late, here=True) == 0
    after = rows(results)
    name = "robust/pgd1@eps=0.2,steps=1,images=10/unconditional"
    assert kept(before, after) and all(row[name] for row in after)
    assert all(row["robust/clean"] and row["robust/clean@eps=0.2,steps=1,images=10"] for row in after)
    said = capsys.readouterr().out
    closing, beside = said.replace(late, "").split("results ")[0].split("beside these, of pgd: ")
    assert "robust/pgd2  /unconditional" in closing and "eps=0.2" not in closing
    assert beside.startswith("robust/") and "@eps=0.2,steps=1,images=10" in beside
    assert attrs(results) == about, "headlines and attack are the sweep's own"

    sweep_again(results, write_sweep, attacked)
    assert rows(results) == after and attrs(results) == about
    assert evaluate_late(results / "small", None, "{pgd: {steps: [3], restarts: 1, images: 10}}", here=True) == 0
    assert kept(after, rows(results)) and len(plan_json(results)["late"]) == 2
    names = rows(results)[0]
    assert "robust/pgd3@eps=0.031,step=0.003,steps=3,images=10/unconditional" in names


def test_what_was_measured_late_stays_after_the_sweeps_own_command(results, write_sweep, capsys):
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    after, about = rows(results), table.read(results / "small").attrs
    assert json.loads(about["headlines"]) == ["test/accuracy", "robust/pgd2", "robust/pgd2/unconditional"]
    assert about["attack"] == "eps 0.1, step 0.05, 1 restart"
    capsys.readouterr()
    sweep_again(results, write_sweep)
    assert rows(results) == after and table.read(results / "small").attrs == about
    more = SMALL.replace("seeds: 2", "seeds: 3")
    sweep_again(results, write_sweep, more)
    new = rows(results)
    assert len(new) == 12 and sum(not row["robust/pgd2/unconditional"] for row in new) == 2, "asked of no new run"
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    assert all(row["robust/pgd2/unconditional"] for row in rows(results)) and len(plan_json(results)["late"]) == 1


def test_an_entry_that_the_sweep_takes_over_is_not_late_any_more(results, write_sweep, monkeypatch):
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    before = rows(results)
    monkeypatch.setattr("kdtune.evaluation.pgd.PGD.measure", lambda *_: pytest.fail("measured again"))
    sweep_again(results, write_sweep, SMALL.replace("[accuracy]", f"[accuracy, {PGD}]"))
    assert rows(results) == before


def test_names_that_the_sweep_takes_for_itself_are_said_and_come_back(results, write_sweep, capsys):
    """The one way for columns to go: they would be called as others are. It is said, with what brings them back."""
    assert evaluate_late(results / "small", None, PGD, here=True) == 0
    own = "{pgd: {eps: [0.2], step: 0.05, steps: [2], restarts: 1, images: 20}}"
    text = SMALL.replace("[accuracy]", f"[accuracy, {own}]")
    capsys.readouterr()
    assert run(Options(write_sweep(text), results=str(results), here=True)) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not shown: pgd")]
    assert "under the names of others by now" in line
    words = shlex.split(line.partition("kdtune evaluate ")[2])
    assert evaluate_late(Path(words[0]), None, words[2], here=True) == 0
    assert all(row["robust/pgd2/unconditional"] for row in rows(results))
    assert all(row["robust/pgd2@eps=0.1/unconditional"] for row in rows(results))


RECORD = {"hash": "0" * 12, "version": 1, "entry": {"accuracy": {"unheard": 1}}}


@pytest.mark.parametrize("late", [3, [3], [{"hash": "../../x"}], [{**RECORD, "hash": "../x"}], [{"entry": "gone"}]])
def test_records_that_are_none_are_passed_over(results, write_sweep, late):
    path = results / "small" / "paper" / "plan.json"
    path.write_text(json.dumps(plan_json(results) | {"late": late}))
    sweep_again(results, write_sweep)
    assert len(rows(results)) == 10 and plan_json(results)["late"] == []


def test_a_record_of_an_evaluator_that_is_not_known_here_is_kept(results, write_sweep, capsys):
    """One of the user's own, say, whose file is not named this time."""
    path = results / "small" / "paper" / "plan.json"
    path.write_text(json.dumps(plan_json(results) | {"late": [{**RECORD, "entry": {"gone": {}}}]}))
    assert run(Options(write_sweep(), results=str(results), here=True)) == 0
    assert len(rows(results)) == 10 and plan_json(results)["late"] == [{**RECORD, "entry": {"gone": {}}}]
    assert "not shown: '{\"gone\": {}}', measured late, which is no evaluator here" in capsys.readouterr().out


def test_paths_typed_for_the_sweep_and_for_the_evaluator_are_each_found(
    write_sweep, small_sweep, tmp_path, monkeypatch
):
    """Row D4. The sweep's were typed in one folder, the evaluator's is in another; nothing is where the file is."""
    images = "shift: {folder: {path: other, name: %s}}"
    for place in ("here/data/train", "here/data/test", "here/other", "there/other"):
        for shade in range(2):
            folder = tmp_path / place / str(shade)
            folder.mkdir(parents=True)
            for number in range(20):
                Image.fromarray(np.full((8, 8, 3), 100 * shade + number, np.uint8)).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path / "here")
    dataset = "dataset={folder: {path: data, name: shades}, validation: 0.2}"
    given = (dataset, f"evaluation=[accuracy, {{{images % 'first'}}}]", "grid.rate=[0.2]")
    assert run(Options(write_sweep(), given, results=str(tmp_path / "results"), here=True, verbosity=-1)) == 0
    monkeypatch.chdir(tmp_path / "there")
    assert evaluate_late(tmp_path / "results" / "small", None, f"{{{images % 'second'}}}", here=True) == 0
    (place,) = (tmp_path / "results" / "small").iterdir()
    header = (place / "results.csv").read_text().splitlines()[0].split(",")
    assert {"shift/first", "shift/second"} <= set(header)
    kept = json.loads((place / "plan.json").read_bytes())
    assert kept["file"] == str(tmp_path / "small.yaml"), "the folder is still that file's"


def test_runs_keep_all_their_places(write_sweep, small_sweep, tmp_path):
    """Row A5."""
    text = small_sweep.replace("rate: [0.0, 0.2]", "d: [{alpha: 0.9, temperature: 4}, null]")
    text = text.replace("[8], dropout: $rate", "[8]").replace("tion: {alpha: 0.9, temperature: 4}", "tion: $d")
    path, folder = write_sweep(text.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", "")), tmp_path / "results"
    assert run(Options(path, results=str(folder), here=True, verbosity=-1)) == 0
    before = [(row["id"], row["role"]) for row in rows(folder)]
    assert len(before) == 7 and len({id for id, _ in before}) == 5
    assert evaluate_late(folder / "small", None, PGD, here=True) == 0
    assert [(row["id"], row["role"]) for row in rows(folder)] == before
    assert all(row["robust/pgd2/unconditional"] for row in rows(folder))
