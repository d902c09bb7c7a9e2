"""The log in a sweep's folder."""

from __future__ import annotations

import logging
import re

import pytest
from conftest import SMALL
from s3 import S3

from kdtune.cli.options import Options
from kdtune.cli.sweep import run
from kdtune.store.objects import Objects, StorageError
from kdtune.training import run as training

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S|    ")


@pytest.fixture
def do(write_sweep, tmp_path):
    def swept(text: str = SMALL, results: str | None = None, **flags) -> int:
        where = results or str(tmp_path / "results")
        return run(Options(write_sweep(text), results=where, data=str(tmp_path), here=True, verbosity=-1, **flags))

    return swept


def lines(path) -> list[str]:
    found = path.read_text().splitlines()
    assert all(LINE.match(line) for line in found), found
    return [line if line.startswith("    ") else line.partition(" ")[2] for line in found]


def test_every_command_that_has_something_to_do_is_told(do, tmp_path) -> None:
    assert do() == 0
    path = tmp_path / "results" / "small" / "paper" / "log"
    first = lines(path)
    assert first[0].startswith("begun: python -m kdtune.sweep ") and first[-1] == "ended: 10 done"
    assert sum(line.startswith("started  ") for line in first) == sum(line.startswith("done  ") for line in first) == 10
    done = next(line for line in first if line.startswith("done") and "student rate=0.2 seed=1" in line)
    assert re.fullmatch(r"done     [0-9a-f]{12} student rate=0\.2 seed=1  test/accuracy [\d.]+  \d+ s", done)
    assert do() == 0 and lines(path) == first, "nothing was to be done"
    assert do(overrides=(), seeds=3) == 0 and lines(path) == first, "more seeds have a folder of their own"
    assert do(SMALL.replace("evaluation: [accuracy]", "evaluation: [accuracy, fit]")) == 0
    assert lines(path)[: len(first)] == first and sum(line.startswith("begun: ") for line in lines(path)) == 2


def test_failures_stand_in_it_in_full_and_warnings_too(do, tmp_path, monkeypatch) -> None:
    def broken(*_, **__):
        raise RuntimeError("mine\nand a second line")

    monkeypatch.setattr("kdtune.training.run.train", broken)
    assert do(SMALL.replace("seeds: 3", "seeds: 2")) == 3
    told = lines(tmp_path / "results" / "small" / "paper" / "log")
    assert sum("Traceback (most recent call last)" in line for line in told) >= 2
    assert "    RuntimeError: mine" in told and "    and a second line" in told
    assert told[-1].startswith("ended: ") and "failed" in told[-1]


def test_a_warning_stands_in_the_log_and_on_the_screen_as_ever(do, tmp_path, monkeypatch, capsys) -> None:
    """Python's own last resort, which prints warnings where nobody has set up logging, is asked by no logger that has a
    handler of its own: with the log's, warnings went to the log alone."""
    monkeypatch.setattr(logging.root, "handlers", [])
    logger = logging.getLogger("kdtune")
    real = training.train

    def warns(*given, **more):
        logger.warning("mind this")
        return real(*given, **more)

    monkeypatch.setattr(training, "train", warns)
    assert do(SMALL.replace("seeds: 2", "seeds: 1")) == 0
    assert capsys.readouterr().err.count("mind this\n") == 8
    assert lines(tmp_path / "results" / "small" / "paper" / "log").count("warning: mind this") == 8
    assert logger.handlers == []


def test_a_log_that_cannot_be_written_ends_nothing_and_a_link_is_not_followed(do, tmp_path) -> None:
    folder = tmp_path / "results" / "small" / "paper"
    folder.mkdir(parents=True)
    (tmp_path / "mine.txt").write_text("as it was")
    (folder / "log").symlink_to(tmp_path / "mine.txt")
    assert do() == 0
    assert (tmp_path / "mine.txt").read_text() == "as it was"


def test_in_a_bucket_it_goes_on_where_another_machine_left_it(do, s3: S3, tmp_path, monkeypatch) -> None:
    place = s3.bucket()
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "one machine"))
    assert do(SMALL.replace("seeds: 2", "seeds: 1"), results=place) == 0
    first = (Objects(place).get("small/paper/log") or b"").decode()
    assert first.count("begun: ") == 1 and first.rstrip().endswith("ended: 8 done")
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "another machine"))
    assert do(results=place) == 0
    second = (Objects(place).get("small/paper/log") or b"").decode()
    assert second.startswith(first) and second.count("begun: ") == 2


def test_what_could_not_be_written_to_a_bucket_stands_there_later(do, s3: S3, tmp_path, monkeypatch) -> None:
    place = s3.bucket()

    def log_on(machine: str, text: str) -> str:
        monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / machine))
        assert do(text, results=place) == 0
        return (Objects(place).get("small/paper/log") or b"").decode()

    put = Objects.put

    def without_the_log(objects: Objects, key: str, *rest, **flags) -> None:
        if key.endswith("/log"):
            raise StorageError("gone")
        put(objects, key, *rest, **flags)

    smallest = SMALL.replace("seeds: 3", "seeds: 1").replace("[0.0, 0.2]", "[0.2]")
    first = log_on("one machine", smallest.replace("seeds: 2", "seeds: 1"))
    with monkeypatch.context() as gone:
        gone.setattr(Objects, "put", without_the_log)
        assert log_on("one machine", smallest) == first
    second = log_on("another machine", smallest.replace("[accuracy]", "[accuracy, fit]"))
    assert second.startswith(first) and second.count("begun: ") == 2
    third = log_on("one machine", smallest.replace("[accuracy]", "[accuracy, fit]").replace("seeds: 2", "seeds: 3"))
    assert third.startswith(second) and third.count("begun: ") == third.count("ended: ") == 4
