"""Result tables as sweeps write them, with made-up numbers: what a figure is given, and nothing trained."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import random
import runpy
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kdtune
from kdtune.planning.place import Place
from kdtune.report.table import rows as rows_of
from kdtune.report.table import to_parquet
from kdtune.store.state import State

ANALYSIS = Path(__file__).parents[2] / "analysis"
Row = dict[str, Any]
Values = Callable[[Place], dict[str, float]]

T = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764}  # Student's t, 97.5 %, for n values: from printed tables
KD = "alpha 0.9, temperature 4"
METRICS = {  # and about what they come to
    "test/accuracy": 92.0,
    "test/ece": 3.0,
    "shift/cinic": 70.0,
    "robust/pgd20": 12.0,
    "robust/pgd20/unconditional": 11.0,
    "robust/pgd10": 15.0,
    "corruption/mca": 75.0,
    "corruption/gaussian_noise": 60.0,
    "corruption/fog": 85.0,
    "corruption/brightness": 90.0,
    "corruption/jpeg_compression": 80.0,
    "corruption/gaussian_noise/unconditional": 58.0,
}
# Of each sweep the students' axes, None for `kd` where there is no teacher; and which of them are the teacher's too.
FICKLE = [(0.0, 200), (0.0, 250), (0.0, 350), (0.1, 250), (0.2, 250), (0.4, 350)]
RATES = (0.1, 0.5)
PLACES: dict[str, list[Row]] = {
    "fickle": [{"dropout": rate, "epochs": length} for rate, length in FICKLE],
    "softrand": [{"kd": kd, "sigma": sigma} for kd, sigma in product((KD, None), (0.0, 0.03, 0.05, 0.2))],
    "messy": [{"r_teacher": 0.0, "r_student": 0.0, "kd": kd} for kd in (KD, None)]
    + [{"r_teacher": t * r, "r_student": s * r, "kd": KD} for (t, s), r in product(((0, 1), (1, 0), (1, 1)), RATES)],
    "signal_noise": [{"sigma": sigma} for sigma in (0.0, 0.1, 0.5)],
    "swap": [{"rate": 0.0, "pairs": "top2", "threshold": 0.1}]
    + [{"rate": r, "pairs": p, "threshold": t} for r, p, t in product((0.1, 0.5), ("top2", "all"), (0.1, 0.3))],
    "fixed_label_corruption": [{"c": 0.0, "r": 0.0}, *({"c": c, "r": 0.0} for c in RATES)]
    + [{"c": 0.0, "r": r} for r in RATES],
}
TEACHERS = {"fickle": ("dropout",), "messy": ("r_teacher",), "fixed_label_corruption": ("c", "r")}
SCRIPTS = list(PLACES)


def sweep(name: str, seeds: int = 5, teachers: int = 3) -> list[Row]:
    """All runs of a sweep, finished; of each pool the teacher of seed 1, or its only one, taught."""
    return [*_rows(name, seeds, teachers)]


def _rows(name: str, seeds: int, teachers: int) -> Iterator[Row]:
    pools: dict[str, str] = {}
    for place in PLACES[name]:
        shared = {axis: place[axis] for axis in TEACHERS.get(name, ())}
        if str(shared) not in pools:
            pool = [_run("teacher", seed, shared, 200, "wrn-40-2") for seed in range(teachers)]
            yield from pool
            pools[str(shared)] = pool[min(1, teachers - 1)]["id"]
        for seed in range(seeds):
            row = _run("student", seed, place, place.get("epochs", 200), "wrn-16-2")
            if place.get("kd", KD):
                row |= {"distillation.alpha": 0.9, "distillation.temperature": 4.0}
                row |= {"teacher.id": pools[str(shared)], "teacher.metric": "test/accuracy"}
            yield row


def _run(role: str, seed: int, axes: Row, epochs: int, model: str) -> Row:
    id = hashlib.sha256(f"{role} {seed} {axes}".encode()).hexdigest()[:12]
    row: Row = {"id": id, "role": role, "seed": seed, "state": "done"} | axes
    row |= {"recipe.epochs": epochs, "recipe.batch_size": 128, "recipe.optimizer.sgd.lr": 0.1, f"model.{model}": True}
    row |= {"recipe.precision": "float32", "recipe.schedule.step.factor": 0.2}
    row |= {"recipe.optimizer.sgd.momentum": 0.9, "recipe.optimizer.sgd.weight_decay": 0.0005}
    draw = random.Random(id)
    strength = sum(value for value in axes.values() if isinstance(value, float))
    row |= {metric: level + 2 * strength + draw.gauss(0, 0.3) for metric, level in METRICS.items()}
    return row | {"corruption/families": 4.0, "flags/other_loss_wins": 0.0, "flags/collapsed": 0.0}


def unfinish(row: Row, state: str = "new") -> None:
    """A run that is not done has its settings in the table and nothing that was measured."""
    row["state"] = state
    for name in [name for name in row if "/" in name or name in ("teacher.id", "teacher.metric")]:
        del row[name]


def write(folder: Path, name: str, rows: Iterable[Row], profile: str = "paper", **about: str) -> Path:
    """The folder of the sweep, as a figure script is given it."""
    table = [*rows]
    target = folder / name / profile
    target.mkdir(parents=True)
    names = dict.fromkeys(column for row in table for column in row)
    headlines = [each for each in ("test/accuracy", "shift/cinic", "robust/pgd20", "corruption/mca") if each in names]
    axes = list(dict.fromkeys(axis for place in PLACES.get(name, []) for axis in place))
    about = {
        "sweep": name,
        "profile": profile,
        "dataset": "CIFAR-10",
        "attack": "eps 0.031, step 0.003",
        "axes": json.dumps(axes),
        "headlines": json.dumps(headlines),
    } | about
    (target / "results.parquet").write_bytes(to_parquet(table, about))
    return folder / name


def drawn(script: str, folder: Path, output: Path) -> dict[str, list[dict[str, str]]]:
    """A script's figures of a sweep's folder, drawn as its command draws them, but in this process, without a word on
    stderr. The CSV of every figure by name."""
    asked = [str(ANALYSIS / f"{script}.py"), str(folder), "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as warned:
        patch.syspath_prepend(str(ANALYSIS))
        patch.setattr(sys, "argv", asked)
        with redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
            runpy.run_path(asked[0], run_name="__main__")
    assert (ended.value.code, said.getvalue(), warned) == (0, "", [])
    return {path.stem: [*csv.DictReader(path.open(newline=""))] for path in output.glob("*.csv")}


def csv_of(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a figure's CSV, wherever below the folder it lies."""
    with open(next(folder.rglob(f"{name}.csv")), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def md_of(folder: Path, name: str) -> str:
    """A figure's words, without line breaks."""
    return " ".join(next(folder.rglob(f"{name}.md")).read_text(encoding="utf-8").split())


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """By hand: mean, and what lies half an interval below and above."""
    reach = T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return mean, mean - reach, mean + reach


def finished(folder: Path, file: Path, profile: str, values: Values | None = None, **about: str) -> Path:
    """The folder of a sweep whose runs are all done, each pool's first teacher chosen. `values`: their numbers."""
    plan, name = kdtune.plan(file, profile), file.stem
    shown = ("test/accuracy", "robust/pgd20", "corruption/mca")

    def look(id: str) -> SimpleNamespace:
        teachers = plan.runs[id].waits_for
        chosen = {"teacher": {"id": teachers[0], "metric": "val/x"}} if teachers else {}
        return SimpleNamespace(provenance=chosen, done=None)

    def measured(id: str, late: Any) -> dict[str, float]:
        if values is not None:
            return values(plan.runs[id])
        return {metric: 50 + int(id[:6], 16) % 1000 / 100 for metric in shown}

    standing: Any = SimpleNamespace(look=look, measured=measured)
    rows = rows_of(plan, standing, dict.fromkeys(plan.runs, State.DONE))
    place = folder / name / profile
    place.mkdir(parents=True)
    known = {"sweep": name, "profile": profile, "dataset": plan.dataset, "axes": json.dumps(plan.axes)}
    known |= {"headlines": json.dumps(shown)}
    (place / "results.parquet").write_bytes(to_parquet(rows, known | about))
    return folder / name
