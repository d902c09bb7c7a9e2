"""The sweep command as a user meets it: what it prints and writes, its exit status. Without Ray; see test_tuner."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import kdtune.store.folder
import kdtune.training.run
from kdtune.cli.sweep import Options, again, run
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
    assert set(said) == {"sweep", "profile", "dataset", "counts", "runs", "places"}
    assert said["counts"] == {"new": 10}
    student = said["runs"][-1]
    assert set(student) == {"id", "role", "seed", "parameters", "waits_for", "chooses_from", "state"}
    assert student["role"] == "student" and len(student["waits_for"]) == 3
    place = said["places"][-1]
    assert set(place) == {"id", "name", "role", "seed", "parameters", "teacher_parameters"}
    assert (place["id"], place["name"]) == (student["id"], "student rate=0.2 seed=1")
    assert "profile paper" in done.stderr


def test_json_of_a_sweep_parses_even_if_a_run_prints(write_sweep, tmp_path):
    """What a run prints, from Python or below it, must not get between the braces."""
    chatty = (
        "import os, sys; sys.argv = sys.argv[:1] + sys.argv[2:]; import kdtune.training.run as r; old = r.evaluate;"
        "r.evaluate = lambda *a: (print('chatter'), os.system('echo deep chatter'), old(*a));"
        "from kdtune.cli.command import sweep; sweep()"
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


def test_seeds_have_a_folder_of_their_own(write_sweep, options, tmp_path):
    """Row D2: `--seeds` changes the plan like an override."""
    assert run(options(write_sweep(), seeds=1)) == 0
    assert run(options(write_sweep())) == 0
    folders = sorted(path.name for path in (tmp_path / "results" / "small").iterdir())
    assert len(folders) == 2 and folders[0] == "paper" and folders[1].startswith("paper+")
    assert len(csv_of(tmp_path / "results").splitlines()) == 1 + 10


def test_a_change_of_the_file_is_told(write_sweep, small_sweep, options, tmp_path, capsys):
    assert run(options(write_sweep())) == 0
    assert "was 10 runs" not in capsys.readouterr().out
    assert run(options(write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.2, 0.3, 0.4]")), dry_run=True)) == 0
    assert "paper: was 10 runs of small.yaml, now 15: 10 new, 5 not asked for any more" in capsys.readouterr().out
    (tmp_path / "results" / "small" / "paper" / "plan.json").write_text("{cut")
    assert run(options(write_sweep(), dry_run=True)) == 0, "what cannot be read says nothing"
    assert "was 10 runs" not in capsys.readouterr().out


def test_another_file_of_the_same_name_is_refused(write_sweep, small_sweep, options, tmp_path, capsys):
    """Row D2: its table would be lost."""
    assert run(options(write_sweep())) == 0
    before = csv_of(tmp_path / "results")
    other = write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.3]"), "other.yaml")
    assert run(options(other)) == 4
    said = capsys.readouterr().err
    assert f"is the folder of {tmp_path / 'small.yaml'}, another sweep of the name small" in said
    assert "`name:`" in said and "--results" in said
    assert csv_of(tmp_path / "results") == before
    assert run(options(write_sweep(name="copy.yaml"), dry_run=True)) == 0, "the same to the byte is the same sweep"
    (tmp_path / "link.yaml").symlink_to(tmp_path / "small.yaml")
    assert run(options(tmp_path / "link.yaml", dry_run=True)) == 0
    (tmp_path / "small.yaml").rename(tmp_path / "moved.yaml")
    assert run(options(other, dry_run=True)) == 0, "a file that is gone has no claim; what changes is told"
    assert "was 10 runs of small.yaml, now 5" in capsys.readouterr().out


def test_a_file_renamed_inside_leaves_its_old_folder_to_others(write_sweep, small_sweep, options):
    assert run(options(write_sweep())) == 0
    write_sweep(small_sweep.replace("name: small", "name: mine"))
    assert run(options(write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.3]"), "other.yaml"), dry_run=True)) == 0


def test_too_many_runs_are_refused_before_anything(write_sweep, options, capsys):
    """Row B4."""
    assert run(options(write_sweep(), overrides=("seeds=1000000000",), dry_run=True)) == 4
    assert "2,000,000,000 students" in capsys.readouterr().err
    assert run(options(write_sweep(), max_runs=9)) == 4
    assert run(options(write_sweep(), max_runs=10, dry_run=True)) == 0
    assert command(write_sweep(), "--max-runs", "9", "--dry-run").returncode == 4


def test_a_verbose_dry_run_lists_every_place(write_sweep, options, capsys):
    """Row D3."""
    assert run(options(write_sweep(), dry_run=True, verbosity=1)) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  new ")]
    assert len(listed) == 10 and all(len(id) == 12 for _, id, *_ in listed)
    assert listed[-1][2:] == ["student", "rate=0.2", "seed=1"]


def test_what_is_shared_is_said_plainly(write_sweep, small_sweep, options, capsys):
    assert run(options(write_sweep(), dry_run=True)) == 0
    assert "asked for" not in capsys.readouterr().out, "nothing is"
    text = small_sweep.replace("rate: [0.0, 0.2]", "d: [{alpha: 0.9, temperature: 4}, null]")
    text = text.replace("[8], dropout: $rate", "[8]").replace("tion: {alpha: 0.9, temperature: 4}", "tion: $d")
    path = write_sweep(text.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""))
    assert run(options(path, dry_run=True)) == 0
    shown = capsys.readouterr().out
    assert "3 teachers: 3 new" in shown and "2 students: 2 new" in shown
    assert "2 of them are asked for at more than one place: trained once, a row for each" in shown


def test_the_command_that_goes_on_repeats_the_ceiling(write_sweep, options, capsys):
    assert run(options(write_sweep(), max_runs=50)) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("--max-runs 50 --here")


@pytest.mark.parametrize("flag", ["--price", "--max-cost", "--gpus-per-run", "--checkpoint-every"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_flag_that_is_an_amount_is_a_finite_number(write_sweep, flag: str, value: str) -> None:
    from click.testing import CliRunner

    from kdtune.cli.command import sweep as main

    done = CliRunner().invoke(main, [str(write_sweep()), "--dry-run", flag, value])
    assert done.exit_code == 2 and flag in done.output


@pytest.mark.parametrize("value", ["Auto", "half", "0"])
def test_a_share_of_a_gpu_is_a_number_or_auto(write_sweep, value: str) -> None:
    from click.testing import CliRunner

    from kdtune.cli.command import sweep as main

    with pytest.raises(ValueError, match="a number or 'auto' would do"):
        Options(write_sweep(), gpus_per_run=value)
    said = CliRunner().invoke(main, [str(write_sweep()), "--dry-run", "--gpus-per-run", "half"])
    assert said.exit_code == 2 and "half is neither a finite number from 0 on nor auto" in said.output
    assert Options(write_sweep(), gpus_per_run="auto").gpus is None
    assert again(Options(write_sweep(), gpus_per_run="auto")).endswith("--gpus-per-run auto")


def test_what_costs_more_than_is_allowed_is_refused(write_sweep, tmp_path) -> None:
    from click.testing import CliRunner

    from kdtune.cli.command import sweep as main

    words = [str(write_sweep()), "--here", "--results", str(tmp_path / "results"), "--data", str(tmp_path)]
    asked = CliRunner().invoke(main, [*words, "--max-cost", "1"], env={"KDTUNE_PRICE": None})
    assert asked.exit_code == 2 and "--max-cost needs --price" in asked.output
    refused = CliRunner().invoke(main, [*words, "--max-cost", "1e-9", "--price", "1000"])
    assert refused.exit_code == 4 and "at 1000 each" in refused.output and "--max-cost 1e-09 is less" in refused.output
    assert not list((tmp_path / "results").rglob("run.yaml"))


def test_a_disk_that_fills_up_ends_it_with_status_3_and_the_next_command_goes_on(
    write_sweep, options, monkeypatch, capsys
):
    """faults 8: nothing can be written from the second run on, the table neither."""

    def full(place, mode):
        if mode != "rb":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open(place, mode)

    original, calls = kdtune.training.run.train, []

    def train(*arguments, **more):
        calls.append(1)
        if len(calls) == 2:
            monkeypatch.setattr(kdtune.store.folder, "open", full, raising=False)
        return original(*arguments, **more)

    monkeypatch.setattr(kdtune.training.run, "train", train)
    assert run(options(write_sweep())) == 3
    said = capsys.readouterr()
    assert "bytes needed" in said.err and "refused: " not in said.err and "go on " in said.out
    monkeypatch.undo()
    assert run(options(write_sweep())) == 0


def test_the_command_that_goes_on_is_the_same_command(tmp_path, monkeypatch):
    file = tmp_path / "small.yaml"
    flags = {"gpus_per_run": 0.0, "max_concurrent": 2, "yes": True, "checkpoint_every": 5.0, "seeds": 3}
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    said = shlex.split(again(Options(file, ("recipe.epochs=2",), address="10.0.0.1:6379", **flags)))
    assert said[3:5] == [str(file), "recipe.epochs=2"] and said[-1] == "--yes"
    assert dict(zip(said[5:-1:2], said[6:-1:2], strict=True)) == {
        "--seeds": "3",
        "--address": "10.0.0.1:6379",
        "--max-concurrent": "2",
        "--gpus-per-run": "0",
        "--checkpoint-every": "5",
    }
    assert shlex.split(again(Options(file, address="local")))[-2:] == ["--address", "local"], "not what is named there"
    monkeypatch.delenv("RAY_ADDRESS")
    assert shlex.split(again(Options(file, address="local")))[3:] == [str(file)]


def test_an_estimate_is_for_as_many_runs_at_a_time_as_are_asked_for(write_sweep, options, capsys):
    hours = []
    for most in (None, 1):
        assert run(options(write_sweep(), here=False, dry_run=True, max_concurrent=most)) == 0
        hours.append(capsys.readouterr().out)
    assert "on 1 CPU core" in hours[1] and hours[0] != hours[1]


def test_an_error_of_the_system_from_the_midst_of_a_sweep_is_no_refusal(write_sweep, options, monkeypatch):
    """`refused`, status 4, says that nothing has begun."""

    def broken(*_):
        raise FileNotFoundError("a fault of ours")

    monkeypatch.setattr("kdtune.cli.sweep.launch", broken)
    with pytest.raises(FileNotFoundError, match="a fault of ours"):
        run(options(write_sweep()))
