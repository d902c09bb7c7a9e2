"""Figures from tables alone: the numbers drawn against hand computations, and what incomplete tables make them say."""

from __future__ import annotations

import csv
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from kdtune.report.table import to_parquet

ANALYSIS = Path(__file__).parents[1] / "analysis"
T = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764}  # Student's t, 97.5 %, for n values: from printed tables
LENGTHS = {0.0: (200, 250, 350), 0.1: (250,), 0.4: (350,)}
Row = dict[str, Any]


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; its pictures are small."""
    monkeypatch.syspath_prepend(str(ANALYSIS))
    import fickle

    monkeypatch.setitem(fickle.figure.LOOK, "savefig.dpi", 30)
    return fickle


@pytest.fixture
def fickle(rendered: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module that writes no pictures, for speed: figures are drawn, but not to pixels."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    return rendered


def rows(
    seeds: int = 5, robust: bool = True, shift: bool = True, lengths: dict[float, tuple[int, ...]] = LENGTHS
) -> list[Row]:
    """A fickle sweep: a pool of three teachers a rate, of which number 1 taught."""
    draw = random.Random(7)
    found: list[Row] = []

    def add(role: str, rate: float, seed: int, level: float, **more: Any) -> None:
        row = {"id": f"{role}-{rate}-{more.get('epochs', '')}-{seed}", "role": role, "seed": seed, "state": "done"}
        accuracy = level + draw.gauss(0, 0.2)
        row |= {"dropout": rate, **more, "test/accuracy": accuracy}
        if shift:
            row["shift/cinic"] = accuracy - 20 + draw.gauss(0, 0.2)
        if robust:
            row |= {"robust/pgd10": 9.0, "robust/pgd20": draw.uniform(4, 5), "robust/pgd20@0.06": draw.uniform(1, 2)}
            row |= {"robust/pgd20/worst": 0.5, "robust/pgd20/unconditional": 3.0}
        found.append(row)

    for rate, epochs in lengths.items():
        for seed in range(3):
            add("teacher", rate, seed, 95 - rate)
        for length in epochs:
            for seed in range(seeds):
                taught = {"teacher.id": f"teacher-{rate}--1", "teacher.dropout": rate, "recipe.epochs": length}
                add("student", rate, seed, 94 + rate + length / 1000, epochs=length, **taught)
    return found


def write(folder: Path, table: list[Row], dataset: str = "CIFAR-10", profile: str = "paper", **about: str) -> Path:
    target = folder / "fickle" / profile
    target.mkdir(parents=True)
    about = {"sweep": "fickle", "profile": profile, "dataset": dataset, **about}
    (target / "results.parquet").write_bytes(to_parquet(table, about))
    return folder / "fickle"


def draw(fickle: Any, folder: Path, *arguments: str) -> int:
    return int(fickle.figure.command("test", fickle.make, [str(folder), *arguments]))


def drawn(folder: Path) -> list[dict[str, str]]:
    with open(next(folder.rglob("fickle.csv")), newline="") as file:
        return list(csv.DictReader(file))


def find(
    data: list[dict[str, str]],
    series: str,
    rate: float,
    epochs: int | str = "",
    metric: str = "test/accuracy",
    mark: str = "mean",
) -> list[dict[str, str]]:
    wanted = {"series": series, "dropout": str(rate), "epochs": str(epochs), "metric": metric, "mark": mark}
    return [row for row in data if all(row[key] == value for key, value in wanted.items())]


def check(row: dict[str, str], values: list[float]) -> None:
    reach = T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    assert int(row["n"]) == len(values)
    assert float(row["value"]) == pytest.approx(mean)
    assert (float(row["low"]), float(row["high"])) == pytest.approx((mean - reach, mean + reach), abs=1e-4)


def student(table: list[Row], rate: float, epochs: int, metric: str = "test/accuracy") -> dict[int, float]:
    return {
        row["seed"]: row[metric]
        for row in table
        if row["role"] == "student" and (row["dropout"], row["epochs"], row["state"]) == (rate, epochs, "done")
    }


def texts(figure: Any) -> str:
    """Everything written in a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def figure_of(fickle: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    """The figure itself, as it is handed over to be saved."""
    kept = []
    monkeypatch.setattr(fickle.figure, "save", lambda figure, *_: kept.append(figure) or [])
    assert draw(fickle, folder) == 0
    return kept[0]


def test_the_csv_holds_means_intervals_and_single_runs(fickle: Any, tmp_path: Path) -> None:
    table = rows()
    assert draw(fickle, write(tmp_path, table)) == 0
    data = drawn(tmp_path)
    for metric in ("test/accuracy", "shift/cinic", "robust/pgd20", "robust/pgd20@0.06"):
        for rate, lengths in LENGTHS.items():
            for epochs in lengths:
                values = student(table, rate, epochs, metric)
                check(*find(data, "student", rate, epochs, metric), list(values.values()))
                singles = find(data, "student", rate, epochs, metric, "run")
                assert {int(row["seed"]): float(row["value"]) for row in singles} == pytest.approx(values)
            pool = [row for row in table if row["role"] == "teacher" and row["dropout"] == rate]
            check(*find(data, "teacher", rate, metric=metric), [row[metric] for row in pool])
    assert {row["metric"] for row in data} == {"test/accuracy", "shift/cinic", "robust/pgd20", "robust/pgd20@0.06"}
    assert {row["id"] for row in data if row["taught"]} == {f"teacher-{rate}--1" for rate in LENGTHS}


def test_gains_are_paired_by_seed_with_the_hinton_of_the_same_length(fickle: Any, tmp_path: Path) -> None:
    table = rows()
    random.Random(3).shuffle(table)  # the order of rows means nothing
    draw(fickle, write(tmp_path, table))
    data = drawn(tmp_path)
    for metric in ("test/accuracy", "shift/cinic", "robust/pgd20"):
        for rate, epochs in ((0.1, 250), (0.4, 350)):
            ours = student(table, rate, epochs, metric)
            for series, against in (("gain, equal length", epochs), ("gain, shortest Hinton", 200)):
                hinton = student(table, 0.0, against, metric)
                (found,) = find(data, series, rate, epochs, metric)
                check(found, [ours[seed] - hinton[seed] for seed in range(5)])
                assert found["against_epochs"] == str(against)


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 4), arm=st.sampled_from([(0.0, 250), (0.1, 250)]), failed=st.booleans())
def test_a_dropped_seed_leaves_the_point_and_its_pairs(
    fickle: Any, tmp_path_factory: pytest.TempPathFactory, seed: int, arm: tuple[float, int], failed: bool
) -> None:
    table = rows(robust=False, shift=False, lengths={0.0: (200, 250), 0.1: (250,)})
    lost = next(r for r in table if r["role"] == "student" and (r["dropout"], r["epochs"], r["seed"]) == (*arm, seed))
    if failed:
        lost["state"] = "failed"  # a metric of an unfinished run is not drawn, even where one stands
    else:
        table.remove(lost)
    folder = tmp_path_factory.mktemp("dropped")
    draw(fickle, write(folder, table))
    data = drawn(folder)
    ours, hinton = student(table, 0.1, 250), student(table, 0.0, 250)
    (point,) = find(data, "student", *arm)
    assert (point["n"], point["planned"]) == ("4", "5")  # as many as the other points have
    (gain,) = find(data, "gain, equal length", 0.1, 250)
    check(gain, [ours[s] - hinton[s] for s in range(5) if s != seed])


def test_missing_runs_are_said(fickle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows()
    table[-1]["state"], table[0]["state"] = "failed", "diverged"
    written = texts(figure_of(fickle, monkeypatch, write(tmp_path, table)))
    assert "32 of 34 runs; 1 diverged, 1 failed" in written
    assert "5 student seeds, pools of 3 teachers" in written
    assert "n=4" in written and "n=2" in written


def test_a_missing_measurement_is_said(fickle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows()
    del table[-1]["robust/pgd20"]
    draw(fickle, write(tmp_path, table))
    assert "robust/pgd20: not measured in 1 of 34 finished runs" in capsys.readouterr().out


def test_one_seed_has_no_interval(fickle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, rows(seeds=1))
    draw(fickle, folder)
    assert "A single run has no interval" in texts(figure_of(fickle, monkeypatch, folder))
    for row in drawn(tmp_path):
        if row["series"] != "teacher" and row["mark"] == "mean":
            assert (row["n"], row["low"], row["high"]) == ("1", "", "") and row["value"]


@pytest.mark.parametrize(
    ("dataset", "stated"),
    [
        ("CIFAR-10", True),
        ("CIFAR-10 (JPEG q75)", False),
        ("digits (scikit-learn, 8 x 8)", False),
        ("CIFAR-100", False),
    ],
)
def test_paper_levels_only_on_the_papers_data(
    fickle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, stated: bool
) -> None:
    figure = figure_of(fickle, monkeypatch, write(tmp_path, rows(), dataset=dataset))
    written = texts(figure)
    assert dataset in written
    for label in ("94.28", "94.67", "0.15", "0.39", "paper: Hinton", "paper: Fickle Teacher"):
        assert (label in written) is stated
    levels = [line.get_ydata()[0] for axes in figure.axes for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert ({94.28, 94.67, 0.15, 0.39} <= set(levels)) is stated


def test_a_laptop_figure_disclaims_verdicts(fickle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop = texts(figure_of(fickle, monkeypatch, write(tmp_path / "a", rows(), profile="laptop"))).replace("\n", " ")
    assert "directions at most: no verdict on the paper comes from this scale" in laptop
    paper = texts(figure_of(fickle, monkeypatch, write(tmp_path / "b", rows()))).replace("\n", " ")
    assert "no verdict" not in paper


def test_robust_axis_says_what_it_counts(fickle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figure_of(fickle, monkeypatch, write(tmp_path, rows(), attack="eps 0.031, step 0.003"))
    panel = figure.axes[2]
    assert panel.get_title("left") == "robust/pgd20, conditional\neps 0.031, step 0.003"
    assert "right when clean" in panel.get_ylabel() and "minimum over restarts" in panel.get_ylabel()
    assert panel.get_ylim()[0] == 0
    assert "students, eps 0.06" in texts(figure)


def test_selection_by_test_data_is_said(fickle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = rows()
    for row in table:
        if row["role"] == "student":
            row["teacher.metric"] = "test/accuracy"
    written = texts(figure_of(fickle, monkeypatch, write(tmp_path, table))).replace("\n", " ")
    assert "chosen by test/accuracy, which is test data" in written


def steps_10(table: list[Row]) -> None:
    for row in table:
        row["robust/pgd5"] = 12.0
        del row["robust/pgd20"], row["robust/pgd20@0.06"]


def teachers_only(table: list[Row]) -> None:
    table[:] = [row for row in table if row["role"] == "teacher"]


def students_only(table: list[Row]) -> None:
    table[:] = [row for row in table if row["role"] == "student"]


def nothing_done(table: list[Row]) -> None:
    for row in table:
        row["state"] = "new"


def no_hinton(table: list[Row]) -> None:
    table[:] = [row for row in table if row["dropout"] > 0]


def short_hinton_only(table: list[Row]) -> None:
    table[:] = [row for row in table if row["dropout"] > 0 or row.get("epochs", 200) == 200]


def no_length_axis(table: list[Row]) -> None:
    table[:] = [row for row in table if row["dropout"] > 0 or row.get("epochs", 200) == 200]
    for row in table:
        row.pop("epochs", None)
        row["recipe.epochs"] = 20


def given_teacher(table: list[Row]) -> None:
    table[:] = [row for row in table if row["role"] == "student" or row["seed"] == 0]
    for row in table:
        row["seed"] = None if row["role"] == "teacher" else row["seed"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (steps_10, "robust/pgd10: mean"),
        (teachers_only, "note: no student has finished"),
        (students_only, "note: no teachers in the table"),
        (nothing_done, "0 of 19 runs; 19 new"),
        (no_hinton, "no Hinton as long as the students at dropout 0.1, 0.4"),
        (short_hinton_only, "no Hinton as long as the students at dropout 0.1, 0.4"),
        (no_length_axis, "gain over  20"),
        (given_teacher, "pools of 1 teacher"),
    ],
)
def test_incomplete_tables_are_drawn_and_say_so(
    rendered: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[list[Row]], None], said: str
) -> None:
    table = rows(shift=False, seeds=2)
    change(table)
    assert draw(rendered, write(tmp_path, table)) == 0
    assert said in capsys.readouterr().out
    assert (tmp_path / "fickle/paper/figures/fickle.png").is_file()


def test_what_was_not_measured_is_left_out(fickle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw(fickle, write(tmp_path, rows(robust=False, shift=False))) == 0
    printed = capsys.readouterr().out
    assert "no shifted set was measured: left out" in printed
    assert "no accuracy under PGD was measured: left out" in printed
    assert {row["metric"] for row in drawn(tmp_path)} == {"test/accuracy"}


def test_the_listing_fits_a_terminal(fickle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(fickle, write(tmp_path, rows()))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("wrote")) <= 80
    assert [line.split("/")[-1] for line in lines[-3:]] == ["fickle.png", "fickle.pdf", "fickle.csv"]


def test_a_further_axis_is_refused(fickle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(lengths={0.0: (200,)})
    again = [row | {"id": f"{row['id']}x", "distillation.temperature": 8} for row in table if row["role"] == "student"]
    assert draw(fickle, write(tmp_path, [row | {"distillation.temperature": 4} for row in table] + again)) == 2
    assert "several runs of one seed, which differ in distillation.temperature" in capsys.readouterr().err


def test_pools_of_two_lengths_are_refused(fickle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(lengths={0.0: (200,)})
    pool = [row | {"recipe.epochs": 200} for row in table if row["role"] == "teacher"]
    longer = [row | {"id": f"{row['id']}x", "recipe.epochs": 300} for row in pool]
    assert draw(fickle, write(tmp_path, pool + longer)) == 2
    assert "role teacher" in (error := capsys.readouterr().err) and "recipe.epochs" in error


def test_a_sweep_over_other_axes_is_refused(fickle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = [{key: value for key, value in row.items() if key != "dropout"} for row in rows()]
    assert draw(fickle, write(tmp_path, table)) == 2
    assert "no axis `dropout`" in capsys.readouterr().err


def test_equal_tables_give_equal_files(rendered: Any, tmp_path: Path) -> None:
    folder = write(tmp_path, rows(seeds=2, shift=False, robust=False))
    for name in ("a", "b"):
        assert draw(rendered, folder, "--output", str(tmp_path / name)) == 0
    for kind in ("png", "pdf", "csv"):
        assert (tmp_path / f"a/fickle.{kind}").read_bytes() == (tmp_path / f"b/fickle.{kind}").read_bytes()


def test_as_a_script(tmp_path: Path) -> None:
    """In a process of its own: files that are not blank."""
    folder = write(tmp_path, rows())
    done = subprocess.run(
        [sys.executable, ANALYSIS / "fickle.py", folder],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ANALYSIS.parent)},
    )
    assert done.returncode == 0, done.stderr
    image = imread(folder / "paper/figures/fickle.png")[..., :3]
    assert image.shape[1] > 1000 and np.mean(image.min(axis=2) < 0.9) > 0.01 and len(np.unique(image)) > 50
    pdf = (folder / "paper/figures/fickle.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "no results here"),
        (("fickle", "--profile", "quick"), "no profile 'quick' here"),
        (("fickle",), "name one with --profile: laptop, paper"),
    ],
)
def test_no_table_is_a_usage_error(
    fickle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    for profile in ("paper", "laptop"):
        write(tmp_path, rows(seeds=2), profile=profile)
    assert draw(fickle, tmp_path / arguments[0], *arguments[1:]) == 2
    assert said in capsys.readouterr().err


def test_paper_yaml_is_whole() -> None:
    paper = yaml.safe_load((ANALYSIS / "paper.yaml").read_text(encoding="utf-8"))
    assert set(paper["claims"]) == {f"A{number}" for number in range(1, 15)}
    for claim in paper["claims"].values():
        assert set(claim) == {"claim", "metric", "where", "stated"} and claim["where"].startswith("Fig")
    for value in (*paper["values"].values(), *paper["counts"].values()):
        assert isinstance(value["value"], float | int) and value["origin"]
        assert value["certainty"] in ("paper", "inferred")
    table = paper["label_noise"]
    for metric in ("test/accuracy", "shift/cinic"):
        assert len(table[metric]) == 8
        assert all(len(cells) == len(table["corruption"]) for cells in table[metric].values())
    accuracy = {name: np.array(cells) for name, cells in table["test/accuracy"].items()}
    gains = [accuracy[f"r {r}"] - accuracy["r 0"] for r in (0.05, 0.1, 0.15, 0.25, 0.5)]
    # Sums of the printed table, known from its reading: a slip in any cell of these rows shows.
    assert np.mean(gains) == pytest.approx(0.11, abs=0.005) and int((np.array(gains) > 0).sum()) == 18
    assert (accuracy["r 0"] - accuracy["teacher"]).round(2).tolist() == [-0.05, 1.34, 2.82, 6.38, 12.44]
    assert (accuracy["r 0"] - accuracy["wrn-16-2"]).round(2).tolist() == [2.05, 3.80, 5.87, 9.25, 11.36]
