"""What code, tests and sweep files cite of docs/papers.md and docs/faults.md is there, and in one spelling.

`papers A.7, row 14`, `papers A.1`, `faults 17`, `dangers 3`; claims of the papers (`A4`) in sweep files and figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.source import PAPER
from kdtune.sweepfile.tree import SweepFileError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDERS = ("kdtune", "analysis", "tests", "sweeps")
ABOUT_ROWS = "ambiguities.yaml"  # the one file that says `row 14` alone: all of it is about that table

NUMBERS = r"[0-9]+(?:(?:, | and |, and )[0-9]+)*"
SECTION = re.compile(rf"\bpapers ([A-E]\.[0-9]+)(?:, rows? ({NUMBERS}))?")
LISTED = {name: re.compile(rf"\b{name} ({NUMBERS})") for name in ("faults", "dangers")}
ALONE = re.compile(rf"\brows? ({NUMBERS})", re.IGNORECASE)
CLAIM = re.compile(r"\b[A-D][0-9]{1,2}\b")
# What a reader would take for a citation, and the check above would pass over.
OTHER_SPELLINGS = re.compile(
    r"\bprotocols? (?:[A-E]\b|[0-9])|\b(?:papers|faults|dangers)\.md,? [A-E0-9]|\b(?:fault|danger) [0-9]+"
    r"|\bpaper [A-E]\.[0-9]|\bpapers [A-E][. ]?[0-9]+ row|\b(?:Faults|Dangers) [0-9]",
)
SETTING = re.compile(r"`([a-z_]+(?:\.[a-z0-9_-]+)+: [^`]+)`")


def sources() -> list[Path]:
    here = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    documents = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("using", "cluster", "own"))]
    return [path for path in here if path.suffix in (".py", ".yaml") and path != Path(__file__)] + documents


def running_text(text: str) -> str:
    """One line, so that a citation may be broken between two, in a comment too."""
    return re.sub(r"\s+(?:#\s*)?", " ", text)


@cache
def sections() -> frozenset[str]:
    return frozenset(re.findall(r"^### ([A-E]\.[0-9]+) ", (DOCS / "papers.md").read_text(), re.MULTILINE))


def section(name: str, heading: str) -> str:
    """The text of a document from a heading to the next one of its level or above."""
    level = heading.split()[0]
    _, found, rest = (DOCS / name).read_text().partition(f"\n{heading}")
    assert found, f"{name} has no {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def numbered(text: str) -> dict[int, str]:
    """The rows of the tables of a text whose first cell is a number."""
    rows = re.findall(r"^\| ([0-9]+) \|(.*)$", text, re.MULTILINE)
    assert len({number for number, _ in rows}) == len(rows), "a number stands twice"
    return {int(number): row for number, row in rows}


@cache
def known() -> dict[str, dict[int, str]]:
    return {
        "A.7": numbered(section("papers.md", "### A.7 ")),
        "faults": numbered(section("faults.md", "## Faults")),
        "dangers": numbered(section("faults.md", "## Dangers")),
    }


@cache
def claims() -> frozenset[str]:
    return frozenset(re.findall(r"^\| ([A-D][0-9]+) \|", (DOCS / "papers.md").read_text(), re.MULTILINE))


def each_number(listed: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", listed)]


def wrong(text: str, name: str = "") -> Iterator[str]:
    """What a text cites that is not there, or in another spelling."""
    text = running_text(text)
    for match in SECTION.finditer(text):
        if match[1] not in sections():
            yield f"{match[0]}: papers.md has no section {match[1]}"
        elif match[2]:
            rows = known().get(match[1], {})
            yield from (f"{match[0]}: no row {row}" for row in each_number(match[2]) if row not in rows)
    for what, pattern in LISTED.items():
        for match in pattern.finditer(text):
            yield from (f"{match[0]}: no {what} {n}" for n in each_number(match[1]) if n not in known()[what])
    yield from (f"{match[0]}: another spelling" for match in OTHER_SPELLINGS.finditer(text))
    if name.endswith(".yaml"):
        text = SECTION.sub("", text)
        for match in ALONE.finditer(text):
            if name != ABOUT_ROWS:
                yield f"{match[0]}: of which table? papers A.7, {match[0]}"
            else:
                yield from (f"{match[0]}: no row {n}" for n in each_number(match[1]) if n not in known()["A.7"])
        yield from (f"{claim}: no such claim" for claim in CLAIM.findall(text) if claim not in claims())


def test_everything_cited_is_there() -> None:
    found = [f"{path.relative_to(ROOT)}: {told}" for path in sources() for told in wrong(path.read_text(), path.name)]
    assert not found, "\n".join(found)


def test_something_is_cited() -> None:
    text = " ".join(running_text(path.read_text()) for path in sources())
    assert len(SECTION.findall(text)) >= 20
    assert all(pattern.search(text) for pattern in LISTED.values())


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("(papers A.7, row 14)", "x.py", None),
        ("(papers A.2; papers A.7,\n    row 11)", "x.py", None),
        ("# papers A.7,\n# rows 6, 7, 10 and 14", "x.py", None),
        ("faults 17, dangers 3, faults 12 and 13", "x.py", None),
        ("# claims (A1 to A14); A4, the strongest: AutoAttack", "x.yaml", None),
        ("# 5: bn\n# Row 15 is `part: all`", ABOUT_ROWS, None),
        ("papers A.9", "x.py", "A.9"),
        ("papers A.7, row 22", "x.py", "row 22"),
        ("# papers A.7,\n#   row 40", "x.yaml", "row 40"),
        ("papers A.7, rows 1 and 99", "x.py", "row 99"),
        ("papers A.1, row 3", "x.py", "row 3"),
        ("faults 41", "x.py", "faults 41"),
        ("faults 1, 2 and 50", "x.py", "faults 50"),
        ("dangers 8", "x.py", "dangers 8"),
        ("fault 17", "x.py", "spelling"),
        ("danger 3", "x.py", "spelling"),
        ("protocols A.7, row 14", "x.py", "spelling"),
        ("papers.md, A.7 row 14", "x.py", "spelling"),
        ("papers A.7 row 14", "x.py", "spelling"),
        ("# as drawn (row 11)", "x.yaml", "which table"),
        ("# row 33", ABOUT_ROWS, "row 33"),
        ("# Expected (paper): A15: better", "x.yaml", "A15"),
    ],
)
def test_what_the_check_notices(text: str, name: str, told: str | None) -> None:
    found = list(wrong(text, name))
    assert found == [] if told is None else any(told in each for each in found), found


def test_the_documents_are_whole() -> None:
    numbers = {"A.7": 21, "faults": 40, "dangers": 7}
    for name, last in numbers.items():
        assert sorted(known()[name]) == list(range(1, last + 1)), name
    expected = {"A": 14, "B": 4, "C": 5, "D": 5}
    assert claims() == {f"{paper}{number}" for paper, last in expected.items() for number in range(1, last + 1)}
    for name in ("papers.md", "faults.md"):
        assert not list(wrong((DOCS / name).read_text())), "it cites itself rightly"


# The settings that A.7 names


def settings() -> list[tuple[int, str]]:
    return [(row, setting) for row, text in known()["A.7"].items() for setting in SETTING.findall(text)]


def as_override(setting: str) -> str:
    """A setting as A.7 writes it, as an argument of the command line."""
    path, _, value = setting.partition(": ")
    first, *rest = path.split(".")
    if first in ("pgd", "shift"):
        inner = value
        for key in reversed(rest):
            inner = f"{{{key}: {inner}}}"
        beside = ", path: nowhere" if rest[0] == "cinic" else ""
        inner = inner.replace(f": {value}}}", f": {value}{beside}}}", 1)
        return f"evaluation=[accuracy, {{{first}: {inner}}}]"  # which chooses the teacher
    return f"{'student.' if first in ('noise', 'distillation') else ''}{path}={value}"


def refusal(setting: str) -> str:
    """What a sweep file with this setting is told about it; empty where it is taken."""
    override = as_override(setting)
    try:
        load_sweep(ROOT / "sweeps" / ABOUT_ROWS, PAPER, [override])
    except SweepFileError as error:
        told = [line for line in str(error).splitlines() if re.search(r"unknown|came |input should|names no", line)]
        # What is no fault of it: an axis that the value now stands in for; settings beside it that are missing.
        return "\n".join(line for line in told if "nothing uses the axis" not in line)
    return ""


def test_every_row_names_a_setting() -> None:
    assert {row for row, _ in settings()} == set(known()["A.7"])


@pytest.mark.parametrize(("row", "setting"), settings(), ids=lambda value: str(value))
def test_a_sweep_file_takes_what_a_row_names(row: int, setting: str) -> None:
    assert not refusal(setting)


@pytest.mark.parametrize(
    "setting",
    [
        "noise.teacher.dropout.bm: train",
        "noise.teacher.dropout.bn: training",
        "noise.input.gausian.clamp: true",
        "pgd.stepp: 0.03",
        "shift.cinic.part: tests",
        "recipe.optimizer.sgd.nesterow: true",
        "distillation.divergence: backward",
    ],
)
def test_a_setting_that_does_not_exist_would_be_noticed(setting: str) -> None:
    assert refusal(setting)


# Links and files


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (path.parent / target.split("#")[0]).exists(), f"links to {target}"


@pytest.mark.parametrize("name", ["papers.md", "faults.md"])
def test_files_that_a_document_names_exist(name: str) -> None:
    named = re.findall(
        r"\b(?:kdtune|analysis|sweeps|tests|docs)/(?!test_)[\w/]+\.(?:py|yaml|md)\b", (DOCS / name).read_text()
    )
    assert named and all((ROOT / each).is_file() for each in named), named


def test_every_fault_has_a_test() -> None:
    """That those exist which the table names, test_documents looks."""
    table = (ROOT / "tests" / "README.md").read_text().partition("## The forty faults")[2]
    rows = re.findall(r"^\| ([0-9, ]*) \| `.*test_\w+\.py", table, re.MULTILINE)
    assert {number for row in rows for number in each_number(row)} == set(known()["faults"]) == set(range(1, 41))
