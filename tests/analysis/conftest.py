"""Tables of sweeps as the sweeps write them, with numbers that are known, and the figure scripts that draw them."""

from __future__ import annotations

import csv
import importlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdtune.report.table import to_parquet

ANALYSIS = Path(__file__).parents[2] / "analysis"
AXES = {
    "fickle": ["dropout", "epochs"],
    "softrand": ["kd", "sigma"],
    "messy": ["r_teacher", "r_student", "kd"],
    "signal_noise": ["sigma"],
    "swap": ["rate", "pairs", "threshold"],
    "fixed_label_corruption": ["c", "r"],
}
METRICS = {
    "test/accuracy": 94.0,
    "test/ece": 3.0,
    "shift/cinic": 70.0,
    "robust/pgd10": 9.0,
    "robust/pgd20": 5.0,
    "corruption/mca": 75.0,
    "corruption/gaussian_noise": 50.0,
    "corruption/fog": 88.0,
    "corruption/glass_blur": 60.0,
    "corruption/contrast": 80.0,
}
Row = dict[str, Any]


class Builder:
    """Rows of a sweep, its folder, and its script's command line."""

    sweeps = tuple(AXES)

    def rows(self, sweep: str, seeds: int = 3) -> list[Row]:
        draw = random.Random(sweep)
        found: list[Row] = []

        def add(role: str, seed: int, axes: Row, **more: Any) -> None:
            wide = 40 if role == "teacher" else 16
            row = {"id": f"{draw.getrandbits(48):012x}", "role": role, "seed": seed, "state": "done", **axes}
            row |= {"recipe.epochs": 200, "recipe.batch_size": 128, "recipe.optimizer.sgd.lr": 0.1}
            row |= {"recipe.optimizer.sgd.momentum": 0.9, "recipe.optimizer.sgd.weight_decay": 0.0005}
            row |= {"recipe.precision": "float32", "recipe.schedule.step.factor": 0.2}
            row |= {f"model.wrn-{wide}-2.dropout": 0.0, **more}
            row |= {name: level + draw.gauss(0, 1) for name, level in METRICS.items()}
            row |= {"corruption/families": 4.0, "corruption/clean": 94.0, "flags/near_chance": 0.0}
            found.append(row)

        def pool(**axes: Any) -> str:
            for seed in range(3):
                add("teacher", seed, axes)
            return str(found[-2]["id"])

        def students(axes: Row, teacher: str | None, **more: Any) -> None:
            taught = {
                "teacher.id": teacher,
                "teacher.metric": "val/accuracy",
                "distillation.alpha": 0.9,
                "distillation.temperature": 4,
            }
            for seed in range(seeds):
                add("student", seed, axes, **(taught if teacher else {}), **more)

        if sweep == "fickle":
            for rate, lengths in {0.0: (200, 250, 300), 0.2: (250,), 0.3: (250,), 0.4: (300,), 0.5: (300,)}.items():
                teacher = pool(dropout=rate)
                for epochs in lengths:
                    students({"dropout": rate, "epochs": epochs}, teacher, **{"recipe.epochs": epochs})
        if sweep == "softrand":
            teacher = pool()
            for sigma in (0.0, 0.02, 0.05, 0.2, 0.5):
                students({"kd": "alpha=0.9", "sigma": sigma}, teacher)
                students({"kd": None, "sigma": sigma}, None)
        if sweep == "messy":
            teachers = {rate: pool(r_teacher=rate) for rate in (0.0, 0.1, 0.5)}
            for r_teacher, r_student in ((0, 0), (0, 0.1), (0, 0.5), (0.1, 0), (0.5, 0), (0.1, 0.1), (0.5, 0.5)):
                axes = {"r_student": float(r_student), "kd": "alpha=0.9", "teacher.r_teacher": float(r_teacher)}
                students(axes, teachers[r_teacher])
            students({"r_student": 0.0, "kd": None}, None)
        if sweep == "signal_noise":
            teacher = pool()
            for sigma in (0.0, 0.1, 0.3):
                students({"sigma": sigma}, teacher)
        if sweep == "swap":
            teacher = pool()
            students({"rate": 0.0, "pairs": "top2", "threshold": 0.1}, teacher)
            plain = found[-seeds:]
            for pairs, threshold in (("top2", 0.1), ("top2", 0.3), ("all", 0.1)):
                if (pairs, threshold) != ("top2", 0.1):  # the same runs, at further places of the grid
                    found.extend(row | {"pairs": pairs, "threshold": threshold} for row in plain)
                for rate in (0.1, 0.5):
                    students({"rate": rate, "pairs": pairs, "threshold": threshold}, teacher)
        if sweep == "fixed_label_corruption":
            for c, r in ((0.0, 0.0), (0.1, 0.0), (0.5, 0.0), (0.0, 0.1), (0.0, 0.5)):
                students({"c": c, "r": r, "teacher.c": c, "teacher.r": r}, pool(c=c, r=r))
        return found

    def write(self, folder: Path, sweep: str, rows: list[Row], profile: str = "paper", **about: str) -> Path:
        target = folder / sweep / profile
        target.mkdir(parents=True, exist_ok=True)
        shown = ["test/accuracy", "shift/cinic", "robust/pgd20", "corruption/mca"]
        about = {
            "sweep": sweep,
            "profile": profile,
            "dataset": "CIFAR-10",
            "axes": json.dumps(AXES[sweep]),
            "headlines": json.dumps(shown),
            "attack": "eps 0.031, step 0.003, 3 restarts",
            **about,
        }
        (target / "results.parquet").write_bytes(to_parquet(rows, about))
        return folder / sweep

    def module(self, name: str) -> Any:
        return importlib.import_module(name)

    def makers(self, sweep: str) -> list[Any]:
        script, figures = self.module(sweep), self.module("figure").figures
        asked = {
            "fickle": ("figure1", "figure1_lengths", "figure2"),
            "softrand": ("figure4", "figure5", "figure15"),
            "messy": ("figure6", "figure7", "figure8_sureness", "figure16"),
            "signal_noise": ("figure11", "figure12"),
            "swap": ("figure13", "figure14"),
            "fixed_label_corruption": ("figure17", "figure18"),
        }[sweep]
        return list(figures(*(getattr(script, name) for name in asked)))

    def one(self, sweep: str, function: str, place: Path) -> None:
        """Draws one figure of a script alone, beside its table."""
        figure = self.module("figure")
        figure.make(getattr(self.module(sweep), function)(self.table(place)), place / "figures")

    def draw(self, sweep: str, folder: Path, *arguments: str) -> int:
        return int(self.module("figure").command("about", self.makers(sweep), [str(folder), *arguments]))

    def csv(self, folder: Path, name: str) -> list[dict[str, str]]:
        with open(next(folder.rglob(f"{name}.csv")), newline="") as file:
            return list(csv.DictReader(file))

    def table(self, folder: Path) -> Any:
        return self.module("figure").read_table(folder)


@pytest.fixture(scope="session")
def builder() -> Iterator[Builder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ANALYSIS))
        yield Builder()
