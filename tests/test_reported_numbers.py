"""Kinds of silently wrong numbers that peers' users reported, each as an input."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kdtune.report.best import ranked
from kdtune.report.table import read, to_parquet


def table_of(rows: list[dict], folder: Path) -> pd.DataFrame:
    (folder / "paper").mkdir(exist_ok=True)
    (folder / "paper" / "results.parquet").write_bytes(to_parquet(rows, {"sweep": "s", "axes": '["rate"]'}))
    return read(folder)


def students(seeds: list[int], values: list[float], rate: float = 0.0) -> list[dict]:
    return [
        {"id": f"{seed:012x}", "role": "student", "seed": seed, "state": "done", "rate": rate, "test/accuracy": value}
        for seed, value in zip(seeds, values, strict=True)
    ]


def test_seeds_beyond_floats_beside_a_teacher_without_a_seed(tmp_path):
    seeds = [2**53, 2**53 + 1, 2**63 - 1]
    teacher = {"id": "f" * 12, "role": "teacher", "seed": None, "state": "done", "test/accuracy": 99.0}
    table = table_of([teacher, *students(seeds, [10.0, 20.0, 30.0])], tmp_path)
    assert table["seed"].tolist() == [None, *seeds]
    assert "student rate=0  20.00 +- 24.84  n = 3" in "\n".join(ranked(table, "test/accuracy", {}))


def test_columns_with_gaps_are_numbers_as_before(tmp_path):
    table = table_of([{"id": "0" * 12, "role": "teacher", "seed": None}, {"id": "1" * 12, "seed": 3}], tmp_path)
    assert table["seed"].dtype == float
