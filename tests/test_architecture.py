"""Who may import whom, read from the sources; what is loaded by a command that only looks; how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kdtune"
HEAVY = ("torch", "ray", "pandas")


@dataclass(frozen=True)
class Import:
    """`loaded` at module level; `typed` under TYPE_CHECKING, where it is for annotations only."""

    name: str
    loaded: bool
    typed: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file. `from kdtune import paths` is an import of kdtune.paths."""
    found: list[Import] = []

    def visit(node: ast.AST, loaded: bool, typed: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, loaded, typed) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append(Import(full if full in MODULES else node.module or "", loaded, typed))
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            guarded = checking and child not in node.orelse  # type: ignore[attr-defined]
            visit(child, loaded and not function and not guarded, typed or guarded)

    visit(tree(path), True, False)
    return tuple(found)


def of(module: str) -> list[Path]:
    """A module's file; all files of a package."""
    return [path for name, path in MODULES.items() if name == module or name.startswith(f"{module}.")]


def used(module: str, types_too: bool = False) -> set[str]:
    """All that a module or package imports, in functions too."""
    return {each.name for path in of(module) for each in imports(path) if types_too or not each.typed}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def graph(module_level: bool) -> dict[str, set[str]]:
    return {
        name: {
            each.name
            for each in imports(path)
            if within(each.name, "kdtune") and not each.typed and (each.loaded or not module_level)
        }
        for name, path in MODULES.items()
    }


def test_the_reader_of_imports_sees_what_it_should() -> None:
    """The rules below are worth nothing if imports are overlooked."""
    found = {name: imports(MODULES[f"kdtune.{name}"]) for name in ("trials", "training", "command", "api", "tuner")}
    assert Import("ray", False, False) in found["trials"]
    assert Import("kdtune.data.datasets", False, True) in found["training"]
    assert Import("kdtune.paths", True, False) in found["command"], "from kdtune import paths"
    assert Import("kdtune.report.table", False, False) in found["api"]
    assert Import("ray", True, False) in found["tuner"]
    assert not [each.name for each in found["training"] if each.loaded and each.typed]


@pytest.mark.parametrize("module_level", [True, False], ids=["loaded", "used"])
def test_imports_go_down_only(module_level: bool) -> None:
    """No cycles, imports inside functions included: an order of the modules exists in which each uses earlier ones."""
    try:
        TopologicalSorter(graph(module_level)).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' <- '.join(error.args[1])}")


def test_ray_has_three_doors() -> None:
    doors = {name for name in MODULES if any(within(each, "ray") for each in used_here(name))}
    assert doors == {"kdtune.launch.tuner", "kdtune.launch.searcher", "kdtune.launch.trainable"}


def used_here(name: str) -> set[str]:
    return {each.name for each in imports(MODULES[name])}


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("kdtune.training.loop", ("kdtune.noise", "kdtune.training.lesson")),
        ("kdtune.evaluation", ("kdtune.noise", "kdtune.training.lesson", "kdtune.training.loop")),
        ("kdtune.attacks.pgd", ("kdtune",)),
        ("kdtune.settings", ("kdtune",)),
        ("kdtune.statistics", ("kdtune",)),
        ("kdtune.data", ("kdtune.training.loop", "kdtune.training.lesson", "kdtune.evaluation", "kdtune.models")),
        ("kdtune.models", ("kdtune.training.loop", "kdtune.noise", "kdtune.evaluation", "kdtune.data")),
        ("kdtune.planning.plan", ("torch", "ray", "kdtune.store.store")),
        (
            "kdtune.training.run",
            ("kdtune.planning.dispatch", "kdtune.report.table", "kdtune.report.folder", "kdtune.cli.sweep"),
        ),
        ("kdtune.store.store", ("torch", "kdtune.planning.plan", "kdtune.config")),
    ],
)
def test_what_a_module_never_uses(module: str, never: tuple[str, ...]) -> None:
    assert of(module)
    wrong = {name for name in used(module) for root in never if within(name, root)}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_training_and_evaluation_do_not_even_name_noise_in_their_types() -> None:
    for module in ("kdtune.training.loop", "kdtune.evaluation"):
        wrong = {name for name in used(module, types_too=True) if within(name, "kdtune.noise")}
        assert not wrong, f"{module} names {wrong}"


def test_noise_stands_on_settings_alone() -> None:
    inside = {name for name in used("kdtune.noise") if within(name, "kdtune")}
    assert {name for name in inside if not within(name, "kdtune.noise")} <= {"kdtune.settings"}
    typed = {each.name for path in of("kdtune.noise") for each in imports(path) if each.typed}
    assert {name for name in typed if within(name, "kdtune")} <= {"kdtune.randomness", "kdtune.settings"}


def test_analysis_reads_tables_and_statistics_alone() -> None:
    scripts = sorted((ROOT / "analysis").glob("*.py"))
    assert scripts
    for script in scripts:
        wrong = {each.name for each in imports(script) if within(each.name, "kdtune")} - {
            "kdtune.report.table",
            "kdtune.statistics",
        }
        assert not wrong, f"{script.name} imports {wrong}"


def test_nothing_imports_the_door_of_the_sweep_command() -> None:
    """`kdtune.sweep` is the public function: importing the module of that name would put the module in its place."""
    for path in [*MODULES.values(), *(ROOT / "tests").glob("*.py"), *(ROOT / "analysis").glob("*.py")]:
        if path != PACKAGE / "__init__.py":
            assert "kdtune.sweep" not in {each.name for each in imports(path)}, f"{path} imports kdtune.sweep"


def test_public_names_stay_functions_whatever_was_imported() -> None:
    import kdtune

    for name in MODULES:
        if name != "kdtune.sweep":
            import_module(name)
    assert set(kdtune.__all__) == {"plan", "run_sweep", "table", "load", "trainable"}
    for name in kdtune.__all__:
        assert callable(getattr(kdtune, name)), f"kdtune.{name} is {getattr(kdtune, name)}"


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    odd = {path.stem for path in ROOT.glob("[akt]*/**/*.py")} & {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not odd


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in MODULES.values():
        lines = len(path.read_text().splitlines())
        if lines > 250:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines, at most 250")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {size} lines, at most 60")
    assert not long, "\n".join(long)


def loaded_by(door: str, *arguments: str) -> tuple[list[str], subprocess.CompletedProcess]:
    """Runs `python -m door arguments` in a process of its own; which heavy libraries it loaded."""
    program = (
        "import runpy, sys\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "try:\n"
        f"    runpy.run_module({door!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    status = end.code\n"
        f"print('status', status, 'loaded', *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    last = done.stderr.strip().splitlines()[-1].split()
    assert last[:3] == ["status", last[1], "loaded"], done.stderr
    assert last[1] in ("0", "None"), done.stderr
    return last[3:], done


@pytest.mark.parametrize(
    ("door", "arguments"),
    [
        ("kdtune", ("--help",)),
        ("kdtune", ("run", "--help")),
        ("kdtune.sweep", ("--help",)),
        ("kdtune.sweep", ("sweeps/fickle.yaml", "--dry-run", "--profile", "laptop")),
        ("kdtune.sweep", ("sweeps/fickle.yaml", "--dry-run", "--json", "--profile", "paper")),
        ("kdtune", ("plan", "sweeps/fickle.yaml", "--profile", "quick")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_looking_loads_neither_torch_nor_ray_nor_pandas(door: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    if "--help" not in arguments:
        arguments += ("--results", str(tmp_path / "results"), "--data", str(tmp_path / "data"))
    loaded, done = loaded_by(door, *arguments)
    assert loaded == []
    assert done.stdout, "it says something"
    assert list(tmp_path.iterdir()) == [], "and writes nothing"


def test_importing_kdtune_and_the_settings_loads_nothing_heavy() -> None:
    light = "kdtune, kdtune.config, kdtune.planning, kdtune.store, kdtune.tables, kdtune.command"
    program = f"import {light}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
