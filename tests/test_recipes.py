"""The recipes of the README, as they stand: each class is put where it says, and a small sweep is run with it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import SMALL

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Recipe(NamedTuple):
    """Classes with the files they stand in, and what a sweep file then says."""

    classes: tuple[tuple[str, str], ...]
    stated: str

    @property
    def name(self) -> str:
        return " ".join(re.findall(r"^class (\w+)", "\n".join(code for _, code in self.classes), re.MULTILINE))


def recipes() -> list[Recipe]:
    """Every yaml block of the section closes a recipe, which the python blocks before it belong to."""
    (section,) = re.findall(r"^## Recipes\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    found, classes = [], []
    for kind, text in BLOCK.findall(section):
        if kind == "yaml":
            found.append(Recipe(tuple(classes), text))
            classes = []
            continue
        first, code = text.split("\n", 1)
        classes.append((first.removeprefix("# "), code))
    assert not classes, "a recipe ends with what a sweep file says"
    return found


RECIPES = recipes()
TOLD = {
    "Brightness": "noise.input.brightness.sigma",
    "DKD": "loss.dkd.beta",
    "Linear": "model.linear",
    "Stripes": "dataset.digest",
    "RMSprop Exponential": "recipe.optimizer.rmsprop.lr",
    "Margin": "logits/margin",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with all recipes in it."""
    folder = tmp_path_factory.mktemp("house")
    for part in ("kdtune", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for recipe in RECIPES:
        add(folder, recipe)
    return folder


def add(house: Path, recipe: Recipe) -> None:
    for where, code in recipe.classes:
        path = house / where.removeprefix("add to ")
        if where.startswith("add to "):
            path.write_text(path.read_text() + "\n\n" + code)
        elif path.exists():
            assert path.read_text().endswith(code), f"{where} is not what the README shows of it"
        else:
            path.write_text(code)


def python(house: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(house), "KDTUNE_RESULTS": str(house / "results")}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=house, env=environment, timeout=200, check=False)


@pytest.fixture(scope="module")
def statuses(house: Path) -> dict[str, int]:
    """By recipe, the exit status of a small sweep with what its yaml says laid over it. All in one process."""
    file = SMALL.replace("rate: [0.0, 0.2]", "rate: [0.2]").replace("seeds: 3", "seeds: 1") + "profiles:\n"
    for number, recipe in enumerate(RECIPES):
        overlay = "\n".join(f"    {line}" for line in recipe.stated.splitlines())
        file += f"  recipe{number}:\n{overlay}\n"
    (house / "small.yaml").write_text(file)
    program = (
        "import json, kdtune\n"
        f"profiles = [f'recipe{{number}}' for number in range({len(RECIPES)})]\n"
        "found = [kdtune.run_sweep('small.yaml', profile=each, here=True, verbosity=-1) for each in profiles]\n"
        "print(json.dumps(found))\n"
    )
    done = python(house, "-c", program)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not any(found), done.stdout + done.stderr
    return {recipe.name: status for recipe, status in zip(RECIPES, found, strict=True)}


def test_there_is_a_recipe_for_every_family_that_a_user_extends() -> None:
    bases = {
        base
        for recipe in RECIPES
        for _, code in recipe.classes
        for base in re.findall(r"^class \w+\((\w+)\)", code, re.M)
    }
    assert bases == {"InputKnob", "Loss", "Model", "Dataset", "Optimizer", "Schedule", "Evaluator"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_runs_as_it_stands(recipe: Recipe, house: Path, statuses: dict[str, int]) -> None:
    assert statuses[recipe.name] == 0
    folder = house / "results" / "small" / f"recipe{RECIPES.index(recipe)}"
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert {row["state"] for row in rows} == {"done"} and {row["role"] for row in rows} == {"teacher", "student"}
    assert rows[-1][TOLD[recipe.name]], "the table tells it under the name that the sweep file has for it"


CONTRACTS = {  # DKD is part of kdtune, and so held to them anyway; a data set has no contract tests
    "brightness": "noise/test_knobs.py",
    "linear": "models/test_models.py",
    "rmsprop": "optimization/test_optimizers.py",
    "exponential": "optimization/test_schedules.py",
    "margin": "evaluation/test_evaluation.py",
}


def test_what_is_added_is_held_to_what_every_one_of_its_family_promises(house: Path) -> None:
    """Contract tests find a class by itself, whatever settings it has: nothing is to be added to the tests."""
    words = ["-p", "no:cacheprovider", "-vv", "-k", " or ".join(CONTRACTS)]
    done = python(house, "-m", "pytest", *words, *(f"tests/{file}" for file in CONTRACTS.values()))
    assert done.returncode == 0, done.stdout + done.stderr
    for key, file in CONTRACTS.items():
        assert re.search(rf"{file}::\w+\[.*{key}.*\] PASSED", done.stdout, re.IGNORECASE), key
