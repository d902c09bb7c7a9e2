"""What the documents say is so: names exist, commands parse, the map is complete, nothing names one machine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from kdtune import paths
from kdtune.__main__ import main
from kdtune.cli import command
from kdtune.cli.run import wanted
from kdtune.planning.plan import build_plan
from kdtune.planning.searching import known_plan
from kdtune.run import RECIPE_VERSION
from kdtune.store.store import Store
from kdtune.sweepfile import reader
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.source import PAPER

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Files that a sweep writes, and a teacher of the user's own: named in documents, not part of the project.
PRODUCTS = {"run.yaml", "sweep.yaml", "plan.json", "results.csv", "results.parquet", "provenance.json", "history.jsonl"}
SOURCE = (".py", ".yaml", ".toml", ".txt", ".md")


def tracked() -> list[Path]:
    """The files of the project: what git has, and what it would take."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this copy of kdtune has no git history to list its files")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def documents(readme: str) -> str:
    """All that tells users what to type."""
    return "\n".join([readme, *((ROOT / "docs" / f"{name}.md").read_text() for name in ("using", "cluster", "own"))])


def header(path: Path) -> str:
    """The comment at the top of a sweep file, without its hashes."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def commands(text: str) -> list[list[str]]:
    """The shell commands of a text, as words, without comments."""
    joined = text.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def shell(markdown: str) -> list[list[str]]:
    return [
        words for kind, block in FENCE.findall(markdown) if kind in ("sh", "shell", "bash") for words in commands(block)
    ]


def parse(words: list[str]) -> click.Context | None:
    """Parses a command of kdtune as click would, without doing it. Raises click.UsageError; None for other commands."""
    if words[:3] == ["python", "-m", "kdtune.sweep"]:
        return command.sweep.make_context("kdtune.sweep", words[3:])
    if words[0] == "kdtune":
        group = main.make_context("kdtune", words[1:2])
        name, each, _ = main.resolve_command(group, words[1:2])
        assert each is not None and name is not None
        return each.make_context(name, words[2:], parent=group)
    return None


# Sweep files


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_sweep_file_opens_with_question_command_cost_and_what_to_expect(path: Path) -> None:
    said = header(path)
    assert re.search(r"^[A-Z].*\?$", said, re.MULTILINE), "a question"
    assert f"python -m kdtune.sweep sweeps/{path.name}" in said, "the command"
    assert re.search(r"^Cost\b.*\d", said, re.MULTILINE), "what it costs"
    assert re.search(r"^Expected\b", said, re.MULTILINE), "what to expect"
    for words in [line.split() for line in said.splitlines() if line.startswith("python -m kdtune.sweep")]:
        assert parse(words) is not None


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_sweep_is_named_like_its_file_and_its_header_counts_right(path: Path) -> None:
    assert reader.read(path)["name"] == path.stem
    (total,) = re.findall(r"(\d+) runs\b", header(path)) or [None]
    if total is not None:
        plan, search = known_plan(load_sweep(path), paths.data_folder(), Store("nowhere"))
        assert len((search.foreseen() if search else plan).runs) == int(total), "of a search at most so many"


def test_there_is_a_sweep_file() -> None:
    assert SWEEPS


# README and docs


def test_the_sweep_file_of_the_readme_is_one(readme: str, tmp_path: Path) -> None:
    (text,) = [text for kind, text in FENCE.findall(readme) if kind == "yaml" and text.startswith("name:")]
    (tmp_path / "first.yaml").write_text(text)
    plan = build_plan(load_sweep(tmp_path / "first.yaml"), tmp_path)
    assert len(plan.runs) == 3 + 3 * 3, "a pool of three, three points of three seeds"


def test_links_of_the_documents_lead_somewhere(readme: str) -> None:
    for path in [path for path in tracked() if path.suffix == ".md"]:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if "://" not in target and not target.startswith(("#", "mailto:")):
                assert (path.parent / target.split("#")[0]).exists(), f"{path.name} links to {target}"


def test_file_names_in_backticks_exist(documents: str) -> None:
    known = [path.relative_to(ROOT).as_posix() for path in tracked()]
    folders = {parent.as_posix() for name in known for parent in Path(name).parents}
    checked = 0
    for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", documents)):
        for word in [word.strip(",;:()") for word in code.split()]:
            plain = word.strip("./")
            if not re.fullmatch(r"[\w./-]+", word):
                continue  # path/{train,test}/CLASS/ and the like
            if word.startswith("results") or Path(word).name in PRODUCTS or "/" in word[:1]:
                continue
            if word.endswith(SOURCE) or plain in ("Makefile", "LICENSE"):
                assert any(name == plain or name.endswith(f"/{plain}") for name in known), f"no file {word}"
                checked += 1
            elif word.endswith("/"):
                assert any(name == plain or name.endswith(f"/{plain}") for name in folders), f"no folder {word}"
                checked += 1
    assert checked >= 5


def house(readme: str) -> dict[str, str]:
    """The names in README's map of the house by their path in the project, with the line that names them."""
    (block,) = [text for _, text in FENCE.findall(readme) if text.startswith("kdtune/\n")]
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in filter(str.strip, block.splitlines()):
        indent = len(line) - len(line.lstrip())
        above = [(depth, folder) for depth, folder in above if depth < indent]
        place = above[-1][1] if above else ""
        first = line.split()[0]
        if first.endswith("/"):
            place += first
            above.append((indent, place))
            found[place] = line
        # A name stands by itself: a key such as `noise.py.x` or a command with dots is none.
        for name in re.findall(r"(?<![\w./`])[\w.-]+\.(?:py|yaml|toml|txt|md)(?![\w/.])", line):
            found[place + name] = line
    return found


def test_every_name_in_the_map_exists(readme: str) -> None:
    for name, line in house(readme).items():
        assert (ROOT / name).exists(), f"{name} does not exist: {line.strip()!r}"


def test_every_module_and_sweep_script_is_in_the_map(readme: str) -> None:
    named = set(house(readme))
    modules = [*(ROOT / "kdtune").rglob("*.py"), *(ROOT / "analysis").glob("*.py")]
    absent = []
    for path in modules:
        name = path.relative_to(ROOT).as_posix()
        package = f"{path.parent.relative_to(ROOT).as_posix()}/"
        stands_for_package = path.name == "__init__.py" and path.parent.name != "kdtune"
        if (package if stands_for_package else name) not in named:
            absent.append(name)
    assert not absent, f"the map of the house lacks {', '.join(absent)}"


def test_commands_in_the_documents_parse_and_name_files_that_exist(documents: str) -> None:
    parsed = 0
    for words in shell(documents):
        try:
            context = parse(words)
        except click.ClickException as error:
            pytest.fail(f"{shlex.join(words)}: {error.format_message()}")
        for word in words:
            if word.startswith(("sweeps/", "analysis/")):
                assert (ROOT / word).exists(), f"{shlex.join(words)}: no {word}"
        parsed += context is not None
    assert parsed >= 3


def test_a_command_with_a_flag_that_does_not_exist_would_be_noticed() -> None:
    for words in ("python -m kdtune.sweep x.yaml --dryrun", "kdtune status results/x --profil y", "kdtune stat x"):
        with pytest.raises(click.ClickException):
            parse(words.split())
    assert parse(["ls"]) is None


def test_sweep_commands_of_the_documents_resolve_and_only_finds_its_run(documents: str, tmp_path: Path) -> None:
    """Profiles, overrides and `--only` of the examples are right too."""
    for words in shell(documents):
        context = parse(words)
        if context is None or "overrides" not in context.params:  # not of a sweep, or of what stands
            continue
        params = context.params
        overrides = [each for each in params["overrides"] if "path:" not in each]  # images that only the reader has
        file = load_sweep(ROOT / params["file"], params["profile"] or PAPER, overrides)
        plan = build_plan(file, tmp_path)
        if only := params.get("only"):
            students = [run for run in plan.only(wanted(only, plan)).runs.values() if run.role == "student"]
            assert len(students) == 1, f"--only {only} names {len(students)} students"


def test_make_targets_in_the_documents_exist(documents: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    asked = {words[1] for words in shell(documents) if words[0] == "make" and len(words) > 1}
    asked |= set(re.findall(r"`make ([a-z]+)`", documents))
    assert asked, "README names the two commands"
    assert asked <= targets, f"no target {asked - targets}"


def test_the_makefile_runs_what_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in re.findall(r"^\t\$\(BIN\)/(python -m kdtune\.sweep .*)$", makefile, re.MULTILINE):
        assert parse(shlex.split(line)) is not None
    for name in re.findall(r"\b(?:sweeps|analysis)/[\w.]+", makefile):
        assert (ROOT / name).is_file()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony and {"sweep", "test", "check"} <= set(phony[1].split())


def test_the_subcommands_that_kdtune_promises_exist(readme: str, documents: str) -> None:
    promised = set(re.findall(r"`kdtune ([a-z]+)`", documents))
    (line,) = [line for name, line in house(readme).items() if name == "kdtune/__main__.py"]
    promised |= set(re.findall(r"[a-z]+", line.rpartition(":")[2]))
    assert promised <= set(main.commands), f"no command {promised - set(main.commands)}"


def test_the_docstring_of_the_kdtune_command_lists_its_subcommands() -> None:
    docstring = (ROOT / "kdtune" / "__main__.py").read_text().split('"""')[1]
    listed = set(re.findall(r"[a-z]+", docstring.rpartition(":")[2]))
    assert listed == set(main.commands), f"its docstring lists {sorted(listed)}, there are {sorted(main.commands)}"


# Everything else


def test_the_changelog_tells_the_recipe_version() -> None:
    path = ROOT / "CHANGELOG.md"
    if not path.exists():
        pytest.skip("CHANGELOG.md is not written yet")
    assert re.search(rf"\bRECIPE_VERSION\W+{RECIPE_VERSION}\b", path.read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", path.read_text(), re.MULTILINE), "the version has its section"


# Written with classes of one letter, so that this file does not hold what it looks for.
MACHINE = re.compile(r"(?<![\w./])/(?:[w]ork|[r]oot|[U]sers|[h]ome/(?!ray\b)[\w.-]+)/[\w.-]")
REGISTRY = re.compile(r"[p]ypi\.|[p]ythonhosted|[i]ndex-url|[f]ind-links|[a]rtifactory|[j]frog|[a]naconda\.|/[s]imple/")
HOST = re.compile(r"\b(?:https?|ftp|git)://([^\s/:\"'`<>()\]}{]+)")
# zenodo.org has CIFAR-10-C, json-schema.org names the language of a schema.
ALLOWED = ("localhost", "127.0.0.1", "apache.org", "arxiv.org", "doi.org", "zenodo.org", "json-schema.org")


def texts() -> list[tuple[str, str]]:
    return [(path.relative_to(ROOT).as_posix(), path.read_text(errors="replace")) for path in tracked()]


def test_no_file_names_a_place_on_one_machine() -> None:
    found = [f"{name}: {match[0]}" for name, text in texts() for match in MACHINE.finditer(text)]
    assert not found, "\n".join(found)


def test_no_file_names_a_package_registry_or_a_host_that_is_not_known() -> None:
    found = [f"{name}: {match[0]}" for name, text in texts() for match in REGISTRY.finditer(text)]
    for name, text in texts():
        for host in HOST.findall(text):
            if not any(host == allowed or host.endswith(f".{allowed}") for allowed in ALLOWED):
                found.append(f"{name}: {host}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "pattern", "found"),
    [
        ("see /wo" + "rk/main/x", MACHINE, True),
        ("see /ho" + "me/ann/x", MACHINE, True),
        ("/ho" + "me/ray/kdtune", MACHINE, False),
        ("network/work/x", MACHINE, False),
        ("pip --ind" + "ex-url=x", REGISTRY, True),
        ("htt" + "ps://py" + "pi.org/x", REGISTRY, True),
        ("torch==2.11.0", REGISTRY, False),
    ],
)
def test_what_the_two_checks_above_notice(text: str, pattern: re.Pattern[str], found: bool) -> None:
    assert bool(pattern.search(text)) is found


def pinned() -> dict[str, str]:
    """Name and version of every line of constraints.txt; a line that is more than that fails."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.]*)", line)
            assert match, f"constraints.txt: {line!r} is not name==version"
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            assert name not in pins, f"constraints.txt names {name} twice"
            pins[name] = match[2]
    return pins


def test_constraints_are_names_and_versions_and_torch_fits_torchvision() -> None:
    pins = pinned()
    assert (pins["torch"], pins["torchvision"]) == ("2.11.0", "0.26.0")
    assert "kdtune" not in pins and "pip" not in pins


def test_every_dependency_is_constrained_within_its_bounds() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [each for extra in project["optional-dependencies"].values() for each in extra]
    pins = pinned()
    for requirement in map(Requirement, asked):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pins, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement} is not met by {pins[name]}"


def test_what_is_required_is_used_and_what_is_used_is_required() -> None:
    """row D10: optuna was required, and nothing imported it."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    called = {"grpcio": "grpc", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
    required, optional = (
        {called.get(name, name) for name in (Requirement(each).name for each in asked)}
        for asked in (project["dependencies"], project["optional-dependencies"]["autoattack"])
    )
    text = "\n".join(path.read_text() for room in ("kdtune", "analysis") for path in (ROOT / room).rglob("*.py"))
    imported = set(re.findall(r"^ *(?:import|from) ([A-Za-z_]\w*)[\w.]*(?: import| as|$)", text, re.MULTILINE))
    imported |= set(re.findall(r'find_spec\("(\w+)"\)', text))  # a file of it is read
    ours = {"kdtune", *(path.stem for path in (ROOT / "analysis").glob("*.py"))}
    assert required <= imported, f"required, and never imported: {', '.join(required - imported)}"
    of_pydantic = {"pydantic_core", "annotated_types"}
    unknown = imported - required - optional - ours - set(sys.stdlib_module_names) - of_pydantic
    assert not unknown, f"imported, and not required: {', '.join(unknown)}"


def test_make_test_installs_all_that_its_tests_compare_with() -> None:
    """row D10: on a clean clone the references of corruptions and of AutoAttack were skipped."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras["dev"]) >= {"foolbox", "opencv-python-headless", *extras["autoattack"]}


def test_constraints_hold_what_each_pinned_package_needs_in_turn() -> None:
    """Else a fresh machine takes whatever is newest on the day."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    pins = pinned()
    for name, pin in pins.items():
        try:
            if version(name) != pin:
                continue
        except PackageNotFoundError:
            continue  # of another platform
        for requirement in map(Requirement, requires(name) or []):
            needed = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert needed in pins or needed == "setuptools", f"{name} needs {needed}, which is not constrained"


def test_the_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    for section in ("Grant of Patent License", "Limitation of Liability", "END OF TERMS AND CONDITIONS"):
        assert section in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]


def test_every_test_that_the_table_of_rows_names_is_there() -> None:
    """tests/README.md: `path.py::test_name`, and `::test_name` for another of the file before."""
    path, missing = Path(), []
    for file, name in re.findall(
        r"`((?:\w+/)*test_\w+\.py)?(?:::(test_\w+))?`", (ROOT / "tests" / "README.md").read_text()
    ):
        path = ROOT / "tests" / file if file else path
        if not path.is_file() or (name and f"def {name}(" not in path.read_text()):
            missing.append(f"{path.name}::{name}")
    assert not missing
