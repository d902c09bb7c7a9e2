"""A setting is a point of the grid: an axis that only its teacher uses tells two of a student's apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import SMALL

import kdtune
from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.report.settings import by_setting, measured
from kdtune.report.table import axes

OF_TEACHERS_ALONE = SMALL.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", "")


def test_students_of_two_teachers_are_two_settings(
    write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were one mean in report.html and in `kdtune best`, beside a closing table that had two."""
    results = str(tmp_path / "r")
    assert run(Options(write_sweep(OF_TEACHERS_ALONE), results=results, data=str(tmp_path), here=True)) == 0
    closing = re.findall(r"^(student rate=\S+) +2 +([\d.]+) \+-", capsys.readouterr().out, re.MULTILINE)
    table = kdtune.table(f"{results}/small")
    groups = {told: runs for told, runs in by_setting(table, axes(table)).items() if told.startswith("student")}
    found = {told: measured(runs, "test/accuracy").values() for told, runs in groups.items()}
    assert closing == [(told, f"{sum(values) / len(values):.1f}") for told, values in found.items()]
    assert [*found] == ["student rate=0", "student rate=0.2"] and all(len(values) == 2 for values in found.values())

    def said(*words: str) -> str:
        done = CliRunner().invoke(main, [words[0], f"{results}/small", *words[1:]])
        assert done.exit_code == 0, done.output
        return done.output

    assert said("best").count("n = 2") == 2
    shown = said("table", "--rows", "rate", "--columns", "test/accuracy").splitlines()
    assert [line.split()[:2] for line in shown[1:3]] == [[told.split("=")[1], mean] for told, mean in closing]
    assert len(said("table", "--rows", "rate", "--only", "rate=0.2").splitlines()) == 2
    page = (tmp_path / "r/small/paper/report.html").read_text()
    assert all(f"<td>{told}</td><td>2 of 2</td><td>{mean}" in page for told, mean in closing)
