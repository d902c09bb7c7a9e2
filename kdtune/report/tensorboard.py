"""TensorBoard event files, written by the driver: what `tensorboard --logdir` of a sweep's folder shows.

    <folder>/tensorboard/                               events.out.tfevents.*   the columns of the HParams tab
    <folder>/tensorboard/student dropout=0.2 seed=1/    events.out.tfevents.*   one run; `holds.json` says what of it

A view like the rest of the folder: `rebuild` derives it anew from histories and metrics and touches only what differs.
A history that is there already, by its digest, is not even read. In between rows are appended as they come. Files are
open only while something is written, however many runs there are.
TensorBoard's package is loaded (by `eventfile`) only where there is something to write.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.planning.plan import Plan, PlannedRun
from kdtune.report.table import flat
from kdtune.store.encoding import digest, to_lines
from kdtune.store.state import State

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

log = logging.getLogger(__name__)

Row = Mapping[str, Any]  # one epoch of a history
Reader = Callable[[Sequence[str]], Mapping[str, Sequence[Row]]]  # rows by id
HOLDS = "holds.json"
LONGEST = 100  # characters of a run's folder: file systems and TensorBoard's list of runs
SUCCESS = {State.DONE: True, State.DIVERGED: False, State.FAILED: False}  # states in which a session is over


@dataclass
class _Session:
    """A run whose file is still being added to: the file, and the rows in it."""

    path: Path
    rows: list[Row]


class Events:
    """The event files of one plan below `folder`, a local path. A failing write is a warning: the runs matter more."""

    def __init__(self, folder: str | Path, plan: Plan) -> None:
        self.folder = Path(folder) / "tensorboard"
        self.names = names(plan)
        self.parameters = parameters(plan)
        self._open: dict[str, _Session] = {}
        self._metrics: dict[str, None] = {}  # names of all final metrics, in order of appearance
        self._warned = False

    def rebuild(
        self, read: Reader, digests: Mapping[str, str], metrics: Mapping[str, Row], states: Mapping[str, State]
    ) -> None:
        """Make the folder hold every run of the plan once and whole, and nothing of any other run.

        `read` gives rows by id. It is not asked for a run that is over and is here whole, by the digest of its history
        and its final `metrics`. A run that has not begun (no rows, neither running nor over) is not shown.
        """
        self._open.clear()
        self._metrics = dict.fromkeys(name for final in metrics.values() for name in _finite(final))
        finals = {id: _finite(metrics.get(id, {})) for id in self.names}
        there = {id for id in self.names if self._holds(id, digests.get(id), finals[id], states.get(id))}
        shown = {self.names[id] for id in there}
        for id, rows in read([id for id in self.names if id not in there]).items():
            state = states.get(id, State.NEW)
            if rows or finals[id] or state == State.RUNNING or state in SUCCESS:
                shown.add(self.names[id])
                self._whole(id, [*rows], finals[id], SUCCESS.get(state))
        self._summarise()
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink() and path.name not in shown:
                _clear(path)

    def append(self, id: str, rows: Sequence[Row]) -> None:
        """Add the epochs that are not written yet; without rows, only show that the run has begun."""
        session = self._open.get(id)
        if session is None:
            self._whole(id, [*rows], {}, None)
            return
        last = session.rows[-1]["epoch"] if session.rows else 0
        if new := [row for row in rows if row["epoch"] > last]:
            session.rows += new
            from kdtune.report import eventfile

            self._add(session.path, [eventfile.scalars(_finite(row), int(row["epoch"]), time.time()) for row in new])

    def finish(self, id: str, metrics: Row, state: State = State.DONE) -> None:
        """Add the final metrics at the last epoch and end the session: success if `state` is done, else failure."""
        if id not in self._open:
            self._whole(id, [], {}, None)
        session, final, success = self._open.pop(id), _finite(metrics), SUCCESS.get(state, False)
        from kdtune.report import eventfile

        self._add(session.path, eventfile.ending(_rows(session.rows), final, success, time.time()))
        self._note(session.path, _digest(self.parameters[id], digest(to_lines(session.rows)), final, success))
        if not final.keys() <= self._metrics.keys():
            self._metrics |= dict.fromkeys(final)
            self._summarise()

    def close(self) -> None:
        """Nothing is held open; runs that are not over keep what they have."""
        self._open.clear()

    def _holds(self, id: str, history: str | None, final: dict[str, float], state: State | None) -> bool:
        """Whether all of a run that is over is there; `history` is the digest of its rows as the store has them."""
        if history is None or state not in SUCCESS:
            return False
        folder = self.folder / self.names[id]
        return _holding(folder, _digest(self.parameters[id], history, final, SUCCESS[state])) is not None

    def _whole(self, id: str, rows: list[Row], final: dict[str, float], success: bool | None) -> None:
        """Make a run's folder hold exactly this; `success` is None while the run is not over."""
        folder = self.folder / self.names[id]
        contents = _digest(self.parameters[id], digest(to_lines(rows)), final, success)
        path = _holding(folder, contents)
        if path is None:
            from kdtune.report import eventfile

            path = self._replace(folder, eventfile.session(self.parameters[id], _rows(rows), final, success), contents)
        if success is None:
            self._open[id] = _Session(path, rows)

    def _summarise(self) -> None:
        """Tell the HParams tab its columns, in this file alone. While no metric is known it finds out by itself."""
        if not self._metrics:
            _clear(self.folder)
            return
        sessions = list(self.parameters.values())
        contents = _digest(sessions, list(self._metrics))
        if _holding(self.folder, contents) is None:
            from kdtune.report import eventfile

            self._replace(self.folder, [eventfile.experiment(sessions, self._metrics)], contents)

    def _replace(self, folder: Path, events: list[Event], contents: str) -> Path:
        """Write a new file, then remove those before it. Its name sorts behind theirs: TensorBoard never looks back."""
        path = folder / f"events.out.tfevents.{time.time_ns()}.kdtune"
        before = _event_files(folder)
        if self._add(path, events, opening=True) and self._note(path, contents):
            for old in before:
                old.unlink(missing_ok=True)
        return path

    def _add(self, path: Path, events: Sequence[Event], *, opening: bool = False) -> bool:
        from kdtune.report import eventfile

        return self._written(path, eventfile.records(events, opening=opening), "ab")

    def _note(self, path: Path, contents: str) -> bool:
        size = path.stat().st_size if path.exists() else 0
        holds = {"file": path.name, "bytes": size, "sha256": contents}
        return self._written(path.with_name(HOLDS), json.dumps(holds).encode(), "wb")

    def _written(self, path: Path, data: bytes, mode: str) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, mode) as file:
                file.write(data)
        except OSError as error:
            if not self._warned:
                log.warning("TensorBoard files are incomplete, the runs are not affected: %s: %s", path, error.strerror)
            self._warned = True
            return False
        return True


def names(plan: Plan) -> dict[str, str]:
    """A readable folder name by id, safe on any file system; where two runs would share one, their ids are appended."""
    safe = {id: re.sub(r"[^A-Za-z0-9_.,=+ -]", "_", planned.name).strip(" .") for id, planned in plan.runs.items()}
    cut = {id: name[: LONGEST - 13].rstrip(" .") if len(name) > LONGEST else name for id, name in safe.items()}
    used = Counter(name.casefold() for name in cut.values())
    return {id: f"{cut[id]} {id}" if used[cut[id].casefold()] > 1 or cut[id] != safe[id] else cut[id] for id in safe}


def parameters(plan: Plan) -> dict[str, dict[str, Any]]:
    """The hyperparameters by id: bool, float or text, and one of them for each name throughout the plan."""
    raw = {
        id: {name: _plain(value) for name, value in _of(run, plan).items() if value is not None}
        for id, run in plan.runs.items()
    }
    kinds: dict[str, set[type]] = {}
    for values in raw.values():
        for name, value in values.items():
            kinds.setdefault(name, set()).add(type(value))
    return {
        id: {name: value if len(kinds[name]) == 1 else str(value) for name, value in values.items()}
        for id, values in raw.items()
    }


def _of(planned: PlannedRun, plan: Plan) -> dict[str, Any]:
    fixed = {"dataset": plan.dataset, "model": planned.run.model.title, "role": planned.role, "seed": planned.run.seed}
    teacher = {f"teacher.{axis}": value for axis, value in planned.teacher_parameters.items()}
    return fixed | planned.parameters | teacher | flat({"noise": planned.run.description.get("noise") or None})


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, bool | str):
        return value
    return float(value) if isinstance(value, int | float) else json.dumps(value, default=str)


def _rows(rows: Sequence[Row]) -> list[dict[str, float]]:
    return [_finite(row) for row in rows]


def _finite(row: Row) -> dict[str, float]:
    """What TensorBoard can draw: neither NaN and infinity nor what was not measured."""
    return {name: float(value) for name, value in row.items() if isinstance(value, Real) and math.isfinite(value)}


def _digest(*contents: Any) -> str:
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def _holding(folder: Path, contents: str) -> Path | None:
    """The folder's only event file, if it is as it was written and holds what `contents` stands for."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        holds = json.loads((folder / HOLDS).read_bytes())
        (path,) = _event_files(folder)
        if holds == {"file": path.name, "bytes": path.stat().st_size, "sha256": contents}:
            return path
    return None


def _clear(folder: Path) -> None:
    """Remove what this module wrote there, and the folder if that was all."""
    with suppress(OSError):
        for path in [*_event_files(folder), folder / HOLDS]:
            path.unlink(missing_ok=True)
        folder.rmdir()
