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
HEAVY = ("torch", "ray", "pandas", "optuna")

# Who may import whom: a room is a folder of kdtune/, or a file that stands beside the folders. Annotations count.
MAY = {
    # what everything stands on
    "settings": "",
    "kinds": "settings",
    "archive": "",
    "paths": "",
    "identity": "",
    "garbage": "",
    "sources": "settings",
    "extensions": "kinds settings sources",
    "randomness": "",
    "statistics": "",
    # what a sweep file names: a folder per family
    "attacks": "randomness",
    "noise": "archive attacks kinds settings randomness",
    "models": "kinds settings",
    "optimization": "kinds settings",
    "losses": "kinds settings",
    "recipe": "settings optimization",
    "search": "kinds settings",
    "data": "attacks kinds settings randomness noise recipe",
    "evaluation": "extensions kinds settings randomness attacks data store",
    "networks": "settings noise models losses recipe data",
    "config": "settings networks data evaluation",
    "run": "networks data evaluation extensions identity losses models noise recipe settings",
    # a file, a plan, a run, a memory
    "store": "garbage identity",
    "sweepfile": "garbage settings kinds recipe config networks data evaluation search",
    "planning": "config garbage networks data evaluation extensions identity models randomness run search store"
    " sweepfile",
    "training": "archive attacks extensions networks recipe data evaluation losses models noise randomness run sources"
    " store",
    # where runs are computed, what a person sees, what is typed
    "launch": "data evaluation extensions paths planning run sources store sweepfile training",
    "report": "evaluation extensions paths planning sources statistics store sweepfile",
    "doctor": "data launch planning store sweepfile",
    "cli": "data doctor evaluation extensions launch paths planning report store sweepfile training",
    "api": "cli extensions launch paths planning report store sweepfile training",
    "__init__": "api",
    "__main__": "cli",
    "sweep": "cli",
}
# And within: modules that stand apart from others, whatever their rooms may do.
NEVER = {
    "kdtune.training.loop": ("kdtune.noise", "kdtune.losses", "kdtune.training.lesson"),
    "kdtune.evaluation": ("kdtune.noise", "kdtune.losses", "kdtune.training"),
    "kdtune.attacks.pgd": ("kdtune",),
    "kdtune.planning.plan": ("kdtune.store",),
    "kdtune.store": ("torch", "ray"),
    "kdtune.planning": ("torch", "ray"),
    "kdtune.sweepfile": ("torch", "ray"),
}
LINES = 300  # of a file, at most
SCREEN = 40  # lines of a function; 95 % of them are shorter


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
    return [path for name, path in MODULES.items() if within(name, module)]


def used(module: str) -> set[str]:
    """All that a module or package imports: in functions and for annotations too."""
    return {each.name for path in of(module) for each in imports(path)}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def room(module: str) -> str:
    """The folder or, beside the folders, the file: kdtune.store.claims is in store."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def graph() -> dict[str, set[str]]:
    """Who imports whom, module by module, in functions and for annotations too."""
    return {
        name: {each.name for each in imports(path) if within(each.name, "kdtune")} - {name}
        for name, path in MODULES.items()
    }


def test_the_reader_of_imports_sees_what_it_should() -> None:
    """The rules below are worth nothing if imports are overlooked."""
    names = ("launch.trainable", "training.loop", "cli.sweep", "api")
    found = {name: imports(MODULES[f"kdtune.{name}"]) for name in names}
    assert Import("ray", False, False) in found["launch.trainable"]
    assert Import("kdtune.data.loading", False, True) in found["training.loop"]
    assert Import("kdtune.paths", True, False) in found["cli.sweep"], "from kdtune import paths"
    assert Import("kdtune.report.table", False, False) in found["api"]
    assert not [each.name for each in found["training.loop"] if each.loaded and each.typed]


def test_every_room_imports_only_what_it_may() -> None:
    assert {room(name) for name in MODULES} == set(MAY), "a new room has its line in MAY"
    arrows = {(room(name), room(other)) for name, others in graph().items() for other in others}
    wrong = {f"{one} -> {other}" for one, other in arrows if one != other and other not in MAY[one].split()}
    assert not wrong, f"not in MAY: {', '.join(sorted(wrong))}"
    allowed = {(one, other) for one, others in MAY.items() for other in others.split()}
    idle = {f"{one} -> {other}" for one, other in allowed - arrows}
    assert not idle, f"in MAY, and nobody does: {', '.join(sorted(idle))}"


def test_there_is_no_circle() -> None:
    """Neither of rooms nor of modules, imports inside functions and for annotations included."""
    for arrows in ({one: set(others.split()) for one, others in MAY.items()}, graph()):
        try:
            TopologicalSorter(arrows).prepare()
        except CycleError as error:
            pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_ray_is_imported_in_launch_alone() -> None:
    """And, to ask what it would say of a cluster file, in doctor."""
    doors = {name for name, path in MODULES.items() if any(within(each.name, "ray") for each in imports(path))}
    assert {name for name in doors if room(name) != "launch"} == {"kdtune.doctor.clusterfile"}


@pytest.mark.parametrize("module", NEVER)
def test_what_a_module_never_uses(module: str) -> None:
    assert of(module)
    wrong = {name for name in used(module) for root in NEVER[module] if within(name, root)}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_analysis_reads_tables_and_statistics_alone() -> None:
    """And, for the softmax values of figure 8 and for curves over epochs, what a store keeps."""
    store = {
        "outputs": {"kdtune.report.mirror", "kdtune.store.store", "kdtune.store.done"},
        "histories": {"kdtune.report.mirror", "kdtune.store.store", "kdtune.store.standing"},
    }
    scripts = sorted((ROOT / "analysis").glob("*.py"))
    assert scripts
    for script in scripts:
        names = {each.name for each in imports(script) if within(each.name, "kdtune")}
        wrong = names - {"kdtune.report.table", "kdtune.statistics"} - store.get(script.stem, set())
        assert not wrong, f"{script.name} imports {wrong}"


def test_public_names_are_functions_and_no_modules() -> None:
    import kdtune

    for name in MODULES:
        import_module(name)
    assert set(kdtune.__all__) == {"plan", "run_sweep", "table", "load", "trainable"}
    for name in kdtune.__all__:
        assert callable(getattr(kdtune, name)), f"kdtune.{name} is {getattr(kdtune, name)}"


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    odd = {path.stem for path in ROOT.glob("[akt]*/**/*.py")} & {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not odd


def test_files_and_functions_stay_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES.values()}
    long = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > LINES]
    assert not long, f"more than {LINES}: {', '.join(long)}"
    functions = {
        f"{path.relative_to(ROOT)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES.values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    over = {name: lines for name, lines in functions.items() if lines >= SCREEN}
    assert len(over) <= 0.05 * len(functions), f"{len(over)} of {len(functions)} are longer than a screen: {over}"


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
        ("kdtune.sweep", ("sweeps/search.yaml", "--dry-run", "--profile", "laptop")),
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
    light = "kdtune, kdtune.config, kdtune.planning.plan, kdtune.store.store, kdtune.report.table, kdtune.cli.sweep"
    program = f"import {light}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
