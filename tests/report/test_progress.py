"""What is said while a sweep runs: on a terminal, in a log file, and how much of it."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kdtune.planning import cost
from kdtune.planning.cost import Work
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan, build_plan
from kdtune.report.progress import LINES, Progress, TimeLeft, cut, headline
from kdtune.sweepfile.load import load_sweep

TRACE = "Traceback (most recent call last):\n  File 'run.py', line 7\nRuntimeError: [red]out of memory[/red]"


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Standing:
    """A dispatch as far as progress looks at it."""

    source = None  # nothing grows

    def __init__(self, plan) -> None:
        self.states = dict.fromkeys(plan.runs, "new")
        self.reasons: dict[str, str] = {}
        self.metrics: dict[str, dict] = {}
        self.standing = SimpleNamespace(measured=lambda id: self.metrics.get(id, {"test/accuracy": 93.14}))

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(self.states.values()))


class Sweep:
    """A plan of runs of one second's work each, its progress, and what it wrote."""

    def __init__(self, plan, verbosity: int = 0, terminal: bool = False, **console) -> None:
        self.plan, self.ids, self.clock, self.standing = plan, list(plan.runs), Clock(), Standing(plan)
        self.stream = io.StringIO()
        screen = Console(file=self.stream, force_terminal=terminal, width=80, highlight=False, markup=False, **console)
        work = dict.fromkeys(plan.runs, Work(1.0, 0.0))
        self.progress = Progress(plan, self.standing, verbosity=verbosity, work=work, clock=self.clock, console=screen)

    def start(self, *ids: str) -> None:
        for id in ids:
            self.standing.states[id] = "running"
            self.progress.started(id)

    def end(self, id: str, state: str = "done", metrics=None) -> None:
        self.standing.states[id] = state
        if metrics is not None:
            self.standing.metrics[id] = metrics
        self.progress.ended(id, state)

    def fail(self, id: str, text: str = TRACE) -> None:
        self.standing.states[id] = "failed"
        self.standing.reasons.setdefault(id, text)
        self.progress.ended(id, "failed")

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture
def plan(write_sweep, tmp_path):
    """6 teachers, then 4 students, by grid point."""
    return build_plan(load_sweep(write_sweep()), tmp_path)


@pytest.fixture
def large(write_sweep, tmp_path):
    """More runs than get a line each."""
    text = "dataset: {digits: {}}\nname: large\nseeds: 700\nstudent: {model: {mlp: {hidden: [8]}}, recipe: $recipe}\n"
    recipe = "{optimizer: {sgd: {lr: 0.1}}, schedule: {step: {milestones: [], factor: 0.1}}, precision: float32, "
    text = text.replace("$recipe", recipe + "batch_size: 20, epochs: 3}") + "evaluation: [accuracy]\n"
    return build_plan(load_sweep(write_sweep(text)), tmp_path)


def test_a_finished_run_is_a_line(plan):
    sweep = Sweep(plan)
    id = sweep.ids[0]
    sweep.start(id)
    sweep.clock.now += 12
    sweep.end(id)
    assert sweep.lines == ["done     teacher rate=0 seed=0            test/accuracy 93.1   12 s"]


def test_a_diverged_run_and_one_without_metrics_are_lines_too(plan):
    sweep = Sweep(plan)
    first, second, elsewhere = sweep.ids[:3]
    sweep.start(first, second, elsewhere)
    sweep.clock.now += 3
    sweep.end(first, "diverged", {"val/accuracy": None})
    sweep.end(second, "done", {"robust/pgd20": 41.0, "val/accuracy": 80.0})
    sweep.end(elsewhere, "elsewhere")
    assert [line.split() for line in sweep.lines] == [
        ["diverged", "teacher", "rate=0", "seed=0", "3", "s"],
        ["done", "teacher", "rate=0", "seed=1", "val/accuracy", "80.0", "3", "s"],
    ]


def test_a_log_file_gets_a_status_every_half_minute_and_no_control_codes(plan):
    sweep = Sweep(plan)
    sweep.start(*sweep.ids[:2])
    for second in range(1, 96):
        sweep.clock.now += 1
        sweep.progress.epoch(sweep.ids[0], second, 100)
        sweep.progress.epoch(sweep.ids[1], second, 100)
        sweep.progress.tick()
    sweep.progress.close()
    assert [line.split(";")[0] for line in sweep.lines] == ["0 done, 2 running, 8 waiting, 0 failed"] * 3
    assert sweep.lines[0].endswith("; about 8 min left")  # 9.4 units of work at 0.02 a second
    assert "\x1b" not in sweep.text and "\r" not in sweep.text


def test_counts_say_what_another_sweep_trains_and_what_went_wrong(plan):
    sweep = Sweep(plan)
    states = ["done", "done", "running", "elsewhere", "elsewhere", "partial", "failed", "skipped", "diverged", "new"]
    sweep.standing.states = dict(zip(sweep.ids, states, strict=True))
    said = "2 done, 1 running, 4 waiting (2 for another sweep), 1 failed, 1 diverged, 1 skipped"
    assert sweep.progress.counts() == said


def test_the_first_failure_is_told_in_full_and_later_ones_in_a_line(plan):
    sweep = Sweep(plan)
    sweep.start(*sweep.ids[:3])
    sweep.fail(sweep.ids[0])
    assert TRACE in sweep.text, "brackets are no markup"
    before = len(sweep.lines)
    sweep.fail(sweep.ids[1])
    assert sweep.lines[before:] == [
        "failed   teacher rate=0 seed=1            RuntimeError: [red]out of memory[/red]   0 s"
    ]
    sweep.standing.reasons[sweep.ids[2]] = "its process was lost"
    sweep.fail(sweep.ids[2], "")
    assert sweep.lines[-1].endswith("its process was lost   0 s")


def test_a_first_failure_without_traceback_gives_the_reason_that_is_known(plan):
    sweep = Sweep(plan)
    sweep.start(sweep.ids[0])
    sweep.standing.reasons[sweep.ids[0]] = "its process was lost"
    sweep.end(sweep.ids[0], "failed")
    assert sweep.lines == ["failed   teacher rate=0 seed=0            0 s", "its process was lost"]


@pytest.mark.parametrize(("verbosity", "most"), [(0, LINES), (1, 700), (-1, 0)])
def test_a_large_plan_is_no_wall_of_text(large, verbosity, most):
    sweep = Sweep(large, verbosity)
    assert len(sweep.ids) == 700
    for id in sweep.ids[:-2]:
        sweep.start(id)
        sweep.end(id)
        sweep.clock.now += 0.01
    assert most * 0.8 <= len(sweep.lines) <= most
    for id in sweep.ids[-2:]:
        sweep.start(id)
        sweep.fail(id)
    assert [line.split()[0] for line in sweep.lines].count("failed") == 2, "failures always"


def test_quiet_says_nothing_of_how_far_it_is(plan):
    for terminal in (False, True):
        sweep = Sweep(plan, -1, terminal)
        sweep.start(sweep.ids[0])
        sweep.clock.now += 100
        sweep.progress.tick()
        sweep.end(sweep.ids[0])
        sweep.progress.close()
        assert sweep.text == ""


def test_a_terminal_shows_a_bar_counts_and_some_of_what_runs(plan):
    sweep = Sweep(plan, terminal=True)
    sweep.start(*sweep.ids[:6])
    sweep.clock.now += 10
    for id in sweep.ids[:6]:
        sweep.progress.epoch(id, 30, 60)
    recorded = Console(file=io.StringIO(), width=80, record=True)
    recorded.print(sweep.progress.view())
    shown = recorded.export_text().splitlines()
    # half a run in 10 s, and a teacher and a student that must follow each other have not begun
    assert re.fullmatch(r"small  \S{8} +30%  about 40 s left *", shown[0])
    assert shown[1] == "0 done, 6 running, 4 waiting, 0 failed"
    assert shown[2].split() == ["teacher", "rate=0", "seed=0", "epoch", "30", "of", "60"]
    assert shown[-1] == "  and 2 more"
    assert len(shown) == 7
    assert max(map(len, shown)) <= 80


def test_long_names_stay_on_one_line_of_80_columns(plan):
    places = tuple(replace(place, parameters={"a_long_axis": "x" * 90}) for place in plan.places)
    sweep = Sweep(replace(plan, name="n" * 60, places=places), terminal=True)
    sweep.start(*sweep.ids[:5])
    recorded = Console(file=io.StringIO(), width=80, record=True)
    recorded.print(sweep.progress.view())
    assert len(recorded.export_text().splitlines()) == 7
    sweep.progress.close()
    sweep.end(sweep.ids[0])
    log = Sweep(replace(plan, places=places))
    log.start(log.ids[0])
    log.end(log.ids[0])
    assert "x" * 90 in log.text, "a log file keeps the whole name"


def test_the_live_part_goes_away_and_the_lines_stay(plan):
    sweep = Sweep(plan, terminal=True)
    sweep.start(sweep.ids[0])
    sweep.clock.now += 2
    sweep.progress.tick()
    assert "1 running" in sweep.text
    sweep.end(sweep.ids[0])
    sweep.progress.close()
    sweep.progress.close()
    assert screen(sweep.text) == ["done     teacher rate=0 seed=0            test/accuracy 93.1   2 s"]


def screen(text: str) -> list[str]:
    """What a terminal shows in the end: cursor up and erase line obeyed, other codes ignored."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", text):
        if part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif part == "\r":
            column = 0
        elif part.startswith("\x1b"):
            if part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part.endswith("K"):
                rows[row] = ""
        else:
            rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
            column += len(part)
    return [line for line in rows if line.strip()]


def test_no_color_is_honoured(plan, monkeypatch):
    def colours() -> list[str]:
        stream = io.StringIO()
        stream.isatty = lambda: True  # type: ignore[method-assign]
        progress = Progress(plan, Standing(plan), stream, clock=Clock())
        progress.started(next(iter(plan.runs)))
        progress.dispatch.reasons[next(iter(plan.runs))] = TRACE
        progress.ended(next(iter(plan.runs)), "failed")
        progress.close()
        codes = re.findall(r"\x1b\[([0-9;]*)m", stream.getvalue())
        return [code for code in codes if re.search(r"(^|;)(3[0-7]|9[0-7]|38)($|;)", code)]

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


def test_a_dumb_terminal_is_treated_as_a_log_file(plan, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    clock = Clock()
    progress = Progress(plan, Standing(plan), stream, clock=clock)
    clock.now += 31
    progress.tick()
    assert stream.getvalue() == "0 done, 0 running, 10 waiting, 0 failed\n"


def test_by_default_runs_weigh_what_they_are_estimated_to_cost(plan):
    progress = Progress(plan, Standing(plan), io.StringIO())
    assert progress.time_left.work == {id: cost.work_of(plan, id) for id in plan.runs}


# The time left


def left(plan, clock, states=None, work=None) -> TimeLeft:
    return TimeLeft(plan, states or {}, work or dict.fromkeys(plan.runs, Work(1.0, 0.0)), clock)


def test_nothing_is_promised_before_anything_was_achieved(plan):
    clock, states = Clock(), dict.fromkeys(plan.runs, "new")
    time_left = left(plan, clock)
    assert time_left.seconds(states) is None
    time_left.started(next(iter(plan.runs)))
    clock.now += 5
    assert time_left.seconds(states) is None


def test_running_runs_count_by_their_epochs_and_by_their_weight(plan):
    clock, ids = Clock(), list(plan.runs)
    work = {id: Work(3.0, 1.0) if id == ids[0] else Work(2.0, 0.0) for id in ids}
    time_left = left(plan, clock, work=work)
    states = dict.fromkeys(ids, "done") | {ids[0]: "running", ids[1]: "running"}
    time_left.started(ids[0])
    time_left.started(ids[1])
    clock.now += 10
    time_left.epoch(ids[0], 10, 20)
    time_left.epoch(ids[1], 15, 20)
    # 1.5 + 1.5 achieved in 10 s by two; 2.5 + 0.5 left
    assert time_left.seconds(states) == pytest.approx(max(3.0 / 0.3, 2.5 / 0.15))
    assert time_left.share(states) == pytest.approx(1 - 3.0 / (4 + 2 * 9))


def test_a_student_waits_for_its_slowest_teacher(plan):
    clock, ids = Clock(), list(plan.runs)
    student = next(id for id, run in plan.runs.items() if run.waits_for)
    teachers = plan.runs[student].waits_for
    states = {**dict.fromkeys(ids, "done"), **dict.fromkeys(teachers, "running"), student: "new"}
    time_left = left(plan, clock)
    for teacher in teachers:
        time_left.started(teacher)
    clock.now += 10
    for teacher, done in zip(teachers, (9, 9, 5), strict=True):
        time_left.epoch(teacher, done, 10)
    speed = 2.3 / 30  # of one run
    assert time_left.seconds(states) == pytest.approx((0.5 + 1.0) / speed)


def test_a_run_that_goes_on_from_a_checkpoint_was_not_trained_in_a_moment(plan):
    clock, ids = Clock(), list(plan.runs)
    states = dict.fromkeys(ids, "done") | {ids[0]: "partial"}
    time_left = left(plan, clock, states)
    time_left.started(ids[0])
    clock.now += 10
    time_left.epoch(ids[0], 51, 100)
    assert time_left.seconds(states | {ids[0]: "running"}) == pytest.approx(490)


def test_what_ended_does_not_count_any_more(plan):
    clock, ids = Clock(), list(plan.runs)
    time_left = left(plan, clock)
    time_left.started(ids[0])
    clock.now += 10
    assert time_left.ended(ids[0], "done") == 10
    assert time_left.ended(ids[0], "done") is None
    states = dict.fromkeys(ids, "skipped") | {ids[0]: "done"}
    assert time_left.seconds(states) == 0
    assert time_left.share(states) == pytest.approx(0.1)


@given(st.data())
def test_equal_runs_one_after_the_other_end_when_it_was_said(data):
    """Whatever the speed and the moment: the time left is exact where every run takes equally long."""
    count, pace = data.draw(st.integers(2, 8)), data.draw(st.floats(0.1, 100))
    ids = [f"{number:012x}" for number in range(count)]
    places = tuple(Place(SimpleNamespace(id=id, waits_for=(), teacher=None, source=None), "student", {}) for id in ids)
    plan, clock = Plan("p", "laptop", "d", (), (), places), Clock()
    time_left, states = left(plan, clock), dict.fromkeys(ids, "new")
    over = clock.now + count * pace
    for id in ids:
        states[id] = "running"
        time_left.started(id)
        for epoch in range(1, 5):
            clock.now += pace / 4
            time_left.epoch(id, epoch, 4)
            assert time_left.seconds(states) == pytest.approx(over - clock.now, abs=1e-6 * pace)
        states[id] = "done"
        time_left.ended(id, "done")


def test_the_headline_is_the_test_accuracy_where_there_is_one():
    shown = ["test/accuracy", "robust/pgd20"]
    measured = {"test/nll": 0.31, "val/accuracy": 90.0, "test/accuracy": 93.149}
    assert headline(measured, shown) == "test/accuracy 93.1"
    assert headline({"robust/clean": 90.0, "robust/pgd20": 40.0}, shown) == "robust/pgd20 40.0"
    assert headline({"test/nll": 0.31}, shown) == "test/nll 0.3", "no headline was measured"
    assert headline({"test/accuracy": None}, shown) == ""


@given(st.text(), st.integers(4, 100))
def test_cut_text_fits(text, width):
    assert len(cut(text, width)) <= width
    assert cut(text, len(text)) == text
