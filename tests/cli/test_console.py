"""JSON alone on stdout, and signals, in processes of their own: both reach below Python."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.cli.console import json_to_stdout
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_told(number: int) -> None:
    status, said, errors = interrupted(True, number)
    assert (status, said) == (128 + number, f"asked by {int(number)}\n")
    assert "once more ends at once" in errors and "Traceback" not in errors


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_the_second_signal_ends_at_once(first: int, second: int) -> None:
    status, said, errors = interrupted(False, first, second)
    assert status == 128 + second
    assert "never here" not in said and "Traceback" not in errors


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGINT) == interrupt._take
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_inside_does_not_raise() -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
