"""The table, a row a place: its rows, as CSV, as Parquet, read back; and where it is looked for."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import build_plan
from kdtune.report.table import TableError, flat, headlines, profile_folder, read, rows, to_csv, to_parquet
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFileError, load_sweep


def stands(plan, store: Store) -> tuple[Standing, dict]:
    standing = Standing(store, plan.evaluators)
    return standing, standing.states(plan.runs)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Any:
    """The small sweep, finished: its folder, plan, store and rows."""
    root = tmp_path_factory.mktemp("tables")
    file = root / "small.yaml"
    file.write_text(SMALL)
    assert run(Options(file, profile="paper", results=str(root), data=str(root), here=True, verbosity=-1)) == 0
    plan = build_plan(load_sweep(file), root)
    store = Store(root)
    return SimpleNamespace(
        folder=root / "small", plan=plan, store=store, file=file, rows=rows(plan, *stands(plan, store))
    )


def parsed(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


# Rows


def test_a_row_a_run_in_the_order_of_the_plan(done) -> None:
    assert [row["id"] for row in done.rows] == list(done.plan.runs)
    for row, planned in zip(done.rows, done.plan.runs.values(), strict=True):
        assert (row["role"], row["seed"], row["state"]) == (planned.role, planned.run.seed, "done")
        assert row["rate"] == planned.parameters["rate"]
        assert row["recipe.optimizer.sgd.lr"] == 0.1 and row["dataset.name"] == "digits"


def test_a_student_has_the_metrics_of_the_store_and_the_teacher_that_it_chose(done) -> None:
    (hash,) = done.plan.evaluators
    by_id = {row["id"]: row for row in done.rows}
    for id, planned in done.plan.runs.items():
        row = by_id[id]
        for name, value in done.store.evaluation(id, hash).items():
            assert row[name] == value
        if planned.role == "teacher":
            assert not any(name.startswith("teacher.") for name in row)
            continue
        pool = [by_id[teacher] for teacher in planned.waits_for]
        assert row["teacher.id"] in planned.waits_for
        assert by_id[row["teacher.id"]]["val/accuracy"] == max(each["val/accuracy"] for each in pool)
        assert row["teacher.rate"] == by_id[row["teacher.id"]]["rate"]
        assert row["teacher.metric"] == "val/accuracy"


def test_what_is_off_is_left_out(done) -> None:
    shown = {row["rate"]: row for row in done.rows if row["role"] == "student"}
    assert shown[0.2]["noise.teacher.dropout.rate"] == 0.2
    assert "noise.teacher.dropout.rate" not in shown[0.0]


def test_a_run_that_is_not_done_has_no_metrics(done, tmp_path: Path) -> None:
    empty = Store(tmp_path / "empty")
    for row in rows(done.plan, *stands(done.plan, empty)):
        assert row["state"] == "new" and "recipe.epochs" in row
        assert not any("/" in name for name in row), "no metrics"


@pytest.mark.parametrize("axis", ["id", "role", "seed", "state"])
def test_an_axis_cannot_take_the_place_of_a_column(axis: str, tmp_path: Path) -> None:
    """Refused, or both kept. With `id` the command breaks down after all runs are done."""
    path = tmp_path / "x.yaml"
    path.write_text(SMALL.replace("{rate: [", f"{{{axis}: [").replace("$rate", f"${axis}"))
    try:
        plan = build_plan(load_sweep(path), tmp_path)
    except SweepFileError:
        return
    store = Store(tmp_path / "none")
    for row, planned in zip(rows(plan, *stands(plan, store)), plan.runs.values(), strict=True):
        assert row["id"] == planned.id
        assert (row["role"], row["seed"], row["state"]) == (planned.role, planned.run.seed, "new")


# Flat


def test_nested_settings_are_columns_by_their_dotted_path() -> None:
    tree = {"a": {"b": {"c": 0.5}, "list": [0.3, 0.6]}, "flip": {}, "none": None, "text": "x", "pair": (1, 2)}
    assert flat(tree) == {
        "a.b.c": 0.5,
        "a.list": "[0.3, 0.6]",
        "flip": True,
        "none": None,
        "text": "x",
        "pair": "[1, 2]",
    }
    assert flat({"rate": 1}, "noise.") == {"noise.rate": 1}


# CSV


def test_columns_stand_in_order_of_first_appearance_behind_the_four() -> None:
    table = [{"seed": 1, "b": 2, "id": "x"}, {"a": 1, "b": 3, "role": "student"}]
    assert to_csv(table).decode().splitlines() == ["id,role,seed,state,b,a", "x,,1,,2,", ",student,,,3,1"]


def test_columns_do_not_depend_on_what_is_done(done, tmp_path: Path) -> None:
    """The columns that describe a run stand in one order before and after it ran."""
    empty = Store(tmp_path / "empty")
    before = parsed(to_csv(rows(done.plan, *stands(done.plan, empty))))[0]
    after = parsed(to_csv(done.rows))[0]
    kept = [name for name in after if name in before]
    assert kept == list(before)
    assert set(after) - set(before) >= {"test/accuracy", "val/accuracy", "teacher.id"}


def test_the_same_table_is_the_same_bytes_without_carriage_returns(done) -> None:
    assert to_csv(done.rows) == to_csv([dict(row) for row in done.rows])
    assert b"\r" not in to_csv(done.rows)


def test_numbers_come_back_as_they_were() -> None:
    value = 0.1 + 0.2
    (row,) = parsed(to_csv([{"x": value, "big": 10**17, "small": 5e-324}]))
    assert (float(row["x"]), int(row["big"]), float(row["small"])) == (value, 10**17, 5e-324)


@pytest.mark.parametrize("before", ["", "\t", "  ", "\n", "\0", "\x0b\x0c", "\u00a0", "\ufeff", "\u200b \u202e"])
@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("x")', "＝1", "＋1", "－1", "＠A1"])  # noqa: RUF001
def test_text_is_never_a_formula(before: str, text: str) -> None:
    """Spreadsheets run what begins so (OWASP, CSV injection), some of them after a tab or the like (row C13)."""
    (row,) = parsed(to_csv([{"name": before + text}]))
    assert row["name"] == f"'{before}{text}"


def test_a_data_sets_name_is_no_formula() -> None:
    """row C13: a tab before `=1+1` was enough."""
    (row,) = parsed(to_csv([{"dataset": flat({"name": "\t=1+1"})["name"], "\r\n=2": "a\r@b"}]))
    assert row == {"id": "", "role": "", "seed": "", "state": "", "dataset": "'\t=1+1", "'\n=2": "a\n@b"}


def test_negative_numbers_stay_numbers() -> None:
    (row,) = parsed(to_csv([{"gain": -1.5, "n": -2}]))
    assert (row["gain"], row["n"]) == ("-1.5", "-2")


def test_a_heading_is_no_formula_either() -> None:
    (heading, _) = to_csv([{"=1+1": 3}]).decode().splitlines()
    assert not any(cell.startswith("=") for cell in heading.split(","))


TEXT = st.text(st.characters(exclude_characters="\r", codec="utf-8"), max_size=8)


def test_a_carriage_return_ends_no_row() -> None:
    assert len(parsed(to_csv([{"name": "a\r=1+1"}]))) == 1


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), TEXT), min_size=1, max_size=4))
@settings(deadline=None)
def test_any_text_comes_back_and_none_begins_a_formula(table: list[dict[str, str]]) -> None:
    lines = list(csv.reader(io.StringIO(to_csv(table).decode(), newline="")))
    assert len(lines) == len(table) + 1
    for row, cells in zip(table, lines[1:], strict=True):
        cell = dict(zip(lines[0], cells, strict=True))
        for name, text in row.items():
            assert cell[name] in (text, f"'{text}")
            seen = [character for character in cell[name] if character.isprintable() and not character.isspace()]
            assert "".join(seen[:1]) not in [*"=+-@＝＋－＠"]  # noqa: RUF001


# Parquet


def frame(table: list[dict[str, Any]], tmp_path: Path, **about: str) -> Any:
    (tmp_path / "results.parquet").write_bytes(to_parquet(table, about))
    return read(tmp_path)


def test_a_column_has_one_type(tmp_path: Path) -> None:
    table = [
        {"id": "a", "n": 1, "x": 1, "mixed": 1, "flag": True, "text": "t", "late": None},
        {"id": "b", "n": 2, "x": 0.5, "mixed": "[1, 2]", "flag": False},
        {"id": "c", "mixed": True, "late": 0.25},
    ]
    data = frame(table, tmp_path)
    assert list(data.columns) == ["id", "role", "seed", "state", "n", "x", "mixed", "flag", "text", "late"]
    assert data["x"].tolist()[:2] == [1.0, 0.5] and data["x"].dtype == float
    assert data["mixed"].tolist() == ["1", "[1, 2]", "True"]
    assert data["flag"].tolist()[:2] == [True, False]
    assert data["n"].tolist()[:2] == [1, 2] and math.isnan(data["n"].tolist()[2])
    assert data["late"].tolist()[2] == 0.25 and math.isnan(data["late"].tolist()[0])


def test_formulas_stay_text_where_no_spreadsheet_reads(tmp_path: Path) -> None:
    assert frame([{"name": "=1+1"}], tmp_path)["name"].tolist() == ["=1+1"]


def test_the_same_numbers_as_the_csv(done) -> None:
    data = read(done.folder)
    for row, (_, stored) in zip(done.rows, data.iterrows(), strict=True):
        for name, value in row.items():
            assert stored[name] == value, name
    text = parsed((done.folder / "paper" / "results.csv").read_bytes())
    assert list(data.columns) == list(text[0])
    assert [float(row["test/accuracy"]) for row in text] == data["test/accuracy"].tolist()


@pytest.mark.parametrize(
    ("axis", "model"),
    [("[[8], [8, 8]]", "{mlp: {hidden: $size}}"), ("[{mlp: {hidden: [8]}}, {cnn: {width: 4}}]", "$size")],
    ids=["lists", "networks"],
)
def test_axes_of_lists_and_of_networks(axis: str, model: str, tmp_path: Path) -> None:
    """All that a command does with its rows, as it does it when everything is trained."""
    from kdtune.report import summary

    text = SMALL.replace("rate: [0.0, 0.2]", f"rate: 0.2, size: {axis}")
    text = text.replace("student:\n  model: {mlp: {hidden: [8]}}", f"student:\n  model: {model}")
    path = tmp_path / "x.yaml"
    path.write_text(text)
    plan = build_plan(load_sweep(path), tmp_path)
    store = Store(tmp_path / "none")
    table = rows(plan, *stands(plan, store))
    assert len({row["size"] for row in parsed(to_csv(table)) if row["role"] == "student"}) == 2
    assert len(frame(table, tmp_path)) == len(plan.runs)
    assert len([line for line in summary.table(plan, table).splitlines() if line.startswith("student")]) == 2


# Where it is looked for


def test_attrs_say_what_this_is(done) -> None:
    named = {"sweep": "small", "profile": "paper", "dataset": done.plan.dataset}
    lists = {"axes": ["rate"], "headlines": ["test/accuracy"], "lower": ["test/nll", "test/ece", "val/nll", "val/ece"]}
    assert read(done.folder).attrs == named | {"radii": "{}"} | {key: json.dumps(value) for key, value in lists.items()}
    assert headlines(read(done.folder)) == ["test/accuracy"]
    assert "digits" in done.plan.dataset


def test_a_sweeps_folder_a_profiles_folder_and_text(done) -> None:
    inner = done.folder / "paper"
    assert profile_folder(done.folder) == profile_folder(inner) == profile_folder(str(done.folder), "paper") == inner
    assert read(str(inner)).equals(read(done.folder))


def with_profiles(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "results.parquet").write_bytes(to_parquet([{"id": name}], {"profile": name}))
    return root


def test_several_profiles_must_be_chosen_from(tmp_path: Path) -> None:
    root = with_profiles(tmp_path / "fickle", "paper", "laptop", "laptop+12ab")
    with pytest.raises(TableError, match=r"several profiles.*name the folder of one: laptop, laptop\+12ab, paper"):
        read(root)
    assert read(root, "laptop+12ab")["id"].tolist() == ["laptop+12ab"]
    with pytest.raises(TableError, match="no profile 'quick' here; there is laptop"):
        read(root, "quick")


def test_no_results_say_what_makes_them(tmp_path: Path) -> None:
    for folder in (tmp_path / "fickle", with_profiles(tmp_path / "fickle")):
        with pytest.raises(TableError, match=r"fickle: no results here; .*sweeps/fickle\.yaml"):
            read(folder)


def test_the_folder_of_all_results_names_the_sweeps_in_it(tmp_path: Path) -> None:
    for name in ("mine", "fickle"):
        with_profiles(tmp_path / name, "laptop")
    with pytest.raises(TableError, match="results of several sweeps; name the folder of one: fickle, mine"):
        read(tmp_path)


def test_a_profiles_folder_is_not_taken_for_another_profile(tmp_path: Path) -> None:
    root = with_profiles(tmp_path / "fickle", "laptop")
    with pytest.raises(TableError):
        read(root / "laptop", "paper")


# Places


@pytest.fixture(scope="module")
def two_arms(tmp_path_factory) -> Any:
    """Distilled or alone, in the teachers' own architecture (row A5), finished: plan, standing, states, folder."""
    root = tmp_path_factory.mktemp("arms")
    text = SMALL.replace("rate: [0.0, 0.2]", "d: [{alpha: 0.9, temperature: 4}, null]").replace("seeds: 2", "seeds: 4")
    text = text.replace("[8], dropout: $rate", "[8]").replace("tion: {alpha: 0.9, temperature: 4}", "tion: $d")
    (root / "arms.yaml").write_text(text.replace("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""))
    assert (
        run(Options(root / "arms.yaml", profile="paper", results=str(root), data=str(root), here=True, verbosity=-1))
        == 0
    )
    plan = build_plan(load_sweep(root / "arms.yaml"), root)
    return SimpleNamespace(plan=plan, table=rows(plan, *stands(plan, Store(root))), folder=root / "small")


def test_a_run_has_a_row_at_every_place_that_asks_for_it(two_arms) -> None:
    table = two_arms.table
    assert len(table) == 3 + 4 + 4 and len({row["id"] for row in table}) == 3 + 4 + 1
    alone = [row for row in table if row["role"] == "student" and row["d"] is None]
    assert [row["seed"] for row in alone] == [0, 1, 2, 3]
    assert all(row["state"] == "done" and row["test/accuracy"] > 0 for row in alone)
    teachers = {row["id"]: row for row in table if row["role"] == "teacher"}
    for row in alone[:3]:
        twin = teachers[row["id"]]
        assert "d" not in twin and {**twin, "role": "student", "d": None} == row, "the same run, another place"
    data = read(two_arms.folder)
    assert data["id"].tolist() == [row["id"] for row in table]


def test_the_closing_table_has_all_seeds_of_both_arms(two_arms) -> None:
    from kdtune.report import summary

    said = {line.rsplit("  ", 3)[0].strip(): line for line in summary.table(two_arms.plan, two_arms.table).splitlines()}
    lines = summary.table(two_arms.plan, two_arms.table).splitlines()
    assert [line.split()[:3][-1] for line in lines[2:]] == ["4", "4"], said
    assert lines[3].startswith("student d=null") and lines[1].split()[:2] == ["teacher", "3"]


@pytest.mark.parametrize("axis", ["metric", "weights_sha256", "recipe_version", "checkpoint_digest"])
def test_an_axis_cannot_take_the_name_of_a_later_column(axis: str, tmp_path: Path) -> None:
    """`teacher.metric` was the axis until the run was done, and then what its teacher was chosen by."""
    path = tmp_path / "x.yaml"
    path.write_text(SMALL.replace("{rate: [", f"{{{axis}: [").replace("$rate", f"${axis}"))
    with pytest.raises(SweepFileError, match=f"came '{axis}'; an axis is a column of the table"):
        load_sweep(path)


def test_two_points_whose_numbers_are_close_are_two_lines(tmp_path: Path) -> None:
    from kdtune.report import summary

    path = tmp_path / "x.yaml"
    path.write_text(SMALL.replace("[0.0, 0.2]", "[0.12345671, 0.12345672]"))
    plan = build_plan(load_sweep(path), tmp_path)
    table = rows(plan, *stands(plan, Store(tmp_path / "none")))
    assert len(summary.table(plan, table).splitlines()) == 1 + 4
