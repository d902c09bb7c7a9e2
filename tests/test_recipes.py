"""The recipes of docs/own.md, as they stand: each is a file of the user's own, and a small sweep is run with it."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import SMALL

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Recipe(NamedTuple):
    """A file, and what a sweep file then says."""

    file: str
    code: str
    stated: str


def recipes() -> list[Recipe]:
    """Every python block of the section, and the yaml block that follows it."""
    section = (ROOT / "docs" / "own.md").read_text()
    blocks = BLOCK.findall(section)
    assert [kind for kind, _ in blocks] == ["python", "yaml"] * (len(blocks) // 2)
    codes = [text.split("\n", 1) for _, text in blocks[::2]]
    return [
        Recipe(first.removeprefix("# "), code, stated)
        for (first, code), (_, stated) in zip(codes, blocks[1::2], strict=True)
    ]


RECIPES = recipes()
TOLD = {  # a column of the table
    "brightness.py": "noise.input.brightness.sigma",
    "dist.py": "loss.dist.gamma",
    "linear.py": "model.linear",
    "stripes.py": "dataset.digest",
    "descent.py": "recipe.optimizer.rmsprop.lr",
    "margin.py": "logits/margin",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All recipes, each in its file. Nothing of kdtune is here."""
    folder = tmp_path_factory.mktemp("own")
    for recipe in RECIPES:
        (folder / recipe.file).write_text(recipe.code)
    return folder


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KDTUNE_RESULTS": str(folder / "results")}
    command = [sys.executable, *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=200, check=False
    )


@pytest.fixture(scope="module")
def statuses(folder: Path) -> dict[str, int]:
    """By recipe, the exit status of a small sweep with what its yaml says laid over it. All in one process."""
    file = SMALL.replace("rate: [0.0, 0.2]", "rate: [0.2]").replace("seeds: 3", "seeds: 1") + "profiles:\n"
    for recipe in RECIPES:
        overlay = "\n".join(f"    {line}" for line in recipe.stated.splitlines())
        file += f"  {recipe.file}:\n{overlay}\n"
    (folder / "small.yaml").write_text(file)
    program = (
        "import json, kdtune\n"
        f"files = {[recipe.file for recipe in RECIPES]}\n"
        "common = {'here': True, 'verbosity': -1}\n"
        "print(json.dumps({file: kdtune.run_sweep('small.yaml', profile=file, extensions=(file,), **common) "
        "for file in files}))\n"
    )
    done = python(folder, "-c", program)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    assert not any(found.values()), done.stdout + done.stderr
    return found


def test_there_is_a_recipe_for_every_family_that_a_user_extends() -> None:
    bases = {base for recipe in RECIPES for base in re.findall(r"^class \w+\((\w+)\)", recipe.code, re.MULTILINE)}
    assert bases == {"InputKnob", "Loss", "Model", "Dataset", "Optimizer", "Schedule", "Evaluator"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.file)
def test_a_recipe_runs_as_it_stands(recipe: Recipe, folder: Path, statuses: dict[str, int]) -> None:
    assert statuses[recipe.file] == 0
    rows = list(csv.DictReader((folder / "results" / "small" / recipe.file / "results.csv").open()))
    assert {row["state"] for row in rows} == {"done"} and {row["role"] for row in rows} == {"teacher", "student"}
    assert rows[-1][TOLD[recipe.file]], "the table tells it under the name that the sweep file has for it"


CONTRACTS = {  # a data set has no contract tests
    "brightness": "noise/test_knobs.py",
    "dist": "losses/test_losses.py",
    "linear": "models/test_models.py",
    "rmsprop": "optimization/test_optimizers.py",
    "exponential": "optimization/test_schedules.py",
    "margin": "evaluation/test_evaluation.py",
}


def test_a_file_of_ones_own_is_held_to_what_every_one_of_its_family_promises(folder: Path) -> None:
    """Contract tests find a class by itself, whatever settings it has: nothing is to be added to the tests."""
    files = [str(ROOT / "tests" / file) for file in CONTRACTS.values()]
    named = [word for recipe in RECIPES for word in ("--with", recipe.file)]
    words = ["-p", "no:cacheprovider", "-vv", "-k", " or ".join(CONTRACTS), "--rootdir", str(ROOT), *named, *files]
    done = python(folder, "-m", "pytest", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    for key, file in CONTRACTS.items():
        assert re.search(rf"{file}::\w+\[.*{key}.*\] PASSED", done.stdout, re.IGNORECASE), key
