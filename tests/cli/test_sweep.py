"""The sweep command as a user meets it: what it prints and writes, its exit status. Without Ray; see test_tuner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.cli.sweep import Options, run
from kdtune.store.store import Store

ROOT = Path(__file__).parents[2]


def command(*arguments: str | Path, cwd: Path = ROOT, **keywords) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    words = [sys.executable, "-m", "kdtune.sweep", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **keywords)


@pytest.fixture
def options(tmp_path):
    def options(file: Path, **flags) -> Options:
        defaults = {"results": str(tmp_path / "results"), "data": str(tmp_path / "data"), "here": True}
        return Options(file, **{**defaults, **flags})

    return options


def csv_of(results: Path, profile: str = "paper") -> bytes:
    return (results / "small" / profile / "results.csv").read_bytes()


def test_a_sweep_here_ends_with_a_table_and_where_everything_is(write_sweep, options, tmp_path, capsys):
    assert run(options(write_sweep())) == 0
    shown = capsys.readouterr().out
    first = shown.splitlines()[0]
    assert first.startswith("profile paper: ") and "insist" not in first
    assert "student rate=0.2" in shown and "+-" in shown
    for words in ("results ", "TensorBoard ", "run again "):
        assert words in shown
    folder = tmp_path / "results" / "small" / "paper"
    assert {"sweep.yaml", "plan.json", "results.csv", "results.parquet", "tensorboard"} <= {
        p.name for p in folder.iterdir()
    }
    header, *rows = csv_of(tmp_path / "results").decode().splitlines()
    assert header.startswith("id,role,seed,state,rate,") and len(rows) == 10
    assert "noise.teacher.dropout.rate" in header and "teacher.rate" in header


def test_the_same_command_again_trains_nothing_and_needs_neither_torch_nor_ray(write_sweep, options, tmp_path):
    file = write_sweep()
    assert run(options(file)) == 0
    before = csv_of(tmp_path / "results")
    program = (
        "import sys; from pathlib import Path; from kdtune.cli.sweep import Options, run;"
        f"status = run(Options(Path({str(file)!r}), results={str(tmp_path / 'results')!r}, verbosity=-1));"
        "print(status, [name for name in ('torch', 'ray', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "0 []"
    assert csv_of(tmp_path / "results") == before


def test_growing_the_grid_trains_only_what_is_new(write_sweep, small_sweep, options, tmp_path, monkeypatch):
    assert run(options(write_sweep())) == 0
    trained = []
    import kdtune.training.run

    original = kdtune.training.run.train_and_evaluate
    monkeypatch.setattr(
        kdtune.training.run, "train_and_evaluate", lambda run, *rest: (trained.append(run), original(run, *rest))
    )
    assert run(options(write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.0, 0.15, 0.2]")))) == 0
    assert len(trained) == 5
    assert len(csv_of(tmp_path / "results").splitlines()) == 16


def test_a_dry_run_says_what_would_run_and_writes_nothing(write_sweep, options, tmp_path, capsys):
    assert run(options(write_sweep(), dry_run=True)) == 0
    shown = capsys.readouterr().out
    assert "6 teachers: 6 new" in shown and "4 students: 4 new" in shown
    assert not (tmp_path / "results").exists()


def test_json_of_a_dry_run(write_sweep, tmp_path):
    done = command(write_sweep(), "--dry-run", "--json", "--results", tmp_path / "results", "--profile", "paper")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"sweep", "profile", "dataset", "counts", "runs"}
    assert said["counts"] == {"new": 10}
    student = said["runs"][-1]
    assert set(student) == {"id", "role", "seed", "parameters", "waits_for", "state"}
    assert student["role"] == "student" and len(student["waits_for"]) == 3
    assert "profile paper" in done.stderr


def test_json_of_a_sweep_parses_even_if_a_run_prints(write_sweep, tmp_path):
    """What a run prints, from Python or below it, must not get between the braces."""
    chatty = (
        "import os, sys; sys.argv = sys.argv[:1] + sys.argv[2:]; import kdtune.training.run as r; old = r.evaluate;"
        "r.evaluate = lambda *a: (print('chatter'), os.system('echo deep chatter'), old(*a));"
        "from kdtune.cli.sweep import main; main()"
    )
    words = [sys.executable, "-c", chatty, "-", write_sweep(), "--json", "--here", "--results", tmp_path / "results"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"sweep", "profile", "dataset", "results", "counts", "seconds"}
    assert said["counts"] == {"done": 10}
    assert "deep chatter" in done.stderr


def test_a_wrong_file_costs_nothing(write_sweep, small_sweep, tmp_path):
    text = small_sweep.replace("momentum", "momentun").replace("alpha: 0.9", "alpha: high")
    file = write_sweep(text.replace("rate: [0.0, 0.2]", "rate: 0.1, sigma: 0.3"))
    before = sorted(tmp_path.rglob("*"))
    done = command(file, "--results", tmp_path / "results", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{file}:") for line in lines)
    assert "did you mean momentum?" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_flag_or_file_is_bad_usage(tmp_path):
    assert command("nowhere.yaml").returncode == 2
    assert command(ROOT / "sweeps" / "fickle.yaml", "--profil", "laptop").returncode == 2


def test_a_sweep_folder_takes_one_driver(write_sweep, options, tmp_path, capsys):
    store = Store(tmp_path / "results")
    with store.claim("sweep/small/paper"):
        assert run(options(write_sweep())) == 4
    assert "is being worked on by process" in capsys.readouterr().err
    assert run(options(write_sweep())) == 0


def test_missing_data_is_one_error_before_any_run(write_sweep, small_sweep, options, tmp_path, capsys):
    text = small_sweep.replace("{digits: {}, ", "{folder: {path: nowhere, name: Mine}, ")
    assert run(options(write_sweep(text))) == 4
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "results" / "runs").exists()


def test_hours_are_confirmed_first(options, capsys):
    file = ROOT / "sweeps" / "fickle.yaml"
    assert run(options(file, profile="paper")) == 4
    assert "--profile quick" in capsys.readouterr().err


def test_failed_runs_end_in_status_3_with_their_cause(write_sweep, options, monkeypatch, capsys):
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: 1 / 0)
    assert run(options(write_sweep())) == 3
    shown = capsys.readouterr().out
    assert "ZeroDivisionError" in shown and "skipped" in shown and "go on " in shown
    monkeypatch.undo()
    assert run(options(write_sweep())) == 0, "the next command tries again"


def test_overrides_have_a_folder_of_their_own(write_sweep, options, tmp_path):
    assert run(options(write_sweep(), overrides=("recipe.epochs=1",))) == 0
    (folder,) = (tmp_path / "results" / "small").iterdir()
    assert folder.name.startswith("paper+") and len(folder.name) == len("paper+") + 4


def test_ctrl_c_is_remembered_and_the_same_command_goes_on(write_sweep, options, monkeypatch):
    import os
    import signal

    import kdtune.training.run

    original, calls = kdtune.training.run.evaluate, []

    def interrupt_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(kdtune.training.run, "evaluate", interrupt_third)
    assert run(options(write_sweep())) == 130
    monkeypatch.undo()
    assert run(options(write_sweep())) == 0
