"""What a person sees while a sweep runs: a line per finished run, and below them how far everything is.

On a terminal that part is live. Elsewhere (a pipe, a log file, TERM=dumb) it is one line, at most every 30 seconds, and
there are no control codes. NO_COLOR is honoured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdtune.planning import cost
from kdtune.planning.plan import Plan
from kdtune.planning.setbacks import said
from kdtune.store.state import ENDED, FINISHED, State

if TYPE_CHECKING:
    from kdtune.planning.dispatch import Dispatch

STATUS_EVERY_S = 30.0
REDRAWN_EVERY_S = 0.2
BASIS_S = 10.0  # of training, before a time left is told by it
DRAWING = 10  # times as long as it took to draw until it is drawn again: a large plan takes a tenth of a second
LINES = 200  # finished runs of a plan that get a line; of a larger plan only every k-th does
SHOWN = 4  # running runs named on a terminal
COLOURS = {State.DONE: "green", State.FAILED: "bold red", State.DIVERGED: "yellow"}


class Progress:
    """The screen, a watcher: told by the driver what happens, asks `dispatch` how all runs stand.

    `verbosity`: below 0 only failures are shown; above 0 every finished run has its line. `work` is each run's weight
    in the time left (default: its estimated cost), `clock` gives seconds, `console` is written to instead of `stream`.
    """

    def __init__(
        self,
        plan: Plan,
        dispatch: Dispatch,
        stream: TextIO | None = None,
        verbosity: int = 0,
        *,
        work: Mapping[str, cost.Work] | None = None,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.plan, self.dispatch, self.verbosity = plan, dispatch, verbosity
        self.console = console or Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
        work = dict(work or {id: cost.work_of(plan, id) for id in plan.runs})
        self.time_left = TimeLeft(plan, dispatch.states, work, clock, self._to_come)
        self.clock = clock
        self._first = [*(metric.name for metric in plan.headlines), *plan.metrics]
        self._epochs: dict[str, tuple[int, int]] = {}  # of running runs: done, all
        self._finished = self._failed = 0
        self._spoke = clock()
        self._redrawn_every = REDRAWN_EVERY_S
        self._live: Live | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal and verbosity >= 0:
            self._live = Live(console=self.console, auto_refresh=False, transient=True, redirect_stdout=False)

    def started(self, id: str) -> None:
        self.time_left.started(id)
        self._epochs[id] = (0, 0)
        self.tick()

    def rows(self, id: str, rows: list[dict[str, float]]) -> None:
        recipe = self.plan.runs[id].run.recipe
        if rows and recipe is not None:
            self.epoch(id, int(rows[-1]["epoch"]), recipe.epochs)

    def epoch(self, id: str, done_epochs: int, total: int) -> None:
        self._epochs[id] = (done_epochs, total)
        self.time_left.epoch(id, done_epochs, total)

    def ended(self, id: str, state: State) -> None:
        """A line of its own, but for a run that another sweep has."""
        self._epochs.pop(id, None)
        seconds = self.time_left.ended(id, state)
        if state == State.FAILED:
            self._failure(id, seconds)
        if state == State.STOPPED and id in self.dispatch.by_hand and self.verbosity >= 0:
            self._say(self._line(id, state, self.dispatch.reasons[id], seconds))
        if state not in FINISHED:
            return
        self._finished += 1
        every = 1 if self.verbosity > 0 else ceil(len(self.plan.runs) / LINES)
        if self.verbosity >= 0 and self._finished % every == 0:
            self._say(self._line(id, state, headline(self.dispatch.standing.measured(id), self._first), seconds))

    def _failure(self, id: str, seconds: float | None) -> None:
        """The first failure in full, later ones in a line."""
        self._failed += 1
        text = self.dispatch.reasons.get(id, "").strip() or "no reason is known"
        self._say(self._line(id, State.FAILED, "" if self._failed == 1 else said(text), seconds))
        if self._failed == 1:
            self._say(Text(text))

    def grown(self, plan: Plan, new: Sequence[str]) -> None:
        self.plan = plan
        self.time_left.grow(plan, {id: cost.work_of(plan, id) for id in new})

    def _to_come(self) -> float:
        """Work of runs that are not in the plan yet, by what students are in it."""
        if self.dispatch.source is None or not self.dispatch.source.to_come:
            return 0.0
        known = [self.time_left.work[id].seconds for id, place in self.plan.runs.items() if place.role == "student"]
        return self.dispatch.source.to_come * sum(known) / len(known) if known else 0.0

    def tick(self) -> None:
        """About once a second."""
        if self._live is not None:
            if not self._live.is_started:
                self._live.start()
            elif self.clock() - self._spoke < self._redrawn_every:
                return
            began = self.clock()
            self._live.update(self.view(), refresh=True)
            self._spoke = self.clock()
            self._redrawn_every = max(REDRAWN_EVERY_S, DRAWING * (self._spoke - began))
        elif self.verbosity >= 0 and self.clock() - self._spoke >= STATUS_EVERY_S:
            self._spoke = self.clock()
            self._say(Text(self.status()))

    def close(self) -> None:
        """Take away the live part; the lines stay."""
        if self._live is not None and self._live.is_started:
            self._live.stop()
        self._live = None

    def counts(self) -> str:
        """12 done, 2 running, 31 waiting, 0 failed"""
        now = self.dispatch.counts
        elsewhere = now.get(State.ELSEWHERE, 0)
        waiting = sum(count for state, count in now.items() if state not in ENDED and state != State.RUNNING)
        words = [f"{now.get(State.DONE, 0)} done", f"{now.get(State.RUNNING, 0)} running"]
        words.append(f"{waiting} waiting" + (f" ({elsewhere} for another sweep)" if elsewhere else ""))
        words.append(f"{now.get(State.FAILED, 0)} failed")
        words += [f"{now[state]} {state}" for state in (State.DIVERGED, State.SKIPPED, State.STOPPED) if state in now]
        return ", ".join(words)

    def left(self) -> str:
        seconds = self.time_left.seconds(self.dispatch.states)
        if seconds is None or seconds < 1 or not self.time_left.has_basis:
            return ""
        return f"about {cost.duration(seconds)} left"

    def status(self) -> str:
        source = self.dispatch.source
        return "; ".join(filter(None, (self.counts(), source.progress if source else "", self.left())))

    def view(self) -> Group:
        """The live part, within 80 columns: a bar, the counts, some of what runs now."""
        bar = Table.grid(padding=(0, 2))
        share = self.time_left.share(self.dispatch.states)
        beside = Text(f"{share:.0%}  {self.left()}".rstrip())
        bar.add_row(Text(cut(self.plan.name, 20)), ProgressBar(total=1.0, completed=share, width=26), beside)
        lines = [Text(self.counts(), style="bold", no_wrap=True, overflow="ellipsis")]
        if self.dispatch.source is not None:
            lines.append(Text(self.dispatch.source.progress))
        for id, (done, total) in list(self._epochs.items())[:SHOWN]:
            where = "starting" if not total else "evaluating" if done >= total else f"epoch {done} of {total}"
            lines.append(Text(f"  {cut(self.plan.runs[id].name, 52):52s}  {where}", style="dim", no_wrap=True))
        if len(self._epochs) > SHOWN:
            lines.append(Text(f"  and {len(self._epochs) - SHOWN} more", style="dim"))
        return Group(bar, *lines)

    def _line(self, id: str, state: State, what: str, seconds: float | None) -> Text:
        took = "" if seconds is None else cost.duration(seconds)
        end = f"{what}   {took}".strip()
        name = self.plan.runs[id].name
        name = cut(name, max(20, 80 - 12 - len(end))) if self._live is not None else name
        return Text.assemble((f"{state:8s}", COLOURS.get(state, "")), f" {name:30s}   {end}".rstrip())

    def _say(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)


def headline(metrics: Mapping[str, Any], first: Sequence[str]) -> str:
    """One metric of a finished run, `test/accuracy 93.1`: the first of `first` that was measured, else any."""
    measured = {name: value for name, value in metrics.items() if value is not None}
    name = next((name for name in (*first, *measured) if name in measured), None)
    return "" if name is None else f"{name} {measured[name]:.1f}"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


class TimeLeft:
    """How long it still takes, by what was achieved since the first run started; running ones count by their epochs."""

    def __init__(
        self,
        plan: Plan,
        states: Mapping[str, State],
        work: dict[str, cost.Work],
        clock: Callable[[], float],
        to_come: Callable[[], float] = lambda: 0.0,  # work of runs that are not in the plan yet
    ) -> None:
        self.plan, self.work, self.clock, self.to_come = plan, work, clock, to_come
        self._resumed = {id for id, state in states.items() if state == State.PARTIAL}
        self._first: float | None = None  # when the first run started
        self._began: dict[str, float] = {}  # running runs: when they started,
        self._reached: dict[str, float] = {}  # the share of their work that is done,
        self._before: dict[str, float] = {}  # and the share that was done before this command
        self._achieved = self._spent = 0.0  # by runs that have ended: work, and seconds

    def grow(self, plan: Plan, work: Mapping[str, cost.Work]) -> None:
        self.plan = plan
        self.work |= work

    def started(self, id: str) -> None:
        self._began[id], self._reached[id], self._before[id] = self.clock(), 0.0, 0.0
        self._first = self._began[id] if self._first is None else self._first

    def epoch(self, id: str, done: int, total: int) -> None:
        if id not in self._began:
            self.started(id)
        training = self.work[id].training / (self.work[id].seconds or 1)
        if id in self._resumed and self._reached[id] == 0:  # the first epoch that is heard of came after a checkpoint
            self._before[id] = training * (done - 1) / total
        self._reached[id] = training * done / total

    def ended(self, id: str, state: State) -> float | None:
        """The seconds that it took, None for a run that was never started here."""
        if id not in self._began:
            return None
        seconds = self.clock() - self._began.pop(id)
        reached = self._reached.pop(id) if state != State.DONE else 1.0
        self._reached.pop(id, None)
        self._achieved += (reached - self._before.pop(id)) * self.work[id].seconds
        self._spent += seconds
        return seconds

    def share(self, states: Mapping[str, State]) -> float:
        """The share of all work that is done, from 0 to 1."""
        left = sum(self._left(id) for id, state in states.items() if state not in FINISHED) + self.to_come()
        whole = sum(each.seconds for each in self.work.values()) + self.to_come()
        return 1 - left / (whole or 1.0)

    def seconds(self, states: Mapping[str, State]) -> float | None:
        """None until something was achieved."""
        now = self.clock()
        running = ((self._reached[id] - self._before[id]) * self.work[id].seconds for id in self._began)
        achieved = self._achieved + sum(running)
        spent = self._spent + sum(now - began for began in self._began.values())
        if self._first is None or achieved <= 0 or spent <= 0:
            return None
        left = {id: self._left(id) for id, state in states.items() if state not in ENDED}
        # However many run at a time, a student waits for the slowest of its teachers.
        chains = (
            mine + max((left.get(teacher, 0.0) for teacher in self.plan.runs[id].waits_for), default=0.0)
            for id, mine in left.items()
        )
        at_a_time = spent / (now - self._first)
        return max((sum(left.values()) + self.to_come()) / at_a_time, max(chains, default=0.0)) * spent / achieved

    @property
    def has_basis(self) -> bool:
        """Whether a run has ended, or BASIS_S are over since the first began: a process begins more slowly."""
        return self._spent > 0 or (self._first is not None and self.clock() - self._first >= BASIS_S)

    def _left(self, id: str) -> float:
        return (1 - self._reached.get(id, 0.0)) * self.work[id].seconds
