"""The last lines of a command: the table with its intervals, what failed and why, what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from scipy import stats

from kdtune.evaluation.metric import Metric
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan, build_plan
from kdtune.report.folder import View
from kdtune.report.summary import closing, columns, flagged, near, table, words
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    root = tmp_path_factory.mktemp("summary")
    (root / "small.yaml").write_text(SMALL.replace("seeds: 2", "seeds: 3"))
    return build_plan(load_sweep(root / "small.yaml"), root)


def rows_of(plan: Plan, **metrics: list[float]) -> list[dict[str, Any]]:
    """Rows in which every run of role and rate has the metrics of its seed."""
    return [
        {
            "id": id,
            "state": "done",
            **{name.replace("__", "/"): values[run.run.seed or 0] for name, values in metrics.items()},
        }
        for id, run in plan.runs.items()
    ]


ACCURACY, OTHER = Metric("test/accuracy", headline=True), Metric("shift/other", headline=True)
PGD, ALL = Metric("robust/pgd20", headline=True), Metric("robust/pgd20/unconditional", headline=True)


def test_the_metrics_worth_a_glance_are_the_headlines_that_were_measured(plan: Plan) -> None:
    assert columns([OTHER, ACCURACY, PGD], [{"test/accuracy": 1.0, "test/nll": 1.0}, {"shift/other": 1.0}]) == [
        OTHER,
        ACCURACY,
    ]
    assert columns([ACCURACY], []) == []
    said = table(plan, rows_of(plan, test__accuracy=[1.0, 2.0, 3.0], test__nll=[1.0, 2.0, 3.0]))
    assert said.splitlines()[0].split() == ["seeds", "test/accuracy"], "the plan's own, where none are named"


def test_of_many_lines_the_longest_axis_is_averaged_over_and_that_is_said(tmp_path: Path) -> None:
    text = SMALL.replace("rate: [0.0, 0.2]", "rate: [0.0, 0.2], draw: {range: 60}").replace(
        "{digits: {}", "{digits: {}, seed: $draw"
    )
    (tmp_path / "small.yaml").write_text(text)
    plan = build_plan(load_sweep(tmp_path / "small.yaml"), tmp_path)
    rows = [{"id": place.id, "state": "done", "test/accuracy": float(place.point["draw"])} for place in plan.places]
    said = table(plan, rows).splitlines()
    assert said[0].split() == ["seeds", "x", "draw", "test/accuracy"]
    low, high = stats.t.interval(0.95, 119, 29.5, stats.sem(2 * [*range(60)]))
    half = (high - low) / 2
    students = [line for line in said[1:] if line.startswith("student")]
    assert [line.split("  ")[0] for line in students] == ["student rate=0", "student rate=0.2"] and len(said) == 5
    assert all(line.split()[-4:] == ["120", "29.5", "+-", f"{half:.1f}"] for line in students)


def test_a_run_counts_once_however_many_places_ask_for_it(plan: Plan, tmp_path: Path) -> None:
    """A rate of 0 makes one run of all thresholds."""
    axes = "rate: [0.0, 0.2], threshold: {range: 60}"
    text = SMALL.replace("rate: [0.0, 0.2]", axes).replace(
        "dropout: {rate: $rate}", "swap: {rate: $rate, threshold: $t}"
    )
    text = text.replace("threshold: $t", "pairs: top2, threshold: $threshold").replace("dropout: $rate", "dropout: 0.0")
    text = text.replace("{range: 60}", str([round(0.01 * number, 2) for number in range(1, 61)]))
    (tmp_path / "small.yaml").write_text(text)
    plan = build_plan(load_sweep(tmp_path / "small.yaml"), tmp_path)
    values = {id: 50.0 + number for number, id in enumerate(plan.runs)}
    said = table(plan, [{"id": each.id, "state": "done", "test/accuracy": values[each.id]} for each in plan.places])
    (line,) = [line for line in said.splitlines() if line.startswith("student rate=0 ")]
    assert line.split()[2] == "2", "two seeds"


def test_a_rate_of_all_images_stands_beside_that_of_those_right_when_clean(plan: Plan) -> None:
    rows = rows_of(plan, robust__pgd20=[90.0] * 3, robust__pgd20__unconditional=[9.0] * 3)
    said = table(plan, rows, [PGD, ALL]).splitlines()
    assert said[0].split() == ["seeds", "robust/pgd20", "/unconditional"]
    assert "90.0" in said[1] and said[1].endswith("9.0 +-  0.0")


def test_what_is_no_rate_says_its_unit(plan: Plan) -> None:
    """An evaluator of one's own marks its headline and its unit."""
    margin = Metric("margin", "logits", "higher", headline=True)
    said = table(plan, rows_of(plan, margin=[0.01, 0.012, 0.014]), [margin]).splitlines()
    assert said[0].endswith("margin (logits)") and said[1].endswith("0.012 +- 0.005")


def test_a_flag_marks_the_numbers_that_it_bears_on(plan: Plan) -> None:
    clean, mca = Metric("test/accuracy", headline=True), Metric("corruption/mca", headline=True)
    rows = rows_of(plan, robust__pgd20=[96.7] * 3, corruption__mca=[99.0] * 3, test__accuracy=[10.0] * 3)
    collapsed = {"flags/collapsed": 1.0, "flags/near_chance": 1.0}
    said = table(plan, [row | collapsed for row in rows], [clean, PGD, mca])
    assert all(line.count("!") == 2 for line in said.splitlines()[1:]), "not the accuracy, which is what it is"
    (line,) = flagged([clean, PGD, mca], [row | collapsed for row in rows])
    assert "collapsed (12 runs: at most a quarter of the classes" in line and "near_chance (12 runs" in line
    (line,) = flagged([clean], [row | collapsed for row in rows])
    assert line.startswith("flags without a mark: collapsed (12 runs"), "no number stands there that it bears on"
    masked = [row | {"flags/collapsed": 0.0, "flags/square_wins": 1.0} for row in rows[:1]] + rows[1:]
    assert sum(map(str.count, table(plan, masked, [clean, PGD, mca]).splitlines(), "!" * 9)) == 1
    assert "square_wins (1 run: " in "".join(flagged([PGD], masked))


def test_a_line_is_the_mean_and_the_half_width_of_a_t_interval(plan: Plan) -> None:
    values = [90.0, 92.5, 94.0]
    said = table(plan, rows_of(plan, test__accuracy=values)).splitlines()
    assert said[0].split() == ["seeds", "test/accuracy"]
    assert len(said) == 1 + 4
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    for line in said[1:]:
        assert line.endswith(f"{sum(values) / 3:.1f} +- {half:4.1f}")
    labels = ["teacher rate=0 ", "student rate=0 ", "teacher rate=0.2 ", "student rate=0.2 "]
    assert all(line.startswith(label) for line, label in zip(said[1:], labels, strict=True)), "in written order"


def test_columns_stand_below_each_other(plan: Plan) -> None:
    rows = rows_of(plan, test__accuracy=[9.0, 10.0, 95.0], shift__other=[1.0, 1.0, 1.0])
    said = table(plan, rows, [ACCURACY, OTHER]).splitlines()
    for word in ("seeds", "test/accuracy", "shift/other"):
        end = said[0].index(word) + len(word)
        for line in said[1:]:
            assert line[end - 1] != " " and line[end : end + 1] in ("", " "), line


def test_runs_that_are_not_done_are_counted_and_not_averaged_away(plan: Plan) -> None:
    rows = rows_of(plan, test__accuracy=[80.0, 90.0, 100.0])
    students = [row for row in rows if plan.runs[row["id"]].role == "student"]
    for row in students[:2]:
        row["state"] = "failed"
        del row["test/accuracy"]
    for row in students[3:]:
        row["state"] = "diverged"
        del row["test/accuracy"]
    two_failed, none_left = [line for line in table(plan, rows).splitlines() if line.startswith("student")]
    assert two_failed.split() == ["student", "rate=0", "1", "of", "3", "100.0"], "one run has no interval"
    assert none_left.split() == ["student", "rate=0.2", "0", "of", "3", "-"]


def test_a_role_without_a_metric_has_a_dash(plan: Plan) -> None:
    rows = rows_of(plan, test__accuracy=[1.0, 2.0, 3.0])
    for row in rows:
        if plan.runs[row["id"]].role == "student":
            row["shift/other"] = 50.0
    first, last = (table(plan, rows, [ACCURACY, OTHER]).splitlines()[n] for n in (1, -1))
    assert first.endswith("-") and "50.0 +-  0.0" in last


def test_before_anything_is_done_there_is_a_table_too(plan: Plan) -> None:
    said = table(plan, [{"id": id, "state": "new"} for id in plan.runs])
    assert len(said.splitlines()) == 5 and "0 of 3" in said


def lines(plan: Plan, tmp_path: Path, states: dict[str, str], reasons: dict[str, str]) -> list[str]:
    standing = Standing(Store(tmp_path / "results"), plan.evaluators)
    dispatch = Dispatch(plan, standing)
    dispatch.states = {**dispatch.states, **states}
    dispatch.reasons |= reasons
    rows = [{"id": id, "state": state} for id, state in dispatch.states.items()]
    again = "python -m kdtune.sweep small.yaml"
    return list(closing(plan, dispatch, View(standing, plan), rows, 61.5, again))


def test_a_finished_sweep_says_where_everything_is(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = lines(plan, tmp_path, dict.fromkeys(plan.runs, "done"), {})
    assert said[0] == f"small on {plan.dataset}, profile paper: 12 done, 61.5 s"
    assert "results      results/small/paper/results.csv" in said, "a path as one would type it here"
    assert "TensorBoard  tensorboard --logdir results/small/paper/tensorboard" in said
    assert said[-1] == "run again    python -m kdtune.sweep small.yaml"
    assert not [line for line in said if line.startswith(("figures", "failed"))]
    assert not [line for line in said if "custom_scalars" in line], "there are no means"
    (tmp_path / "results/small/paper/tensorboard/means").mkdir(parents=True)
    told = lines(plan, tmp_path, dict.fromkeys(plan.runs, "done"), {})
    assert [line for line in told if line not in said] == [
        "             its address with #custom_scalars&regexInput=means: accuracy, loss, robustness, by setting"
    ]


def test_a_script_of_the_sweeps_name_is_offered(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "small.py").write_text('if __name__ == "__main__":\n    ...\n')
    (said,) = [line for line in lines(plan, tmp_path, {}, {}) if line.startswith("figures")]
    assert shlex.split(said)[1:] == ["python", "analysis/small.py", "results/small", "--profile", "paper"]


def test_the_first_error_comes_in_full_the_others_in_a_line(plan: Plan, tmp_path: Path) -> None:
    first, second, third = list(plan.runs)[:3]
    trace = "Traceback:\n  File x\nZeroDivisionError: division by zero"
    said = lines(
        plan,
        tmp_path,
        {first: "failed", second: "failed", third: "skipped"},
        {first: trace, second: trace.replace("Zero", "Other"), third: "its teacher failed"},
    )
    troubled = [line for line in said if line.startswith(("failed", "skipped"))]
    assert troubled == [
        f"failed: {plan.runs[first].name} ({first}): {trace}",
        f"failed: {plan.runs[second].name} ({second}): OtherDivisionError: division by zero",
        f"skipped: {plan.runs[third].name} ({third}): its teacher failed",
    ]
    assert said[-1].startswith("go on ")


def test_many_failures_are_counted(plan: Plan, tmp_path: Path) -> None:
    said = lines(plan, tmp_path, dict.fromkeys(plan.runs, "failed"), dict.fromkeys(plan.runs, "because"))
    assert len([line for line in said if line.startswith("failed: ")]) == 10
    (more,) = [line for line in said if line.startswith("and 2 more: ")]
    assert "kdtune status" in more and "small" in more


def test_what_diverged_is_over(plan: Plan, tmp_path: Path) -> None:
    said = lines(plan, tmp_path, dict.fromkeys(plan.runs, "diverged"), {})
    assert said[-1].startswith("run again"), "there is nothing to go on with"


def test_counts_in_words() -> None:
    assert words({"done": 3, "failed": 1}) == "3 done, 1 failed"
    assert words({}) == "nothing to do"


def test_a_path_elsewhere_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert near(tmp_path / "other") == tmp_path / "other"
    assert near(tmp_path / "here" / "x") == Path("x")


def test_flags_are_counted_by_runs_and_not_by_places() -> None:
    row = {"id": "a", "state": "done", "flags/square_wins": 1.0, PGD.name: 50.0}
    (said,) = flagged([PGD], [row, row])
    assert [said] == [*flagged([PGD], [row])] and "1 run:" in said


def test_a_number_of_fewer_runs_than_are_done_says_of_how_many(plan: Plan) -> None:
    """As where some were measured late, forgotten and trained again: the seeds beside are those of all."""
    rows = rows_of(plan, robust__pgd20=[40.0, 41.0, 42.0])
    lacking = [row for row in rows if plan.runs[row["id"]].run.seed == 2]
    for row in lacking:
        del row[PGD.name]
    said = table(plan, rows, [PGD]).splitlines()
    assert [line.split()[-1] == "(2)" for line in said[1:]] == [True] * 4
    assert "(" not in table(plan, rows_of(plan, robust__pgd20=[40.0, 41.0, 42.0]), [PGD])
