"""JSON alone on stdout, output that is lost, and signals, in processes of their own: all reach below Python."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from conftest import SMALL

import kdtune
from kdtune.__main__ import main
from kdtune.cli.command import sweep
from kdtune.cli.console import json_to_stdout, losable_output
from kdtune.launch.interrupt import Interrupt

ROOT = Path(__file__).parents[2]

CHATTER = """
import os, subprocess, sys
from kdtune.cli.console import json_to_stdout

print("before")
with json_to_stdout({wanted}) as print_json:
    print("from python")
    os.write(1, b"from below\\n")
    subprocess.run(["echo", "from a child"], check=True)
    print_json({{"number": 0.1, "text": "\\u00e9\\n"}})
    print("more, kept in a buffer")
print("after")
"""


def python(program: str, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60, **keywords
    )


def test_while_json_is_wanted_all_else_goes_to_stderr() -> None:
    done = python(CHATTER.format(wanted=True))
    assert done.returncode == 0, done.stderr
    before, written, after = done.stdout.splitlines()
    assert (before, after) == ("before", "after"), "stdout is given back, and what was said before stays where it was"
    assert json.loads(written) == {"number": 0.1, "text": "é\n"}
    for words in ("from python", "from below", "from a child", "more, kept in a buffer"):
        assert words in done.stderr


def test_without_json_nothing_is_redirected_and_nothing_printed() -> None:
    done = python(CHATTER.format(wanted=False))
    assert done.stderr == ""
    assert "from below" in done.stdout and "from a child" in done.stdout
    assert "number" not in done.stdout


def test_stdout_is_given_back_after_an_error() -> None:
    done = python(
        "from kdtune.cli.console import json_to_stdout\n"
        "try:\n"
        "    with json_to_stdout(True): print('hidden'); 1 / 0\n"
        "except ZeroDivisionError: print('caught')\n"
    )
    assert (done.stdout, done.stderr) == ("caught\n", "hidden\n")


def test_what_json_cannot_hold_is_refused() -> None:
    done = python(
        "from kdtune.cli.console import json_to_stdout\n"
        "with json_to_stdout(True) as print_json: print_json(float('nan'))\n"
    )
    assert done.returncode != 0 and "ValueError" in done.stderr
    assert done.stdout == ""


def test_a_long_object_through_a_pipe_comes_whole() -> None:
    """More than a pipe holds, 64 KiB."""
    done = python(
        "from kdtune.cli.console import json_to_stdout\n"
        "with json_to_stdout(True) as print_json: print_json(['x' * 9] * 99999)\n"
    )
    assert json.loads(done.stdout) == ["x" * 9] * 99999


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep file and its results: what it takes to print."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SMALL.replace("[0.0, 0.2]", "[0.2]").replace("seeds: 3", "seeds: 1"))
    assert kdtune.run_sweep(folder / "small.yaml", here=True, results=str(folder / "results"), verbosity=-1) == 0
    return folder


def shell(folder: Path, line: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of `kdtune ...` as a shell redirects it; that of the first command of a pipe counts."""
    command = f"set -o pipefail; {sys.executable} -m kdtune {line}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=environment, check=False, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


LOST = "output is lost from here on"
SWEEP = "sweep small.yaml --here"


def test_a_reader_that_goes_away_ends_no_sweep(finished: Path) -> None:
    """row C12: the sweep ended at the next line."""
    status, said, errors = shell(finished, f"{SWEEP} --results fresh | head -1")
    assert status == 0 and said.count("\n") == 1
    assert errors.count(f"{LOST} (Broken pipe); the sweep goes on") == 1 and "Traceback" not in errors
    table = list(csv.DictReader((finished / "fresh/small/paper/results.csv").open()))
    assert {row["state"] for row in table} == {"done"} and len(table) == 3
    assert LOST not in shell(finished, f"{SWEEP} --dry-run -v | true")[2], "nothing goes on"


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (f"{SWEEP} >&-", 0, ""),
        (f"{SWEEP} <&- >&- 2>&-", 0, ""),
        (f"{SWEEP} >/dev/full", 0, LOST),
        (f"{SWEEP} >/dev/full 2>/dev/full", 0, ""),
        (f"{SWEEP} --json | true", 0, ""),
        (f"{SWEEP} --json >/dev/full", 0, LOST),
        ("sweep small.yaml nothing=3 2>/dev/full", 2, ""),
        ("run small.yaml --only seed=0 | true", 0, "the run goes on"),
        ("evaluate results/small --evaluation accuracy --here | true", 0, "the evaluation goes on"),
        ("plan small.yaml --json | true", 0, ""),
        ("table results/small | true", 0, ""),
        ("table results/small >/dev/full", 1, LOST),
        ("status results/small | true", 0, ""),
        ("--help >/dev/full", 0, LOST),
    ],
)
def test_lost_output_changes_no_status_and_gives_no_traceback(
    finished: Path, line: str, status: int, said: str
) -> None:
    """row C12. Half a table on a full disk is the one that fails: it may be taken for a table."""
    found, _, errors = shell(finished, line)
    assert found == status, errors
    assert "Traceback" not in errors and "Exception" not in errors and said in errors
    assert not said or errors.count(LOST) == 1


def test_no_results_file_gets_the_number_of_a_closed_stream() -> None:
    program = (
        "import os\nfrom kdtune.cli.console import losable_output\n"
        "with losable_output(): print(os.open('/dev/null', os.O_RDONLY), file=open('/dev/fd/5', 'w'))"
    )
    command = f'exec 5>&1; {sys.executable} -c "{program}" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert int(done.stdout) > 2


def test_streams_are_given_back_and_those_of_others_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with losable_output("it"), losable_output():
        assert (sys.stdout, sys.stderr) == before
        print("kept")
    assert capsys.readouterr().out == "kept\n"


def test_no_file_descriptor_is_left_open() -> None:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no /proc here")
    before = len(list(folder.iterdir()))
    with json_to_stdout(True):
        pass
    assert len(list(folder.iterdir())) == before


WAITING = """
import sys, time
from kdtune.launch.interrupt import Interrupt

with Interrupt() as interrupt:
    print("ready", flush=True)
    while not interrupt.signal:
        time.sleep(0.01)
    print("asked by", interrupt.signal, flush=True)
    if {patient}:
        sys.exit(128 + interrupt.signal)
    time.sleep(60)
print("never here")
"""


def interrupted(patient: bool, first: int, second: int | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a process that was sent one or two signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(patient=patient)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        said = process.stdout.readline()
        if second is not None:
            process.send_signal(second)
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, said + rest, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_remembered_and_told(number: int) -> None:
    status, said, errors = interrupted(True, number)
    assert (status, said) == (128 + number, f"asked by {int(number)}\n")
    assert "once more ends at once" in errors and "Traceback" not in errors


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_the_second_signal_ends_at_once(first: int, second: int) -> None:
    status, said, errors = interrupted(False, first, second)
    assert status == 128 + second
    assert "never here" not in said and "Traceback" not in errors


def test_under_nohup_a_terminal_may_go_away() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.signal
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(ZeroDivisionError), Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGINT) == interrupt._take
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_inside_does_not_raise() -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM


@pytest.mark.parametrize("command", [main, sweep])
def test_ctrl_c_that_nothing_else_takes_is_status_130(
    command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a file is read or a plan is made, say: a shell that runs several ends with it."""

    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdtune.cli.sweep.run", pressed)
    (tmp_path / "a.yaml").touch()
    done = CliRunner().invoke(command, [*(["sweep"] * (command is main)), str(tmp_path / "a.yaml")])
    assert done.exit_code == 130 and done.output == "interrupted\n"
