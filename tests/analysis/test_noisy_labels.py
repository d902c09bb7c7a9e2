"""Figures 9 and 10 from tables alone: cells by hand, bold where Holm says, the paper's numbers where it has them."""

from __future__ import annotations

import csv
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel

from kdtune.report.table import to_parquet

ANALYSIS = Path(__file__).parents[2] / "analysis"
T = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764}  # Student's t, 97.5 %, for n values: from printed tables
TABLE = ("figure10.tex", "figure10-standalone.tex", "figure10.md", "figure10.csv")
Row = dict[str, Any]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module that draws, but writes no pixels."""
    monkeypatch.syspath_prepend(str(ANALYSIS))
    import noisy_labels

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    yield noisy_labels


def rows(
    seeds: int = 5, c: tuple[float, ...] = (0.1, 0.3, 0.5), r: tuple[float, ...] = (0.0, 0.1, 0.5), gain: float = 0.0
) -> list[Row]:
    """Teachers, lone and taught students; each seed has a level of its own, on which r adds `gain` times r."""
    draw = random.Random(3)
    found: list[Row] = []

    def add(role: str, rate: float, seed: int, level: float, **more: Any) -> None:
        row = {"id": f"{role}{rate}{more}{seed}", "role": role, "seed": seed, "state": "done", "c": rate, **more}
        found.append(row | {"test/accuracy": level, "shift/cinic": level - 20 + draw.gauss(0, 0.3)})

    for rate in c:
        own = [90 - 40 * rate + draw.gauss(0, 2) for _ in range(seeds)]
        for seed in range(seeds):
            add("teacher", rate, seed, 89 - 40 * rate + draw.gauss(0, 1))
            add("student", rate, seed, own[seed] - 3, r=0.0, model="wrn-16-2")
            for redrawn in r:
                taught = {"distillation.alpha": 0.9, "teacher.id": f"teacher{rate}{{}}0"}
                add("student", rate, seed, own[seed] + gain * redrawn + draw.gauss(0, 0.1), r=redrawn, **taught)
    return found


def write(folder: Path, table: list[Row], dataset: str = "CIFAR-10", profile: str = "paper") -> Path:
    target = folder / "noisy_labels" / profile
    target.mkdir(parents=True)
    about = {"sweep": "noisy_labels", "profile": profile, "dataset": dataset}
    about["axes"] = json.dumps(["c", "r"])
    about["headlines"] = json.dumps(["test/accuracy", "shift/cinic"])
    (target / "results.parquet").write_bytes(to_parquet(table, about))
    return target


def make(script: Any, results: Path, *, drawn: bool = False) -> Path:
    """The folder of figure 10, and of figure 9 where it is `drawn`, which takes a second."""
    makers = [*(script.figures(script.figure9) if drawn else ()), script.figure10]
    assert script.command("test", makers, [str(results)]) == 0
    return results / "figures"


def refused(script: Any, results: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert script.command("test", [*script.figures(script.figure9), script.figure10], [str(results)]) == 2
    return capsys.readouterr().err


def values(table: list[Row], c: float, r: float, metric: str = "test/accuracy") -> list[float]:
    """Of the taught students that finished, by seed."""
    asked = [row for row in table if "teacher.id" in row and (row["c"], row["r"], row["state"]) == (c, r, "done")]
    return [row[metric] for row in sorted(asked, key=lambda row: row["seed"])]


def data(folder: Path, name: str = "figure10.csv") -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def means(folder: Path, **where: str) -> list[dict[str, str]]:
    where = {"mark": "mean", "source": "ours", "metric": "test/accuracy"} | where
    return [row for row in data(folder) if all(row[key] == value for key, value in where.items())]


def cells(text: str, start: str) -> list[str]:
    """The first row of the tabular that starts so, without its label."""
    line = next(line for line in text.splitlines() if line.startswith(f"{start} &"))
    return [cell.strip() for cell in line.removesuffix(r"\\").split("&")][1:]


def test_cells_are_means_and_half_intervals_beside_the_papers(script: Any, tmp_path: Path) -> None:
    table = rows()
    folder = make(script, write(tmp_path, table))
    text = (folder / "figure10.tex").read_text()
    for r, label, stated in ((0.0, "r 0 (Hinton)", ("90.71", "67.97")), (0.5, "r 0.5", ("90.96", "68.54"))):
        row = cells(text, label)
        for place, c in enumerate((0.1, 0.3, 0.5)):
            there = values(table, c, r)
            half = T[5] * statistics.stdev(there) / math.sqrt(5)
            (found,) = means(folder, c=str(c), r=str(r), row=label)
            assert float(found["value"]) == pytest.approx(statistics.mean(there))
            assert float(found["high"]) - float(found["value"]) == pytest.approx(half, rel=1e-4)
            assert row[2 * place] == rf"{statistics.mean(there):.2f}$\,\pm\,${half:.2f}"
        assert row[1::2] == [rf"\textit{{{stated[0]}}}", "", rf"\textit{{{stated[1]}}}"]  # the paper has no c 0.3


def test_the_papers_numbers_stand_only_at_its_rates(script: Any, tmp_path: Path) -> None:
    folder = make(script, write(tmp_path, rows(c=(0.05, 0.25, 0.4), r=(0.0, 0.2, 0.25))))
    stated = {
        (row["metric"], row["row"], row["c"]): float(row["value"])
        for row in data(folder)
        if row["source"] == "arXiv 1910.05057 v1, CIFAR-10"
    }
    assert stated == {
        ("test/accuracy", "teachers", "0.05"): 92.61,
        ("test/accuracy", "teachers", "0.25"): 78.94,
        ("test/accuracy", "student alone", "0.05"): 90.51,
        ("test/accuracy", "student alone", "0.25"): 76.07,
        ("test/accuracy", "r 0 (Hinton)", "0.05"): 92.56,
        ("test/accuracy", "r 0 (Hinton)", "0.25"): 85.32,
        ("test/accuracy", "r 0.25", "0.05"): 92.60,
        ("test/accuracy", "r 0.25", "0.25"): 84.98,
        ("shift/cinic", "teachers", "0.05"): 66.22,
        ("shift/cinic", "teachers", "0.25"): 53.63,
        ("shift/cinic", "student alone", "0.05"): 63.22,
        ("shift/cinic", "student alone", "0.25"): 50.08,
        ("shift/cinic", "r 0 (Hinton)", "0.05"): 65.62,
        ("shift/cinic", "r 0 (Hinton)", "0.25"): 56.68,
        ("shift/cinic", "r 0.25", "0.05"): 65.92,
        ("shift/cinic", "r 0.25", "0.25"): 56.60,
    }


@pytest.mark.parametrize("gain", [-1.0, 0.0, 0.25, 0.5, 3.0])
def test_bold_is_the_best_rate_where_holm_finds_it_above_hinton(script: Any, tmp_path: Path, gain: float) -> None:
    rates = (0.1, 0.25, 0.5)
    table = rows(r=(0.0, *rates), gain=gain)
    folder = make(script, write(tmp_path, table))
    bold = {(row["metric"], row["c"], row["r"]) for row in data(folder) if row["bold"] == "True"}
    expected = set()
    for metric in ("test/accuracy", "shift/cinic"):
        for c in (0.1, 0.3, 0.5):
            hinton = values(table, c, 0.0, metric)
            p = {r: ttest_rel(values(table, c, r, metric), hinton).pvalue for r in rates}
            holm, worst = {}, 0.0
            for rank, r in enumerate(sorted(p, key=lambda r: p[r])):
                worst = holm[r] = max(worst, min(1.0, (len(p) - rank) * p[r]))
            best = max((0.0, *rates), key=lambda r: statistics.mean(values(table, c, r, metric)))
            if best and holm[best] < 0.05:
                expected.add((metric, str(c), str(best)))
    assert bold == expected
    assert bool(bold) == (gain >= 0.5) or gain == 0.25
    assert (folder / "figure10.tex").read_text().count(r"\textbf{") == 1 + len(bold)  # the title is bold too
    assert (folder / "figure10.md").read_text().count("| **") == len(bold)


def test_missing_runs_are_said(script: Any, tmp_path: Path) -> None:
    table = rows()
    lost = [row for row in table if "teacher.id" in row and (row["c"], row["r"]) == (0.1, 0.5)]
    for row in lost[:2]:
        row["state"] = "failed"
    for row in table:
        if "teacher.id" in row and (row["c"], row["r"]) == (0.5, 0.1):
            row["state"] = "pending"
    folder = make(script, write(tmp_path, table))
    text = (folder / "figure10.tex").read_text()
    assert cells(text, "r 0.5")[0].endswith(r"\smash{\textsuperscript{3/5}}")
    assert cells(text, "r 0.1")[4] == r"--\smash{\textsuperscript{0/5}}"
    assert text.count("textsuperscript") == 4  # both metrics
    words = (folder / "figure10.md").read_text()
    assert "| - (0/5) |" in words and "(3/5)" in words and "Fractions: runs that are there" in words


def test_one_seed_gives_no_interval_and_no_bold(script: Any, tmp_path: Path) -> None:
    folder = make(script, write(tmp_path, rows(seeds=1, gain=9)))
    text, words = ((folder / name).read_text() for name in ("figure10.tex", "figure10.md"))
    assert r"\,\pm\," not in text and r"\textbf" not in text.split(r"\toprule")[1]
    assert "a single run, which has no interval" in " ".join(words.split())
    assert all(row["low"] == row["high"] == "" for row in data(folder))


@pytest.mark.parametrize("lost", ["c", "r"])
def test_a_table_without_an_axis_is_refused(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    table = [{name: value for name, value in row.items() if name != lost} for row in rows()]
    assert f"its table has no axis `{lost}`" in refused(script, write(tmp_path, table), capsys)


def test_tables_without_a_finished_run_are_refused(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [row | {"state": "pending"} for row in rows()]
    assert "no finished run has test/accuracy" in refused(script, write(tmp_path, table), capsys)
    assert "no axis" in refused(script, write(tmp_path / "empty", []), capsys)
    named = [row | {"c": f"c{row['c']}"} for row in rows()]
    assert "axis `c` is no number" in refused(script, write(tmp_path / "named", named), capsys)


def test_no_cell_averages_over_another_axis(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows()
    table += [row | {"id": row["id"] + "b", "temperature": 8} for row in table if "teacher.id" in row]
    assert "several runs of one seed" in refused(script, write(tmp_path, table), capsys)


@pytest.mark.parametrize("lacking", ["lone", "teachers", "hinton"])
def test_rows_without_runs_are_left_out(script: Any, tmp_path: Path, lacking: str) -> None:
    kept = {
        "lone": lambda row: row["role"] == "teacher" or "teacher.id" in row,
        "teachers": lambda row: row["role"] == "student",
        "hinton": lambda row: "teacher.id" not in row or row["r"] > 0,
    }[lacking]
    folder = make(script, write(tmp_path, [row for row in rows(gain=9) if kept(row)]))
    labels = {row["row"] for row in data(folder)}
    gone = {"lone": "student alone", "teachers": "teachers", "hinton": "r 0 (Hinton)"}[lacking]
    assert labels == {"teachers", "student alone", "r 0 (Hinton)", "r 0.1", "r 0.5"} - {gone}
    if lacking == "hinton":
        assert not any(row["bold"] == "True" for row in data(folder))


def test_the_table_says_whose_numbers_it_holds(script: Any, tmp_path: Path) -> None:
    folder = make(script, write(tmp_path, rows(), dataset="digits", profile="laptop"))
    for name in ("figure10.tex", "figure10.md"):
        words = " ".join((folder / name).read_text().split())
        assert "profile laptop, on digits" in words and "paper: arXiv 1910.05057 v1, Fig. 10, on CIFAR-10" in words
        assert "means of five seeds, no spread" in words
        assert "direction on digits" in words and "Only directions compare" in words


def test_special_characters_are_escaped(script: Any, tmp_path: Path) -> None:
    folder = make(script, write(tmp_path, rows(), dataset=r"50% of_my {set} #1 & a\b ~ 10^2 $ <x> -- é 中 ±"))
    text = (folder / "figure10.tex").read_text()
    assert r"50\% of\_my \{set\} \#1 \& a\textbackslash{}b \textasciitilde{} 10\textasciicircum{}2 \$" in text
    assert r"\textless{}x\textgreater{} -{}- é [U+4E2D] $\pm$" in text


@pytest.mark.parametrize("c", [(0.5,), (0.1, 0.25, 0.5), (0.0, 0.05, 0.1, 0.15, 0.25, 0.4, 0.5)])
def test_rows_of_a_tabular_are_equally_long(script: Any, tmp_path: Path, c: tuple[float, ...]) -> None:
    folder = make(script, write(tmp_path, rows(c=c)))
    for part in (folder / "figure10.tex").read_text().split(r"\begin{tabular}")[1:]:
        lines = [line for line in part.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
        lengths = set()
        for line in lines:
            spans = [int(piece.split("}")[0]) for piece in line.split(r"\multicolumn{")[1:]]
            lengths.add(line.count(" & ") + 1 + sum(spans) - len(spans))
        assert len(lines) > 10 and len(lengths) == 1


def test_braces_and_groups_are_balanced(script: Any, tmp_path: Path) -> None:
    folder = make(script, write(tmp_path, rows(gain=9), dataset="{half { of } \\{ a set"))
    for name in ("figure10.tex", "figure10-standalone.tex"):
        text = (folder / name).read_text()
        depth = 0
        for character in text.replace(r"\\", "").replace(r"\{", "").replace(r"\}", ""):
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
        assert depth == 0
        assert text.count(r"\begingroup") == text.count(r"\endgroup") == 1
        assert text.count(r"\begin{") == text.count(r"\end{")


def test_settings_the_paper_has_not_are_said_to_be_none_of_its(script: Any, tmp_path: Path) -> None:
    folder = make(script, write(tmp_path, rows(c=(0.4, 0.6))))
    assert not any(row["source"].startswith("arXiv") for row in data(folder))
    assert "paper: it has no number of these settings" in " ".join((folder / "figure10.md").read_text().split())


def test_a_table_of_uneven_rows_is_refused(script: Any) -> None:
    import latex

    with pytest.raises(ValueError, match="columns in one table"):
        latex.tabular("ll", [["a", "b"], ["a"]])


def test_equal_tables_give_equal_files(script: Any, tmp_path: Path) -> None:
    table = rows()
    first = make(script, write(tmp_path / "a", table), drawn=True)
    random.Random(1).shuffle(table)
    second = make(script, write(tmp_path / "b", table), drawn=True)
    for name in (*TABLE[:3], "figure9.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_figure9_pairs_hinton_with_its_teacher_and_with_the_student_alone(script: Any, tmp_path: Path) -> None:
    table = rows()
    folder = make(script, write(tmp_path, table), drawn=True)
    by_id = {row["id"]: row["test/accuracy"] for row in table}
    for c in (0.1, 0.3, 0.5):
        hinton = values(table, c, 0.0)
        lone = [row["test/accuracy"] for row in table if row.get("model") and row["c"] == c]
        expected = {
            "Hinton over its teacher": statistics.mean(hinton) - by_id[f"teacher{c}{{}}0"],
            "Hinton over student alone": statistics.mean(hinton) - statistics.mean(lone),
        }
        for series, value in expected.items():
            where = {"metric": "test/accuracy", "kind": "difference", "series": series, "c": str(c), "mark": "mean"}
            (found,) = (
                row for row in data(folder, "figure9.csv") if all(row[name] == text for name, text in where.items())
            )
            assert float(found["value"]) == pytest.approx(value) and found["n"] == "5"


def test_the_script_runs_alone(tmp_path: Path) -> None:
    results = write(tmp_path, rows(seeds=2, c=(0.1, 0.5)))
    command = [sys.executable, str(ANALYSIS / "noisy_labels.py"), str(results), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pictures = {f"figure9.{kind}" for kind in ("png", "pdf", "csv", "md")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*TABLE, *pictures}


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="no pdflatex; Debian: apt-get install texlive-latex-base texlive-latex-recommended",
)
@pytest.mark.parametrize("dataset", ["CIFAR-10", r"50% of_my {set} #1 & a\b ~ 10^2 $ <x> -- é 中 ± `q'"])
def test_the_table_compiles_alone_and_fits_its_width(script: Any, tmp_path: Path, dataset: str) -> None:
    table = rows(c=(0.05, 0.1, 0.15, 0.25, 0.5), r=(0.0, 0.05, 0.1, 0.15, 0.25, 0.5), gain=3)
    table[-1]["state"] = "failed"
    folder = make(script, write(tmp_path, table, dataset=dataset))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "figure10-standalone.tex"]
    shutil.copy(folder / "figure10-standalone.tex", tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "figure10-standalone.pdf").read_bytes().startswith(b"%PDF")
    assert "Overfull" not in done.stdout
