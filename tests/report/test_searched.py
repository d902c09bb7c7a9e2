"""A search from end to end, in this process: what it writes and prints, held against its own runs."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stored
from click.testing import CliRunner
from conftest import ROOT, SEARCH
from report.test_observer import scalars

import kdtune.training.run
from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.planning.front import front, hypervolume
from kdtune.planning.plan import build_plan
from kdtune.report.curve import points
from kdtune.report.foundpage import found_by_search
from kdtune.report.searched import blind, slack, tried
from kdtune.report.table import profile_folder, read
from kdtune.search.samplers import NSGA2, TPE
from kdtune.statistics import mean_interval
from kdtune.store.encoding import seal, unseal
from kdtune.store.stopping import stop
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

TWO = SEARCH.replace("{val/accuracy: max}", "{val/accuracy: max, val/robust/pgd2: max}").replace(
    "[accuracy]", "[accuracy, {pgd: {eps: 0.1, step: 0.05, steps: 2, restarts: 1}, on: val}]"
)
GOALS = ["val/accuracy", "val/robust/pgd2"]


def options(path: Path, root: Path, **flags: Any) -> Options:
    defaults = {"profile": "paper", "results": str(root / "results"), "data": str(root), "here": True, "verbosity": -1}
    return Options(path, **{**defaults, **flags})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A search by two objectives, done."""
    root = tmp_path_factory.mktemp("searched")
    path = root / "small.yaml"
    path.write_text(TWO)
    assert run(options(path, root)) == 0
    folder = root / "results" / "small" / "paper"
    return SimpleNamespace(root=root, path=path, folder=folder)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def test_search_csv_has_a_row_a_proposal_with_means_of_its_own_runs(finished: SimpleNamespace) -> None:
    table = {row["id"]: row for row in rows(finished.folder, "results.csv")}
    found = rows(finished.folder, "search.csv")
    assert [row["number"] for row in found] == list("012345") and [row["listed"] for row in found[:3]] == [
        "True",
        "True",
        "False",
    ]
    values = []
    for row in found:
        own = [table[id] for id in row["runs"].split()]
        assert [each["seed"] for each in own] == ["0", "1"]
        assert all(float(each["sigma"]) == float(row["sigma"]) for each in own)
        for goal in GOALS:
            of = mean_interval([float(each[goal]) for each in own])
            assert float(row[goal]) == pytest.approx(of.mean) and float(row[f"{goal}.low"]) == pytest.approx(of.low)
            assert row[f"{goal}.n"] == "2"
        values.append(tuple(float(row[goal]) for goal in GOALS))
    best = front(values, ["max", "max"])
    assert [row["front"] == "True" for row in found] == [number in best for number in range(6)]


def test_the_table_says_which_proposal_a_row_is_of_and_what_confirms(finished: SimpleNamespace) -> None:
    table = read(finished.folder)
    students = table[table["role"] == "student"]
    assert table[table["role"] == "teacher"]["search.number"].isna().all()
    assert set(students["search.number"]) == set(range(6))
    again = students[students["search.confirms"].astype(bool)]
    assert set(again["seed"]) == {2, 3, 4} and set(students["seed"]) - set(again["seed"]) == {0, 1}
    assert again["search.number"].nunique() == 2
    found = {int(row["number"]): row for row in rows(finished.folder, "search.csv")}
    for number, runs in again.groupby("search.number"):
        assert float(found[int(number)]["confirmed/val/accuracy"]) == pytest.approx(runs["val/accuracy"].mean())
    assert sum(row["confirmed/val/accuracy"] != "" for row in found.values()) == 2
    about = json.loads(table.attrs["search"])
    assert about["objectives"] == dict.fromkeys(GOALS, "max") and list(about["space"]) == [
        "sigma",
        "alpha",
        "temperature",
        "width",
        "rate",
    ]


def test_a_finished_search_is_told_within_seconds_and_loads_neither_torch_nor_optuna(finished: SimpleNamespace) -> None:
    program = (
        "import sys, time\n"
        "from kdtune.cli.sweep import Options, run\n"
        f"options = Options({str(finished.path)!r}, profile='paper', results={str(finished.root / 'results')!r},"
        f" data={str(finished.root)!r})\n"
        "assert run(options) == 0\n"
        "loaded = [name for name in ('torch', 'ray', 'optuna') if name in sys.modules]\n"
        "print(loaded, time.process_time(), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    loaded, seconds = done.stderr.strip().splitlines()[-1].rsplit(" ", 1)
    assert loaded == "[]" and float(seconds) < 5, f"of CPU, however busy the machine is: {done.stderr}"
    assert (
        "6 of 6 proposals known; the best by val/accuracy max, val/robust/pgd2 max, means over 2 seeds" in done.stdout
    )
    assert "confirmed: chosen by what stands above, done again with seeds that chose nothing" in done.stdout
    above, below = done.stdout.split("confirmed: chosen")
    assert above.count("sigma=") >= 1 and below.count("sigma=") == 2


def test_status_says_how_far_it_is(finished: SimpleNamespace) -> None:
    done = CliRunner().invoke(main, ["status", str(finished.folder)])
    assert "search: 6 of 6 proposals known, 0 made and not known yet" in done.output


def test_no_mean_is_over_runs_that_chose_and_runs_that_confirm(finished: SimpleNamespace) -> None:
    asked = ["table", str(finished.folder), "--rows", "sigma,alpha,temperature,width,rate"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code != 0 and "a mean would be over search.confirms too" in done.output
    done = CliRunner().invoke(main, [*asked, "--only", "search.confirms=true", "--columns", "val/accuracy"])
    assert done.exit_code == 0 and len(done.output.strip().splitlines()) == 1 + 2


def test_tensorboard_shows_the_search_as_a_run(finished: SimpleNamespace) -> None:
    shown = scalars(finished.folder / "tensorboard" / "search")
    (curve,) = shown.values()
    values = [tuple(float(row[goal]) for goal in GOALS) for row in rows(finished.folder, "search.csv")]
    assert curve["search/val/accuracy"] == pytest.approx({number: value[0] for number, value in enumerate(values)})
    whole = hypervolume(values, ["max", "max"])
    assert curve["search/hypervolume"][5] == pytest.approx(whole)
    assert sorted(curve["search/hypervolume"].values()) == [*curve["search/hypervolume"].values()]
    names = {path.name for path in (finished.folder / "tensorboard" / "means").iterdir() if path.is_dir()}
    assert sum(name.startswith("confirming student") for name in names) == 2


def test_one_objective_has_the_best_so_far() -> None:
    asked = SimpleNamespace(objectives={"val/nll": "min"}, metrics=("val/nll",))
    values = [None, (3.0,), (4.0,), (2.0,)]
    found = points(SimpleNamespace(search=asked, directions=["min"], values=values, counted=values))
    assert [row.get("search/best/val/nll") for row in found] == [None, 3.0, 3.0, 2.0]
    assert [row.get("search/val/nll") for row in found] == [None, 3.0, 4.0, 2.0]


def test_what_breaks_a_constraint_is_told_and_not_on_the_front(write_sweep: Any, tmp_path: Path, capsys: Any) -> None:
    text = SEARCH.replace("confirm: {points: 2, seeds: 3}", "constraints: {val/ece: {max: 5.0}}")
    assert run(options(write_sweep(text), tmp_path, verbosity=0)) == 0
    found = rows(tmp_path / "results" / "small" / "paper", "search.csv")
    kept = [row for row in found if float(row["val/ece"]) <= 5]
    assert [row["number"] for row in kept] == [row["number"] for row in found if row["feasible"] == "True"]
    assert 0 < len(kept) < 6, [row["val/ece"] for row in found]
    best = max(float(row["val/accuracy"]) for row in kept)
    assert all((row["front"] == "True") == (row in kept and float(row["val/accuracy"]) == best) for row in found)
    told = f"the best by val/accuracy max among the {len(kept)} with val/ece at most 5, means over 2 seeds"
    assert told in capsys.readouterr().out


def test_a_metric_without_a_number_is_not_called_divergence() -> None:
    """Such as a mean over no image: both have no value for the sampler, and a reader looks for another cause."""
    ends: dict[str, dict[str, Any]] = {
        "known": {"state": "done", "val/accuracy": 90.0},
        "unmeasured": {"state": "done", "val/accuracy": float("nan")},
        "diverged": {"state": "diverged"},
        "open": {"state": "failed"},
    }
    search: Any = SimpleNamespace(
        proposals=[SimpleNamespace(number=number, runs=(name,)) for number, name in enumerate(ends)],
        search=SimpleNamespace(metrics=("val/accuracy",), counted=lambda value: value),
        confirming={}, values=[(90.0,), None, None], directions=("max",),
    )  # fmt: skip
    found = tried(search, [{"id": name, **row} for name, row in ends.items()])
    assert [each.state for each in found] == [*ends]
    assert [each.front for each in found] == [True, False, False, False]


def test_the_page_shows_the_front_and_what_confirms_it(finished: SimpleNamespace) -> None:
    heads, lines = found_by_search(finished.folder) or ([], [])
    assert heads[:6] == ["proposal", "sigma", "alpha", "temperature", "width", "rate"] and heads[6:8] == GOALS
    of = {row["number"]: row for row in rows(finished.folder, "search.csv")}
    wanted = {number for number, row in of.items() if row["front"] == "True" or row[f"confirmed/{GOALS[0]}.n"]}
    assert {line[0] for line in lines} == wanted
    for line in lines:
        mean, high = (float(of[line[0]][name]) for name in (GOALS[0], f"{GOALS[0]}.high"))
        assert line[6] == f"{mean:.1f}\u00a0±\u00a0{high - mean:.1f} (n = 2)"
    html = (finished.folder / "report.html").read_text()
    assert "What the search found" in html and all(line[6] in html for line in lines)


def test_a_late_evaluation_leaves_what_the_search_says(finished: SimpleNamespace) -> None:
    before = rows(finished.folder, "search.csv")
    asked = ["evaluate", str(finished.folder), "--evaluation", "fit", "--data", str(finished.root), "--here"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    table = read(finished.folder)
    assert any(str(name).startswith("fit/") or "fit" in str(name) for name in table.columns)
    assert set(table["search.number"].dropna()) == set(range(6)) and rows(finished.folder, "search.csv") == before


def test_a_dry_run_says_how_much_it_may_come_to_and_writes_nothing(
    write_sweep: Any, tmp_path: Path, capfd: Any
) -> None:
    path = write_sweep(SEARCH)
    assert run(options(path, tmp_path, dry_run=True)) == 0
    said = capfd.readouterr().out
    assert "0 of 6 proposals known; at most 6 teachers and 18 students in all" in said
    assert "a student at the ends of the space: about" in said and "4 students: 4 new" in said
    assert not (tmp_path / "results").exists()
    assert run(options(path, tmp_path, dry_run=True, json=True)) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["search"]["lag"] == 2 and told["counts"] == {"new": 7}


def test_a_run_that_fails_ends_the_search_with_status_3_and_the_next_command_goes_on(
    write_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, train, calls = write_sweep(SEARCH), kdtune.training.run.train, []

    def failing(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # three teachers, two students of proposal 0, the first of proposal 1
            raise RuntimeError("no such luck")
        return train(*arguments, **keywords)

    monkeypatch.setattr(kdtune.training.run, "train", failing)
    assert run(options(path, tmp_path, verbosity=0)) == 3
    said = capsys.readouterr().out
    assert "1 of 6 proposals known" in said and "no such luck" in said
    assert "proposal 1 is open, as student sigma=0.1 seed=0 is failed: the next command tries it again" in said
    assert "confirmed:" not in said
    assert [row["state"] for row in rows(tmp_path / "results" / "small" / "paper", "search.csv")] == [
        "known",
        "open",
        "known",
    ]
    assert run(options(path, tmp_path, verbosity=0)) == 0
    assert "6 of 6 proposals known" in capsys.readouterr().out


def test_a_run_stopped_by_hand_leaves_its_proposal_open(write_sweep: Any, tmp_path: Path, capsys: Any) -> None:
    path, store = write_sweep(SEARCH), Store(tmp_path / "results")
    plan = build_plan(load_sweep(path), tmp_path)
    stopped = next(place.id for place in plan.places if place.name == "student sigma=0.1 seed=1")
    stop(store.objects, stopped)
    assert run(options(path, tmp_path, verbosity=0)) == 3
    assert "proposal 1 is open, as student sigma=0.1 seed=1 is stopped: --retry takes it up" in capsys.readouterr().out
    assert run(options(path, tmp_path, retry=True)) == 0


def test_forgotten_runs_come_back_and_what_they_led_to_stays(write_sweep: Any, tmp_path: Path, capsys: Any) -> None:
    path, folder = write_sweep(SEARCH), tmp_path / "results" / "small" / "paper"
    assert run(options(path, tmp_path)) == 0
    before = rows(folder, "search.csv")
    done = CliRunner().invoke(main, ["forget", str(folder), "--only", "sigma=0.1", "--data", str(tmp_path), "--yes"])
    assert done.exit_code == 0, done.output
    now = rows(folder, "search.csv")
    assert [row["state"] for row in now] == ["known", "open", *["known"] * 4]
    assert run(options(path, tmp_path, verbosity=0)) == 0
    assert rows(folder, "search.csv") == before and "drawn from other weights" not in capsys.readouterr().out


def test_two_commands_of_one_search_propose_the_same_and_share_their_runs(tmp_path: Path) -> None:
    """Two names are two folders, and one search: neither its name nor its number of trials is part of it."""
    commands = []
    for number, trials in enumerate((6, 7)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(SEARCH.replace("name: small", f"name: s{number}").replace("trials: 6", f"trials: {trials}"))
        words = [sys.executable, "-m", "kdtune.sweep", str(path), "--profile", "paper", "--here", "-q"]
        words += ["--results", str(tmp_path / "results"), "--data", str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        commands.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True))
    assert [command.wait(timeout=280) for command in commands] == [0, 0], [each.communicate()[1] for each in commands]
    assert len(list((tmp_path / "results" / "searches").iterdir())) == 1
    first, second = (rows(tmp_path / "results" / f"s{number}" / "paper", "search.csv") for number in range(2))
    runs = [[row["runs"] for row in found] for found in (first, second)]
    assert runs[0] == runs[1][:6] and len(runs[1]) == 7
    assert len(stored.finished(Store(tmp_path / "results"))) == len({*" ".join(runs[1]).split()}) + 6 + len(
        {
            row["id"]
            for n in range(2)
            for row in rows(tmp_path / "results" / f"s{n}" / "paper", "results.csv")
            if row["search.confirms"] == "True"
        }
    )


def test_a_search_in_a_bucket(write_sweep: Any, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3 import CREDENTIALS

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bucket = s3.bucket()
    path = write_sweep(SEARCH.replace("trials: 6", "trials: 3").replace("seeds: 3}", "seeds: 1}"))
    assert run(options(path, tmp_path, results=bucket)) == 0
    objects = Store(bucket).objects
    (search,) = {key.split("/")[1] for key in objects.list("searches")}
    assert objects.list("searches") == [f"searches/{search}/2.json"] and objects.exists("small/paper/search.csv")
    base, _, query = bucket.partition("?")
    copy = profile_folder(f"{base}/small?{query}")
    assert len(rows(copy, "search.csv")) == 3, "for figures, with the table"
    assert run(options(path, tmp_path, results=bucket)) == 0


def test_a_bundle_has_what_a_search_came_to_and_nothing_is_proposed_anew(
    finished: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, there = tmp_path / "small.tar", tmp_path / "there"
    assert CliRunner().invoke(main, ["bundle", str(finished.folder), str(bundle)]).exit_code == 0
    done = CliRunner().invoke(main, ["import", str(bundle), "--results", str(there)])
    assert done.exit_code == 0 and "  4 proposals of search " in done.output
    for refused in ("planning.searching.proposed", "training.run.trained", "training.run.evaluate"):
        monkeypatch.setattr(f"kdtune.{refused}", None)
    before = (there / "small/paper/search.csv").read_bytes()
    assert run(options(finished.path, finished.root, results=str(there))) == 0
    for name in ("search.csv", "results.csv"):
        assert (there / "small/paper" / name).read_bytes() == (finished.folder / name).read_bytes()
    assert (there / "small/paper/search.csv").read_bytes() == before
    again = CliRunner().invoke(main, ["import", str(bundle), "--results", str(there)])
    assert again.exit_code == 0 and "everything is there already" in again.output
    assert len(stored.finished(Store(there))) == len(read(finished.folder)["id"].unique())


def test_a_kept_proposal_that_is_no_sweep_is_told_by_all_commands_and_takes_nothing_away(
    finished: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.copytree(finished.root / "results", tmp_path / "results")
    folder, (path,) = tmp_path / "results/small/paper", (tmp_path / "results").glob("searches/*/3.json")
    record = unseal(path.read_bytes())
    path.write_bytes(seal({**record, "point": {**record["point"], "width": 0}}))
    before = {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}
    same = ["--data", str(finished.root)]
    sweep = [str(finished.path), "--profile", "paper", "--results", str(tmp_path / "results"), *same]
    for words in (
        ["sweep", *sweep, "--here"],
        ["sweep", *sweep, "--dry-run"],
        ["run", *sweep, "--only", "sigma=0.1"],
        ["doctor", *sweep],
        ["evaluate", str(folder), "--evaluation", "fit", "--here", *same],
        ["forget", str(folder), "--only", "sigma=0.1", "--yes", *same],
        ["stop", str(folder), "student sigma=0.1 seed=1", *same],
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 4, (words, done.output)
        told = f"refused: proposal 3 is kept in {path}, and is no sweep for this kdtune: sigma="
        assert told in done.stderr and "width=0" in done.stderr and "move that file away" in done.stderr, done.stderr
    for verb in ("status", "table", "report"):  # what they show has been seen before
        assert CliRunner().invoke(main, [verb, str(folder)]).exit_code == 0
    assert {each: each.read_bytes() for each in before if each.name != "report.html"} == {
        each: data for each, data in before.items() if each.name != "report.html"
    }


@pytest.mark.parametrize(("trials", "told"), [(12, True), (13, False)])
def test_a_sampler_that_never_begins_is_told(trials: int, told: bool) -> None:
    asked = SimpleNamespace(lag=3, trials=trials, sampler=TPE(startup=10))
    line = blind(SimpleNamespace(search=asked))
    assert (line is not None) is told and ("13 trials or more" in (line or "") or not told)


def test_who_never_begins_is_told_in_the_samplers_own_word() -> None:
    asked = SimpleNamespace(lag=3, trials=12, sampler=NSGA2(population=20))
    assert "20 (population) are drawn at random" in (blind(SimpleNamespace(search=asked)) or "")


@pytest.mark.parametrize(("slots", "told"), [(1, False), (2, False), (2.5, True), (8, True)])
def test_a_lag_that_keeps_slots_waiting_is_told(slots: float, told: bool) -> None:
    asked = SimpleNamespace(lag=2, trials=20)
    line = slack(SimpleNamespace(search=asked, seeds=(0, 1), values=[]), slots)
    assert (line is not None) is told and ("With lag 8" in (line or "") if slots == 8 else True)


def kd(*words: Any) -> Any:
    return CliRunner().invoke(main, [*map(str, words)])


def test_a_proposal_and_what_confirms_are_named_by_what_the_table_calls_them(
    finished: SimpleNamespace, tmp_path: Path
) -> None:
    """Its runs of a copy are forgotten, stopped, and done alone."""
    shutil.copytree(finished.root / "results", tmp_path / "results")
    folder, same = tmp_path / "results/small/paper", ["--data", finished.root]
    file = [finished.path, "--profile", "paper", "--results", tmp_path / "results", *same]
    table = [row for row in rows(folder, "results.csv") if row["role"] == "student"]
    (number, *_) = {row["search.number"] for row in table if row["search.confirms"] == "True"}
    confirming, own = (
        {row["id"] for row in table if (row["search.number"], row["search.confirms"]) == (number, word)}
        for word in ("True", "False")
    )
    assert len(confirming) == 3 and len(own) == 2
    store = Store(tmp_path / "results")
    before = stored.finished(store)

    done = kd("forget", folder, "--only", f"search.number={number},search.confirms=true", *same)
    assert done.exit_code == 0 and before - stored.finished(store) == confirming, done.output
    done = kd("run", *file, "--only", f"search.number={number},search.confirms=true,seed=3")
    assert done.exit_code == 0 and "done      confirming student" in done.output, done.output
    assert before - stored.finished(store) < confirming and len(before - stored.finished(store)) == 2
    assert kd("run", *file, "--only", f"search.number={number}").exit_code == 0
    assert stored.finished(store) == before, "all of its runs"

    done = kd("forget", folder, "--only", f"search.number={number},search.confirms=false,seed=1", *same)
    assert done.exit_code == 0 and len(before - stored.finished(store)) == 1 and before - stored.finished(store) < own
    done = kd("run", *file, "--only", "search.confirms=true")
    assert done.exit_code == 2 and "None confirms before all proposals are known: " in done.stderr, done.output
    done = kd("stop", finished.path, *file[1:], "--only", f"search.number={number},seed=1")
    assert done.exit_code == 0 and done.output.count("stopped; nobody trains it") == 1, done.output


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("search.number=6", r"only\.search\.number: came 6; 0 to 5 are made so far"),
        ("search.number=x", r"came x; 0 to 5"),
        ("search.number=true", r"came True; 0 to 5"),
        ("search.number=1,id=3f2a", "is no run in small|both say which runs"),
        ("search.numbers=1", r"write axis=value with one of sigma, .*, id, search\.number, search\.confirms"),
        ("search.number=1,seed=7", "no run has search"),
        ("search.confirms=true --epochs 1", "None confirms before all proposals are known and none with --epochs"),
    ],
)
def test_what_is_no_proposal_is_told(finished: SimpleNamespace, only: str, said: str) -> None:
    results = finished.root / "results"
    file = [finished.path, "--profile", "paper", "--results", results, "--data", finished.root]
    done = kd("run", *file, "--only", *only.split())
    assert done.exit_code == 2 and re.search(said, done.stderr), done.output


def test_a_proposal_may_be_tried_shorter(finished: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(finished.root / "results", tmp_path / "results")
    file = [finished.path, "--profile", "paper", "--results", tmp_path / "results", "--data", finished.root]
    done = kd("run", *file, "--only", "search.number=2,seed=0", "--epochs", "1")
    assert done.exit_code == 0 and "student sigma=" in done.output, done.output


def test_of_a_grid_there_are_no_proposals(write_sweep: Any, tmp_path: Path) -> None:
    done = kd("run", write_sweep(), "--profile", "paper", "--results", tmp_path, "--only", "search.number=1")
    assert done.exit_code == 2 and "write axis=value with one of rate, seed, role, id\n" in done.stderr
