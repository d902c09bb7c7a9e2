"""The sweeps that come with kdtune: how many runs, which of them are shared, and what the paper leaves open."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kdtune.data.dataset import Dataset
from kdtune.data.loading import load
from kdtune.evaluation.pgd import PGD
from kdtune.evaluation.shift import Cinic, Shift
from kdtune.evaluation.subject import Context, Subject
from kdtune.models.model import Model
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan, build_plan
from kdtune.planning.searching import known_plan
from kdtune.report.table import flat
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.network import build_network

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
WALLACE, DONG = ("errors", "cross_domain", "two_dimensional"), ("robust_overfitting", "double_descent")
YANG = ("specialization", "specialization_images")
OTHERS = (*WALLACE, *YANG, *DONG, "soft_robustness", "robust_anchors", "search")
OF_NOISE = [name for name in NAMES if name not in OTHERS]  # the first paper's
PROFILES = ("paper", "quick", "laptop")


@cache
def plan(name: str, profile: str = "paper") -> Plan:
    """Of a search with others in the place of what it will propose."""
    file = load_sweep(ROOT / "sweeps" / f"{name}.yaml", profile)
    _, search = known_plan(file, Path("nowhere"), Store("nowhere"))
    return search.foreseen() if search else build_plan(file, Path("nowhere"))


def header(name: str) -> str:
    text = (ROOT / "sweeps" / f"{name}.yaml").read_text()
    return " ".join(line.removeprefix("#").strip() for line in text[: text.index("\nname:")].splitlines())


def students(name: str, profile: str = "paper") -> list[Place]:
    return [planned for planned in plan(name, profile).runs.values() if planned.role == "student"]


def teachers(name: str, profile: str = "paper") -> list[Place]:
    return [planned for planned in plan(name, profile).runs.values() if planned.role == "teacher"]


# How many


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_has_as_many_runs_as_its_header_says(name: str) -> None:
    counts = tuple(len(plan(name, profile).runs) for profile in PROFILES)
    said = header(name)
    found = [re.search(pattern, said) for pattern in (r"(\d+) runs\b", r"\bquick (\d+)", r"\blaptop (\d+)")]
    assert tuple(int(match[1]) if match else None for match in found) == counts
    if told := re.search(r"(\d+) teachers\b", said):
        assert int(told[1]) == len(teachers(name))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_sweep_has_a_name_of_its_own(name: str, profile: str) -> None:
    """Runs of one label are put together in the closing table."""
    runs = plan(name, profile).runs
    assert len({planned.name for planned in runs.values()}) == len(runs)


def test_readme_counts_them_too() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `sweeps/(\w+)\.yaml` \|.*\| (\d+), (\d+), (\d+) \|$", readme, re.MULTILINE)
    counted = {name: tuple(len(plan(name, profile).runs) for profile in PROFILES) for name in NAMES}
    assert {name: tuple(map(int, counts)) for name, *counts in rows} == counted
    distinct = [len({id for name in NAMES for id in plan(name, profile).runs}) for profile in PROFILES]
    assert "they are {}, {} and {} runs".format(*distinct) in readme, "what they share is trained once"


# What they share


def settings_of(planned: Place) -> dict[str, Any]:
    """All that a run is made of but its seed; of its teachers, how one is chosen."""
    made = flat({key: value for key, value in planned.run.description.items() if key not in ("seed", "teacher")})
    if choice := planned.run.teacher:
        made |= {"teacher.rule": choice.rule, "teacher.metric": choice.metric}
    return made


def whole(sweep: Plan, planned: Place) -> dict[str, Any]:
    """The same, and under `taught_by.` its teachers' settings."""
    made = settings_of(planned)
    if planned.waits_for:
        made |= {f"taught_by.{key}": value for key, value in settings_of(sweep.runs[planned.waits_for[0]]).items()}
    return made


def noiseless(planned: Place) -> bool:
    run = planned.run
    on = [run.noise.knobs(point) for point in ("input", "teacher", "target")]
    return not any(on) and not run.dataset.label_knobs and not getattr(run.model, "dropout", 0)


@pytest.mark.parametrize("profile", PROFILES)
def test_clean_teachers_and_plain_students_are_the_same_runs_in_all_sweeps(profile: str) -> None:
    """Ambiguities, which changes the recipe of clean teachers too, has them among others."""
    clean = {planned.id for planned in teachers("baseline", profile)}
    hinton = {planned.run.seed: planned.id for planned in students("baseline", profile) if planned.run.teacher}
    alone = {planned.run.seed: planned.id for planned in students("baseline", profile) if not planned.run.teacher}
    (epochs,) = {planned.run.recipe.epochs for planned in plan("baseline", profile).runs.values() if planned.run.recipe}
    for name in OF_NOISE:
        mine = {planned.id for planned in teachers(name, profile) if noiseless(planned)}
        assert mine >= clean or name == "noisy_labels", name
        if name not in ("ambiguities", "noisy_labels"):
            assert mine == clean, name
        for planned in students(name, profile) if name != "ambiguities" else ():
            same = noiseless(planned) and planned.run.recipe and planned.run.recipe.epochs == epochs
            steady = all(noiseless(plan(name, profile).runs[id]) for id in planned.waits_for)
            if same and steady and planned.run.seed in hinton:  # fickle has more seeds than the others
                assert planned.id == (hinton if planned.run.teacher else alone)[planned.run.seed], name
        if name != "noisy_labels":
            assert set(hinton.values()) <= set(plan(name, profile).runs), name


COMMON = [  # beyond baseline's runs: students that two sweeps have in common
    ("controls", "fickle"),
    ("controls", "messy"),
    ("controls", "softrand"),
    ("fixed_label_corruption", "messy"),
    ("fixed_label_corruption", "noisy_labels"),
    ("ambiguities", "fickle"),
    ("ambiguities", "messy"),
    ("ambiguities", "softrand"),
]


@pytest.mark.parametrize(("one", "other"), COMMON)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_method_is_the_same_runs_wherever_it_is_compared(one: str, other: str, profile: str) -> None:
    shared = set(plan(one, profile).runs) & set(plan(other, profile).runs) - set(plan("baseline", profile).runs)
    assert {plan(one, profile).runs[id].role for id in shared} >= {"student"}


def test_the_table_of_figure_10_is_complete() -> None:
    rates = (0.05, 0.1, 0.15, 0.25, 0.5)
    cells: dict[tuple[float, float, bool], int] = {}
    for planned in students("noisy_labels"):
        made = settings_of(planned)
        r = made.get("noise.target.variability.rate", 0.0)
        key = made["dataset.labels.corruption.rate"], r, planned.run.teacher is not None
        cells[key] = cells.get(key, 0) + 1
    taught = {(c, r, True): 5 for c in rates for r in (0.0, *rates)}
    assert cells == taught | {(c, 0.0, False): 5 for c in rates}
    assert {settings_of(planned)["dataset.labels.corruption.rate"] for planned in teachers("noisy_labels")} == {*rates}


@pytest.mark.parametrize("name", ["messy", "fixed_label_corruption"])
def test_a_rate_of_zero_is_one_point_for_all_variants(name: str) -> None:
    plain = [planned for planned in students(name) if noiseless(planned) and planned.run.teacher]
    clean = {planned.id for planned in teachers("baseline")}
    assert len([planned for planned in plain if set(planned.waits_for) == clean]) == 5


# What the paper leaves open: papers A.7, row by row

METHODS = {  # how each is told among students
    "Hinton": {},
    "Soft Randomization": {"noise.input.gaussian.sigma": 0.05},
    "Fickle Teacher": {"noise.teacher.dropout.rate": 0.4},
    "MC-TS": {"noise.target.variability.rate": 0.5, "taught_by.noise.target.variability.rate": 0.5},
}
ALL = tuple(METHODS)
SWAP = "noise.teacher.swap"
CROP, FLIP = ("recipe.augmentation.crop.mode", "recipe.augmentation.crop.padding"), ("recipe.augmentation.flip",)

# Row: where it is changed in a run; the value that is not the default (None: written nowhere); at which methods.
ROWS: list[tuple[int, dict[str, Any], tuple[str, ...]]] = [
    (5, {"noise.teacher.dropout.bn": "train"}, ("Fickle Teacher",)),
    (6, {"recipe.optimizer.sgd.momentum": 0.99}, ALL),
    (7, {"recipe.schedule.step.milestones": "[0.3, 0.6, 0.75]"}, ALL),
    (8, {"recipe.optimizer.sgd.weight_decay": 1e-4}, ALL),
    (8, {"recipe.optimizer.sgd.nesterov": True}, ALL),
    (9, {"recipe.augmentation.crop.mode": "zero"}, ALL),
    (9, dict.fromkeys((*CROP, *FLIP)), ALL),
    (10, {"recipe.epochs": 250}, ("Hinton",)),
    (10, {"recipe.epochs": 300}, ("Hinton",)),
    (10, {"recipe.epochs": 350}, ("Hinton",)),
    (11, {"dataset.labels.corruption.classes": "wrong"}, ("Hinton",)),
    (12, {"noise.target.variability.classes": "any"}, ("MC-TS",)),
    (13, {"taught_by.noise.target.variability.rate": 0.5}, ("MC-TS",)),
    (14, {"distillation.divergence": "reverse"}, ALL),
    (16, {"noise.input.gaussian.clamp": True}, ("Soft Randomization",)),
    (17, {"noise.teacher.signal_noise.per": "sample"}, ("Hinton",)),
    (18, {f"{SWAP}.difference": "absolute", f"{SWAP}.threshold": 0.03}, ("Hinton",)),
    (18, {f"{SWAP}.on": "logits"}, ("Hinton",)),
    (19, {"model.wrn-16-2.dropout": 0.4, "model.wrn-16-2": None}, ("Fickle Teacher",)),
    (20, {"teacher.rule": "paired", "teacher.metric": None}, ALL),
    (20, {"dataset.validation": 0.1, "teacher.metric": "val/accuracy"}, ALL),
    (21, {"recipe.keep.best": "val/accuracy"}, ALL),
]
MEASURED = {1, 2, 3, 15}  # rows about how a run is measured, not what it is
OF_A_GRID = {4}


def test_every_row_of_the_ambiguities_is_mapped() -> None:
    assert {row for row, _, _ in ROWS} | MEASURED | OF_A_GRID == set(range(1, 22))


@cache
def ambiguities() -> list[dict[str, Any]]:
    """The students' settings, their teachers' with them."""
    sweep = plan("ambiguities")
    return [whole(sweep, planned) for planned in students("ambiguities") if planned.run.seed == 0]


def without(made: dict[str, Any], paths: set[str]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if key not in paths}


@pytest.mark.parametrize(("row", "change", "methods"), ROWS, ids=[f"{row}-{next(iter(way))}" for row, way, _ in ROWS])
def test_a_row_is_changed_alone(row: int, change: dict[str, Any], methods: tuple[str, ...]) -> None:
    """A student with the other value, and one that differs from it in nothing else: in the student's own settings, and
    where they are the teacher's too, in those.
    """
    paths = {*change, *(f"taught_by.{path}" for path in change)}
    for method in methods:
        mine = [made for made in ambiguities() if METHODS[method].items() <= made.items()]
        changed = [made for made in mine if all(made.get(path) == value for path, value in change.items())]
        base = [without(made, paths) for made in ambiguities() if made not in changed]
        assert any(without(made, paths) in base for made in changed), f"row {row} is not changed alone at {method}"


def test_row_4_is_the_whole_grid_at_every_number_of_steps() -> None:
    made = [whole(plan("messy"), planned) for planned in students("messy")]
    rate = "noise.target.variability.rate"
    rates = {(each.get(rate, 0.0), each.get(f"taught_by.{rate}", 0.0)) for each in made}
    five = (0.05, 0.1, 0.15, 0.25, 0.5)
    assert rates == {(0.0, 0.0), *((r, 0.0) for r in five), *((0.0, r) for r in five), *((r, r) for r in five)}
    (attack,) = [each for each in plan("messy").evaluation if each.key == "pgd"]
    assert attack.steps == (10, 15, 20) and attack.restarts == 5 and attack.eps == (0.031,)


def test_rows_2_and_3_are_read_off_one_measurement() -> None:
    data = load(Dataset.model_validate({"digits": {}}), Path("nowhere"))
    network = build_network(Model.model_validate({"mlp": {"hidden": [4]}}), None, 0, data.shape, data.classes)
    subject = Subject(network, data, Context(Path("nowhere")))
    measured = PGD(eps=(0.1,), steps=(1,), restarts=2, images=20).measure(subject).metrics
    ways = {"robust/pgd1", "robust/pgd1/unconditional", "robust/pgd1/worst", "robust/pgd1/worst_unconditional"}
    assert ways <= set(measured)
    for name in OF_NOISE:
        for profile in PROFILES:
            assert [each.restarts > 1 for each in plan(name, profile).evaluation if each.key == "pgd"] == [True]


def test_row_1_both_steps_are_measured_in_every_sweep() -> None:
    for name in OF_NOISE:
        (attack,) = [each for each in plan(name).evaluation if each.key == "pgd"]
        assert attack.step == (0.003, 0.03), "the code's own is the headline, the printed one beside it"


@pytest.mark.parametrize("profile", PROFILES)
def test_robustness_is_never_measured_without_its_flags(profile: str) -> None:
    for name in OF_NOISE:
        by_name = {each.key: each for each in plan(name, profile).evaluation}
        attack, flags = by_name["pgd"], by_name["masking"]
        assert (flags.eps, flags.step) == (attack.eps[0], attack.step[0]), "flags of the headline"


def test_row_15_is_a_key_of_shift() -> None:
    assert "cinic" in Shift.model_fields
    for stated in ({}, {"part": "all"}, {"per_class": 2100, "part": "all", "seed": 0}):
        assert Cinic.model_validate({"path": "somewhere", **stated})
    assert all("shift" in {each.key for each in plan(name).evaluation} for name in OF_NOISE)


# make sweeps

FAKE = """\
#!/bin/sh
echo "$@" >> calls
case "$3" in *$FAILS*) exit ${STATUS:-3};; esac
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The Makefile beside an environment whose python only notes what it was asked, and fails where $FAILS says."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "sweeps/a.yaml", "sweeps/b.yaml", "sweeps/c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(FAKE)
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / ".venv" / "installed").write_text("")
    return tmp_path


def make_sweeps(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `make sweeps` does, in an environment of its own."""
    words = ["make", "--no-print-directory", "sweeps"]
    variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "FAILS": "none", **environment}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=variables)


def test_make_sweeps_runs_every_sweep_and_says_how_each_ended(house: Path) -> None:
    done = make_sweeps(house)
    calls = [f"-m kdtune.sweep sweeps/{name}.yaml --profile laptop" for name in "abc"]
    assert (house / "calls").read_text().splitlines() == calls
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^sweeps/(.)\.yaml +done +\d+ s$", done.stdout, re.MULTILINE) == ["a", "b", "c"]


def test_make_sweeps_goes_on_after_a_failure_and_ends_with_it(house: Path) -> None:
    done = make_sweeps(house, FAILS="b.yaml")
    assert len((house / "calls").read_text().splitlines()) == 3
    assert done.returncode != 0
    assert re.search(r"^sweeps/b\.yaml +status 3 +\d+ s$", done.stdout, re.MULTILINE)
    assert re.search(r"^sweeps/c\.yaml +done", done.stdout, re.MULTILINE)


def test_make_sweeps_stops_where_it_is_interrupted(house: Path) -> None:
    done = make_sweeps(house, FAILS="b.yaml", STATUS="130")
    assert len((house / "calls").read_text().splitlines()) == 2
    assert done.returncode != 0
