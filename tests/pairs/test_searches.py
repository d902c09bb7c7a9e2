"""Where a search meets what else a results folder is asked for."""

from __future__ import annotations

import csv
import runpy
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, SEARCH
from pairs.test_results import do, sweep

ALONE = """\
name: alone
dataset: {digits: {}, train_size: 60, validation: 0.5}
search:
  trials: 4
  sampler: {tpe: {startup: 1}}
  lag: 1
  space: {sigma: {loguniform: [0.01, 0.5]}, hidden: {choice: [[6], [8]]}}
  seeds: 2
  objectives: {val/accuracy: max}
  confirm: {points: 1, seeds: 2}
grid: {sigma: 0.1, hidden: [[8]]}
recipe:
  optimizer: {sgd: {lr: 0.1, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 20
  epochs: 2
student: {model: {mlp: {hidden: $hidden}}, noise: {input: {gaussian: {sigma: $sigma}}}}
evaluation: [accuracy]
"""


def late(results, evaluation="{accuracy: {}, label: late}"):
    return do("evaluate", f"{results}/alone", "--evaluation", evaluation, "--here")


def rows(results, name="results.csv", folder="alone/paper"):
    return list(csv.DictReader((Path(results) / folder / name).open()))


def content(results, *names):
    return [(results / "alone" / "paper" / name).read_bytes() for name in names]


def drawn(script, results, folder, monkeypatch):
    """The exit status of a script of analysis/."""
    monkeypatch.syspath_prepend(ROOT / "analysis")
    monkeypatch.setattr("sys.argv", [f"{script}.py", str(results), "--output", str(folder)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "analysis" / f"{script}.py"), run_name="__main__")
    return ended.value.code


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search: its file, its results."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "alone.yaml").write_text(ALONE)
    assert sweep(folder / "alone.yaml", folder / "r").exit_code == 0
    return folder / "alone.yaml", folder / "r"


@pytest.fixture
def file(searched):
    return searched[0]


@pytest.fixture
def results(searched, tmp_path):
    """A copy of the results that a test may change."""
    return Path(shutil.copytree(searched[1], tmp_path / "results"))


def test_what_is_forgotten_of_a_search_opens_its_choice_again_and_its_command_brings_all_back(file, results):
    """A proposal's run goes: the table is what is known now, and takes a late measurement; a second one goes; then all
    is as it was."""
    before, chosen = content(results, "results.csv", "search.csv"), rows(results, "search.csv")
    (first, second) = next(row["runs"] for row in chosen if row["front"] == "True").split()
    assert do("forget", results / "alone", first).exit_code == 0
    assert {row["search.confirms"] for row in rows(results)} == {"False"}, "nobody knows what is to be confirmed"
    assert late(results).exit_code == 0, "its runs are no others than before"
    assert do("forget", results / "alone", second).exit_code == 0
    states = {row["id"]: row["state"] for row in rows(results)}
    assert states[first] == states[second] == "new" and len(states) == 8, "as the table says at once"
    assert sweep(file, results).exit_code == 0
    assert [{name: row[name] for name in row if "@late" not in name} for row in rows(results)] == list(
        csv.DictReader(before[0].decode().splitlines())
    )
    assert content(results, "search.csv") == before[1:]


def test_a_late_evaluation_loses_no_run_that_confirms(results):
    """A run of the search is gone, by no command: what confirms has no place then, and the table stays."""
    before = content(results, "results.csv")
    (first, _) = next(row["runs"] for row in rows(results, "search.csv")).split()
    (results / "runs" / "done" / first).unlink()
    said = late(results)
    assert said.exit_code == 2 and "0 of 4 proposals known" in said.output and "confirm" in said.output
    assert content(results, "results.csv") == before


def test_what_is_lower_the_better_is_ranked_so_when_it_was_measured_late(results):
    assert late(results).exit_code == 0
    both = [do("best", results / "alone", "--by", f"test/nll{label}").output.splitlines() for label in ("", "@late")]
    assert both[0][1:] == both[1][1:] and "lowest" in both[1][0]


def test_two_searches_side_by_side_differ_in_settings_and_in_no_numbers_of_proposals(file, results):
    assert sweep(file, results, "search.trials=3").exit_code == 0
    (fewer,) = (path for path in (results / "alone").iterdir() if "+" in path.name)
    said = do("diff", results / "alone" / "paper", fewer).output
    assert "noise.input.gaussian.sigma" in said and "search." not in said


def test_fewer_trials_are_the_beginning_of_the_same_search(file, results, tmp_path):
    """In results that know more of it, and in empty ones."""
    for place in (results, tmp_path / "empty"):
        assert sweep(file, place, "search.trials=2").exit_code == 0
    folders = [next((place / "alone").glob("paper+*")) for place in (results, tmp_path / "empty")]
    for name in ("results.csv", "search.csv"):
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other


def test_no_figure_of_a_grid_is_over_runs_that_chose_and_runs_that_confirm(results, tmp_path, monkeypatch, capsys):
    """A choice that is confirmed has runs of other seeds at the same place of the axis: they were one mean."""
    assert drawn("softrand", results / "alone", tmp_path, monkeypatch) == 2
    assert "no mean is over both" in capsys.readouterr().err


def test_a_search_bears_out_no_claim(file, tmp_path, monkeypatch, capsys):
    """Of the name of a sweep that claims are about, as where `search:` is written into its file."""
    (tmp_path / "softrand.yaml").write_text(file.read_text().replace("name: alone", "name: softrand"))
    assert sweep(tmp_path / "softrand.yaml", tmp_path / "r").exit_code == 0
    assert drawn("claims", tmp_path / "r", tmp_path, monkeypatch) == 2
    assert "is a search's" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["number", "listed", "front", "runs"])
def test_an_axis_has_no_name_of_another_column_of_search_csv(name, tmp_path):
    """It stood in the place of the proposal's number, or was gone."""
    (tmp_path / "small.yaml").write_text(SEARCH.replace("rate: {ch", f"{name}: {{ch").replace("rate: 0", f"{name}: 0"))
    said = sweep(tmp_path / "small.yaml", tmp_path / "r", "--dry-run")
    assert said.exit_code == 2 and "a column of search.csv" in said.output


DIVERGE = ALONE.replace("hidden: {choice: [[6], [8]]}", "lr: {choice: [0.1, 1.0e+30]}").replace(
    "student: {model: {mlp: {hidden: $hidden}}",
    "teacher: {recipe: {optimizer: {sgd: {lr: $lr}}}, model: {mlp: {hidden: [6]}}, seeds: 1,"
    " select: {rule: best, metric: val/accuracy}}\n"
    "student: {distillation: {alpha: 0.9, temperature: 4}, model: {mlp: {hidden: [8]}}",
)


def test_a_proposal_whose_teachers_all_diverged_is_known_to_status_and_page_too(tmp_path):
    """Two listed points, one of them with a teacher at lr 1e30: its students never start, and the search knows it."""
    text = DIVERGE.replace("hidden: [[8]]", "lr: [0.1, 1.0e+30]").replace("trials: 4", "trials: 2")
    (tmp_path / "alone.yaml").write_text(text)
    said = sweep(tmp_path / "alone.yaml", tmp_path / "r")
    assert said.exit_code == 3 and "2 of 2 proposals known" in said.output
    place = tmp_path / "r" / "alone"
    assert "2 of 2 proposals known, 0 made and not known yet" in do("status", place).output
    page = (place / "paper" / "report.html").read_text()
    assert page.count("<td>all teachers it chooses from diverged</td>") == 2
    assert "1e+30  " in do("table", place, "--rows", "lr", "--only", "lr=1e30,search.confirms=false").output
