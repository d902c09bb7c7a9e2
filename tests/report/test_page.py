"""report.html: all of it in one file, whatever stands in names and errors is text, tables sort in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kdtune
from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

EVIL = "</pre><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep with a figure, one student that failed and one that is lacking."""
    from conftest import SMALL

    root = tmp_path_factory.mktemp("page")
    file = root / "small.yaml"
    file.write_text(f"# Does it open?\n#\n#   a second <b>paragraph</b>\n{SMALL}")
    options = Options(file, results=str(root / "r"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    plan = build_plan(load_sweep(file), root)
    lost = [place.id for place in plan.places if place.role == "student"][:2]
    for id in lost:
        (root / "r/runs/done" / id).unlink()
        shutil.rmtree(root / "r/runs" / id)
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        Store(root / "r").attempt(lost[0]).write_failure(error)
    figures = root / "r/small/paper/figures"
    figures.mkdir()
    (figures / "figure1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (figures / "figure1.md").write_text(f"What it shows. {EVIL}")
    claims = root / "r/figures/claims.csv"
    claims.parent.mkdir()
    with claims.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["scope", "sweep", "profile", "claim", "statement", "metric", "verdict"])
        rows.writerow(["direction", "small", "paper", "A99", EVIL, "test/accuracy", "inconclusive"])
        rows.writerow(["direction", "small", "laptop", "A98", "another profile's", "test/accuracy", "reproduced"])
    return root / "r/small/paper"


@pytest.fixture(scope="module")
def text(place: Path) -> str:
    done = CliRunner().invoke(main, ["report", str(place.parent)])
    assert done.exit_code == 0 and done.output.startswith("wrote ")
    return (place / "report.html").read_text()


class Tags(HTMLParser):
    """What a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.loaded, self.handlers = 0, list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script"
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_it_needs_nothing_and_runs_nothing_of_others(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    assert tags.scripts == 1 and not tags.handlers
    assert len(tags.loaded) == 1 and tags.loaded[0].startswith("data:image/png;base64,")
    assert "http" not in re.sub(r"data:[^\"]*", "", text) and "alert(&#x27;x&#x27;)" in text
    assert "<b>" not in text and "&lt;b&gt;paragraph" in text


def test_what_it_says(text: str, place: Path) -> None:
    table = kdtune.table(place)
    for words in (
        "Does it open?",
        "Controls",
        "without rate",
        "Not counted",
        "ValueError",
        "not finished when this was written",
    ):
        assert words in text
    teacher = table[(table["role"] == "teacher") & (table["rate"] == 0.2)]
    assert f"{teacher['test/accuracy'].mean():.1f}\u00a0±" in text and "3 of 3" in text
    assert "digits 0b9464ec3276aea2" in text and "val/accuracy" in text and "torch" in text
    assert "distillation:" in text, "sweep.yaml"
    assert "A99" in text and "inconclusive" in text and "A98" not in text
    assert text.count("<tr>") > len(table)


def test_another_place_and_what_is_not_there(place: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(place), "--output", str(tmp_path / "mine.html")])
    assert done.exit_code == 0 and (tmp_path / "mine.html").read_text().startswith("<!doctype html>")
    lost = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert lost.exit_code == 2 and "no results here" in lost.output
    full = CliRunner().invoke(main, ["report", str(place), "--output", str(tmp_path / "no/folder.html")])
    assert full.exit_code == 4 and "folder.html" in full.output


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here: apt-get install chromium")
def test_a_click_sorts_in_a_browser(text: str, place: Path, tmp_path: Path) -> None:
    """By the first table's third column, test/accuracy: once rising, twice falling."""
    click = """<script>
    const table = document.querySelector("table");
    const heads = table.querySelectorAll("th");
    const column = Array.from(heads).findIndex(head => head.textContent.includes("accuracy"));
    const first = row => row.cells[column].textContent.split("\u00a0")[0];
    const values = () => Array.from(table.tBodies[0].rows).map(first);
    heads[column].click(); const rising = values();
    heads[column].click(); const falling = values();
    document.title = "SORTED " + JSON.stringify([rising, falling]);
    </script></body>"""
    (tmp_path / "clicked.html").write_text(text.replace("</body>", click))
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    words += [f"--user-data-dir={tmp_path / 'profile'}"]
    page = (tmp_path / "clicked.html").as_uri()
    done = subprocess.run([*words, "--dump-dom", page], capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r"<title>SORTED (.*?)</title>", done.stdout)
    assert found is not None, done.stderr[-500:]
    rising, falling = json.loads(found[1].replace("&quot;", '"'))
    numbers = [float(each) for each in rising if each != "-"]
    assert len(numbers) >= 3 and numbers == sorted(numbers) and falling[0] == str(rising[-1])
