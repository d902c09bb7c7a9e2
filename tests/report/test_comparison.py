"""Means over seeds as scipy has them, pairs by seed, no mean over an axis in silence; as text, CSV, Markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.report.comparison import Asked, Cell, compared, written
from kdtune.report.table import TableError

SEEDS = 5


def table(**changes: Any) -> pd.DataFrame:
    """Students at three rates and two lengths, and a teacher for each; rate 0.5 is 3 points better, rate 0.2 hardly."""
    drawn = np.random.default_rng(0)
    of_seed = drawn.normal(0, 5, SEEDS)
    rows = []
    for rate, better in ((0.0, 0.0), (0.2, 0.1), (0.5, 3.0)):
        for epochs in (10, 20):
            for seed in reversed(range(SEEDS)):
                accuracy = 80 + of_seed[seed] + better + epochs / 10 + drawn.normal(0, 0.5)
                rows.append(
                    ["student", rate, epochs, seed, f"s{rate}{epochs}{seed}", "done", accuracy, 0.4 - better / 50]
                )
        rows.append(["teacher", rate, 10, 0, f"t{rate}", "done", 95.0, 0.1])
    names = ["role", "dropout", "epochs", "seed", "id", "state", "test/accuracy", "test/nll"]
    frame = pd.DataFrame(rows, columns=names)
    frame.attrs = {
        "sweep": "small",
        "axes": json.dumps(["dropout", "epochs"]),
        "headlines": json.dumps(["test/accuracy"]),
    }
    return frame


def values(frame: pd.DataFrame, rate: float, epochs: int) -> pd.Series:
    rows = frame[(frame["dropout"] == rate) & (frame["epochs"] == epochs) & (frame["role"] == "student")]
    return rows.set_index("seed")["test/accuracy"].sort_index()


def test_a_cell_is_the_mean_and_its_interval_and_differs_by_a_paired_test() -> None:
    frame = table()
    found = compared([frame], Asked(rows=("dropout", "epochs"), baseline={"dropout": 0.0}))
    assert found.heads == ["dropout", "epochs"] and found.titles == ["test/accuracy"] and len(found.lines) == 6
    for (rate, epochs), (cell,) in found.lines:
        own, base = values(frame, float(rate), int(epochs)), values(frame, 0.0, int(epochs))
        low, high = stats.t.interval(0.95, SEEDS - 1, own.mean(), stats.sem(own))
        assert cell is not None and cell.interval is not None and cell.planned == SEEDS
        assert cell.interval.mean == pytest.approx(own.mean())
        assert (cell.interval.low, cell.interval.high) == (pytest.approx(low), pytest.approx(high))
        expected = float(rate) > 0 and stats.ttest_rel(own, base).pvalue < 0.05
        assert cell.differs == expected
    assert [cells[0].differs for _, cells in found.lines if cells[0]].count(True) >= 2, "unpaired, none would"


def test_a_run_counts_once_and_one_that_is_not_done_only_as_planned() -> None:
    frame = table()
    frame = pd.concat([frame, frame[frame["dropout"] == 0.2]])  # asked for at two places
    frame.loc[(frame["id"] == "s0.5101"), ["state", "test/accuracy"]] = ["failed", None]
    frame.attrs = table().attrs
    found = compared([frame], Asked(rows=("dropout",), only={"epochs": 10}))
    counts = {names[0]: (cells[0].interval.n, cells[0].planned) for names, cells in found.lines if cells[0]}  # type: ignore[union-attr]
    assert counts == {"0": (5, 5), "0.2": (5, 5), "0.5": (4, 5)}
    assert "(4 of 5)" in written(found, "text")


def test_an_axis_across() -> None:
    frame = table()[lambda each: (each["dropout"] != 0.5) | (each["epochs"] == 20)]
    frame.attrs = table().attrs
    found = compared([frame], Asked(rows=("dropout",), across="epochs", baseline={"dropout": 0.0}))
    assert found.titles == ["test/accuracy, epochs=10", "test/accuracy, epochs=20"]
    assert [names for names, _ in found.lines] == [["0"], ["0.2"], ["0.5"]]
    assert found.lines[2][1][0] is None and found.lines[2][1][1] is not None
    assert written(found, "text").splitlines()[3].split()[:2] == ["0.5", "-"]


def test_several_sweeps_stand_one_below_the_other() -> None:
    other = table()
    other.attrs = table().attrs | {"sweep": "other"}
    found = compared([table(), other], Asked(rows=("dropout",), only={"epochs": 20}))
    assert (
        found.heads == ["sweep", "dropout"] and [names[0] for names, _ in found.lines] == ["small"] * 3 + ["other"] * 3
    )
    other.attrs |= {"headlines": json.dumps(["test/nll"])}
    with pytest.raises(TableError, match=r"other columns .*--columns"):
        compared([table(), other], Asked(rows=("dropout",), only={"epochs": 20}))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(rows=("dropout",)), "dropout=0: a mean would be over epochs too; add it to --rows"),
        (Asked(rows=("dropuot",)), "there is no axis 'dropuot'; its axes: dropout, epochs"),
        (Asked(rows=("dropout",), across="epoch"), "no axis 'epoch'"),
        (Asked(rows=("dropout",), only={"sigma": 1}), "no axis 'sigma'"),
        (Asked(rows=("dropout",), columns=("test/acc",)), "has no test/acc; there is test/accuracy, test/nll"),
        (Asked(rows=("dropout",), only={"epochs": 30}), "no run is as --only asks"),
        (Asked(rows=("epochs",), only={"dropout": 0.2}, baseline={"dropout": 0.0}), "dropout is neither in --rows"),
        (Asked(rows=("dropout", "epochs"), baseline={"dropout": 0.7}), "dropout=0.7: no run that is shown has that"),
    ],
)
def test_what_is_refused(asked: Asked, said: str) -> None:
    with pytest.raises(TableError, match=said):
        compared([table()], asked)


def test_other_seeds_are_no_reason_to_average_over_an_axis() -> None:
    frame = table()
    odd = (frame["epochs"] == 10) & (frame["seed"] >= 3) | (frame["epochs"] == 20) & (frame["seed"] < 3)
    frame = frame[odd & (frame["role"] == "student")].reset_index(drop=True)
    frame.attrs = table().attrs
    with pytest.raises(TableError, match="a mean would be over epochs too"):
        compared([frame], Asked(rows=("dropout",)))


def test_teachers_where_they_are_asked_for() -> None:
    found = compared([table()], Asked(rows=("dropout",), only={"role": "teacher"}))
    assert [cells[0].interval.mean for _, cells in found.lines if cells[0]] == [95.0] * 3  # type: ignore[union-attr]
    assert written(found, "text").splitlines()[1].split() == ["0", "95.0"], "one run has no interval"


def test_a_flag_and_a_difference_are_explained() -> None:
    frame = table()
    frame["robust/pgd20"] = 50.0 + frame["seed"]
    frame["flags/zero_gradient"] = (frame["dropout"] == 0.2).astype(float)
    frame.attrs = table().attrs
    asked = Asked(
        rows=("dropout",), columns=("test/accuracy", "robust/pgd20"), only={"epochs": 20}, baseline={"dropout": 0}
    )
    text = written(compared([frame], asked), "text").splitlines()
    assert text[2].rstrip().endswith("!") and text[-1].startswith("! not to be believed")
    assert any(line.startswith("* differs from dropout=0") for line in text)


def test_formats() -> None:
    asked = Asked(
        rows=("dropout",), columns=("test/accuracy", "test/nll"), only={"epochs": 20}, baseline={"dropout": 0.0}
    )
    found = compared([table()], asked)
    rows = list(csv.DictReader(io.StringIO(written(found, "csv"))))
    assert len(rows) == 6 and rows[0]["metric"] == "test/accuracy" and rows[4]["differs"] == "1"
    own = values(table(), 0.5, 20)
    assert float(rows[4]["mean"]) == own.mean() and rows[4]["n"] == rows[4]["planned"] == "5"
    lines = written(found, "md").splitlines()
    assert lines[0] == "| dropout | test/accuracy | test/nll |" and lines[1] == "| --- | ---: | ---: |"
    assert f"**{own.mean():.1f} ± " in lines[4] and "**" not in lines[2]
    assert lines[-1].startswith("bold: differs from dropout=0: ") and lines[-3].startswith("±: half of the 95 %")
    latex = written(found, "latex")
    notes = [line for line in latex.splitlines() if line.startswith("% ")]
    assert [note.partition(" ")[2][:6] for note in notes] == ["needs ", "+-: ha", "bold: "]
    assert rf"$\mathbf{{{own.mean():.1f} \pm " in latex and r"\toprule" in latex and r"0.400 \pm 0.000" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_is_latex(tmp_path: Path) -> None:
    frame = table().rename(columns={"dropout": "a_b&%"})
    frame.attrs = table().attrs
    body = written(compared([frame], Asked(rows=("a_b&%", "epochs"), baseline={"a_b&%": 0.0})), "latex")
    (tmp_path / "t.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    )
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-500:]


def test_a_cell_without_a_number() -> None:
    assert Cell(None, 5).half is None


def test_the_command(write_sweep: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    options = Options(write_sweep(), results=str(results), data=str(tmp_path), here=True, verbosity=-1)
    assert run(options) == 0
    folder = str(results / "small")

    def command(*words: str) -> Any:
        return CliRunner().invoke(main, ["table", folder, *words])

    shown = command("--rows", "rate", "--columns", "test/accuracy,val/accuracy", "--baseline", "rate=0.0")
    assert shown.exit_code == 0 and shown.output.splitlines()[0].split() == ["rate", "test/accuracy", "val/accuracy"]
    assert command("--rows", "rate", "--format", "csv").output.startswith("rate,metric,mean,low,high,n,planned")
    assert command().output == (results / "small/paper/results.csv").read_text()
    for words, said in {
        ("--rows", "raet"): "no axis 'raet'",
        ("--columns", "test/accuracy"): "say with --rows",
        ("--format", "md"): "a whole table is CSV",
        ("--rows", "rate", "--only", "rate"): "write axis=value",
    }.items():
        refused = command(*words)
        assert refused.exit_code == 2 and said in refused.output
