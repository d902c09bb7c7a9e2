"""TensorBoard event files, written by the driver: what `tensorboard --logdir <folder>/tensorboard` shows.

    <folder>/tensorboard/runs/student dropout=0.2 seed=1/   one run; `holds.json` says what of it is there
    <folder>/tensorboard/runs/                              the charts of Custom Scalars, the columns of the HParams tab
    <folder>/tensorboard/means/student dropout=0.2/         a mean over seeds (`means`)
    <folder>/tensorboard/means/                             the charts again, for who looks at means alone

`runs` and `means` are folders that TensorBoard can be given by themselves; of both together a word in its run filter
chooses: `means`, `runs`, `/teacher`. Of few runs it ticks all, of more than 40 (500 under Time Series) none.

A run that stands at several places of the sweep has a folder for each. Its curves are in the first alone; the others
are for HParams: how it began there, its final metrics, how it ended.

A view like the rest of the folder: `rebuild` derives it anew from histories and metrics and touches only what differs.
A history that is there already, by its digest, is not even read. In between rows are appended as they come.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from kdtune.planning.plan import Plan
from kdtune.report.charts import charts, columns
from kdtune.report.eventfolder import EventFolders, clear, clear_others, holding, standing_for
from kdtune.report.means import EMPTY, Ended, Means, Row
from kdtune.report.sessions import AGAIN, names, parameters
from kdtune.store.encoding import digest, to_lines
from kdtune.store.state import State

Reader = Callable[[Sequence[str]], Mapping[str, Sequence[Row]]]  # rows by id
NUMBER = (float, Real)  # nearly all are floats, which is seen at once
SUCCESS = {State.DONE: True, State.DIVERGED: False, State.FAILED: False}  # states in which a session is over


@dataclass
class _Session:
    """A run whose file is still being added to: the file, and the rows in it."""

    path: Path
    rows: list[Row]
    final: dict[str, float]


class Events:
    """The event files of one plan below `folder`, a local path. `beside`: folders there that are others'."""

    def __init__(self, folder: str | Path, plan: Plan, beside: Collection[str] = ()) -> None:
        self.folder, self.beside = Path(folder) / "tensorboard", beside
        self.singles, means = self.folder / "runs", self.folder / "means"
        self.folders = EventFolders(self.folder)
        self.means = Means(self.folders, means, plan)
        self.plan = plan
        self._named()
        self._open: dict[str, _Session] = {}
        self._left: dict[str, list[Row]] = {}  # by runs that ended
        self._metrics: dict[str, None] = {}  # names of all final metrics, in order of appearance

    def grow(self, plan: Plan) -> None:
        """A plan with more runs than before."""
        self.plan = plan
        self._named()
        self.means.grow(plan)

    def _named(self) -> None:
        plan = self.plan
        self.names = names(plan)
        self.parameters = parameters(plan)
        self._further: dict[str, list[str]] = {id: [] for id in plan.runs}  # keys of a run's further sessions
        for key in [key for key in self.names if key not in plan.runs]:
            self._further[key.partition(AGAIN)[0]].append(key)

    def rebuild(
        self, read: Reader, digests: Mapping[str, str], metrics: Mapping[str, Row], states: Mapping[str, State]
    ) -> None:
        """Make the folder hold every run of the plan once and whole, their means, and nothing of any other run.

        `read` gives rows by id. It is not asked for a run that is over and is here whole, by the digest of its history
        and its final `metrics`, if its means are too. A run that has not begun (no rows, neither running nor over) is
        not shown.
        """
        live = self._left | {id: session.rows for id, session in self._open.items()}  # the store keeps none of these
        self._open.clear()
        self._metrics = dict.fromkeys(name for final in metrics.values() for name in _finite(final))
        finals = {id: _finite(metrics.get(id, {})) for id in self.plan.runs}
        shown = {id for id in self.plan.runs if self._holds(id, digests.get(id), finals[id], states.get(id))}
        done = {id: Ended(digests.get(id, EMPTY), finals[id]) for id in finals if states.get(id) == State.DONE}
        wanted = self.means.lacking(states, done)
        histories = {
            id: rows or live.get(id, [])
            for id, rows in read([id for id in self.plan.runs if id not in shown or id in wanted]).items()
        }
        for id, rows in histories.items():
            state = states.get(id, State.NEW)
            if id not in shown and (rows or finals[id] or state == State.RUNNING or state in SUCCESS):
                shown.add(id)
                self._whole(id, [*rows], finals[id], SUCCESS.get(state))
        self.means.rebuild(histories)
        self._summarise()
        clear_others(self.singles, {self.names[key] for id in shown for key in (id, *self._further[id])})
        clear(self.folder)
        clear_others(self.folder, {self.singles.name, self.means.folder.name, *self.beside})

    def append(self, id: str, rows: Sequence[Row]) -> None:
        """Add the epochs that are not written yet; without rows, only show that the run has begun."""
        session = self._open.get(id)
        known = session.rows if session else []
        last = known[-1]["epoch"] if known else 0
        new = [row for row in rows if row["epoch"] > last]
        if session is None or not session.path.exists():  # it was deleted meanwhile
            self._whole(id, [*known, *new], {}, None)
        elif new:
            known += new
            from kdtune.report import eventfile

            events = [eventfile.scalars(_finite(row), int(row["epoch"]), time.time()) for row in new]
            self.folders.add(session.path, events)
        self.means.extend(id, self._open[id].rows)

    def finish(self, id: str, metrics: Row, state: State = State.DONE) -> None:
        """Add the final metrics at the last epoch and end the session: success if `state` is done, else failure."""
        self.append(id, [])
        session, final, success = self._open.pop(id), _finite(metrics), SUCCESS.get(state, False)
        self._left[id] = session.rows
        from kdtune.report import eventfile

        new = {name: value for name, value in final.items() if session.final.get(name) != value}
        self.folders.add(session.path, eventfile.ending(_rows(session.rows[-1:]), new, success, time.time()))
        history = digest(to_lines(session.rows))
        self.folders.note(session.path, standing_for(self.parameters[id], history, final, success))
        self.means.end(id, state, Ended(history, final))
        self._again(id, final, success)
        if not final.keys() <= self._metrics.keys():
            self._metrics |= dict.fromkeys(final)
            self._summarise()

    def close(self) -> None:
        """Nothing is held open; what is not over keeps what it has."""
        self._open.clear()
        self.means.close()

    def _holds(self, id: str, history: str | None, final: dict[str, float], state: State | None) -> bool:
        """Whether all of a run that is over is there; `history` is the digest of its rows as the store has them."""
        if history is None or state not in SUCCESS:
            return False
        contents = {id: standing_for(self.parameters[id], history, final, SUCCESS[state])}
        contents |= {key: standing_for(self.parameters[key], final, SUCCESS[state]) for key in self._further[id]}
        return all(holding(self.singles / self.names[key], holds) is not None for key, holds in contents.items())

    def _whole(self, id: str, rows: list[Row], final: dict[str, float], success: bool | None) -> None:
        """Make a run's folders hold exactly this; `success` is None while the run is not over."""
        folder = self.singles / self.names[id]
        contents = standing_for(self.parameters[id], digest(to_lines(rows)), final, success)
        path = holding(folder, contents)
        if path is None:
            from kdtune.report import eventfile

            events = eventfile.session(self.names[id], self.parameters[id], _rows(rows), final, success)
            path = self.folders.replace(folder, events, contents)
        if success is None:
            self._open[id] = _Session(path, rows, final)
        self._again(id, final, success)

    def _again(self, id: str, final: dict[str, float], success: bool | None) -> None:
        """The same of a run's further places: no curves."""
        for key in self._further[id]:
            contents, folder = standing_for(self.parameters[key], final, success), self.singles / self.names[key]
            if holding(folder, contents) is None:
                from kdtune.report import eventfile

                events = eventfile.session(self.names[key], self.parameters[key], [], final, success)
                self.folders.replace(folder, events, contents)

    def _summarise(self) -> None:
        """Tell Custom Scalars its charts and HParams its columns, in files of their own. While no metric is known
        HParams finds out by itself."""
        shown = charts(self.plan, dict.fromkeys([*(metric.name for metric in self.plan.headlines), *self._metrics]))
        sessions, metrics = list(self.parameters.values()), columns(self._metrics)
        contents = {self.singles: standing_for(shown, sessions, metrics)}
        if self.means.settings:
            contents[self.means.folder] = standing_for(shown)
        for folder in [folder for folder, stands in contents.items() if holding(folder, stands) is None]:
            from kdtune.report import eventfile

            events = [eventfile.layout(shown)]
            if folder == self.singles and metrics:
                events.append(eventfile.experiment(sessions, metrics))
            self.folders.replace(folder, events, contents[folder])


def _rows(rows: Sequence[Row]) -> list[dict[str, float]]:
    return [_finite(row) for row in rows]


def _finite(row: Row) -> dict[str, float]:
    """What TensorBoard can draw: neither NaN and infinity nor what was not measured."""
    return {name: float(value) for name, value in row.items() if isinstance(value, NUMBER) and math.isfinite(value)}
