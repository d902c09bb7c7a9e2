"""TensorBoard event files, written by the driver: what `tensorboard --logdir <folder>/tensorboard` shows.

    <folder>/tensorboard/                               events.out.tfevents.*   the columns of the HParams tab
    <folder>/tensorboard/student dropout=0.2 seed=1/    events.out.tfevents.*   one run; `holds.json` says what of it

A run that stands at several places of the sweep has a folder for each. Its curves are in the first alone; the others
are for HParams: how it began there, its final metrics, how it ended.

A view like the rest of the folder: `rebuild` derives it anew from histories and metrics and touches only what differs.
A history that is there already, by its digest, is not even read. In between rows are appended as they come. Files are
open only while something is written, however many runs there are.
TensorBoard's package is loaded (by `eventfile`) only where there is something to write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.planning.plan import Place, Plan
from kdtune.report.table import flat
from kdtune.store.encoding import digest, to_lines
from kdtune.store.state import State

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

log = logging.getLogger(__name__)

Row = Mapping[str, Any]  # one epoch of a history
Reader = Callable[[Sequence[str]], Mapping[str, Sequence[Row]]]  # rows by id
HOLDS = "holds.json"
AGAIN = "+"  # between a run's id and the number of a further place of it, from 2
LONGEST = 100  # characters of a run's folder: file systems and TensorBoard's list of runs
SUCCESS = {State.DONE: True, State.DIVERGED: False, State.FAILED: False}  # states in which a session is over


@dataclass
class _Session:
    """A run whose file is still being added to: the file, and the rows in it."""

    path: Path
    rows: list[Row]
    final: dict[str, float]


class Events:
    """The event files of one plan below `folder`, a local path. A failing write is a warning: the runs matter more."""

    def __init__(self, folder: str | Path, plan: Plan) -> None:
        self.folder = Path(folder) / "tensorboard"
        self.names = names(plan)
        self.parameters = parameters(plan)
        self.runs = list(plan.runs)
        self._further: dict[str, list[str]] = {id: [] for id in self.runs}  # keys of a run's further sessions
        for key in [key for key in self.names if key not in plan.runs]:
            self._further[key.partition(AGAIN)[0]].append(key)
        self._open: dict[str, _Session] = {}
        self._left: dict[str, list[Row]] = {}  # by runs that ended
        self._metrics: dict[str, None] = {}  # names of all final metrics, in order of appearance
        self._warned = False

    def rebuild(
        self, read: Reader, digests: Mapping[str, str], metrics: Mapping[str, Row], states: Mapping[str, State]
    ) -> None:
        """Make the folder hold every run of the plan once and whole, and nothing of any other run.

        `read` gives rows by id. It is not asked for a run that is over and is here whole, by the digest of its history
        and its final `metrics`. A run that has not begun (no rows, neither running nor over) is not shown.
        """
        live = self._left | {id: session.rows for id, session in self._open.items()}  # the store keeps none of these
        self._open.clear()
        self._metrics = dict.fromkeys(name for final in metrics.values() for name in _finite(final))
        finals = {id: _finite(metrics.get(id, {})) for id in self.runs}
        shown = {id for id in self.runs if self._holds(id, digests.get(id), finals[id], states.get(id))}
        for id, rows in read([id for id in self.runs if id not in shown]).items():
            state, rows = states.get(id, State.NEW), rows or live.get(id, [])
            if rows or finals[id] or state == State.RUNNING or state in SUCCESS:
                shown.add(id)
                self._whole(id, [*rows], finals[id], SUCCESS.get(state))
        self._summarise()
        kept = {self.names[key] for id in shown for key in (id, *self._further[id])}
        for path in self.folder.iterdir() if self.folder.is_dir() and not self.folder.is_symlink() else ():
            if path.is_dir() and not path.is_symlink() and path.name not in kept:
                _clear(path)

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

            self._add(session.path, [eventfile.scalars(_finite(row), int(row["epoch"]), time.time()) for row in new])

    def finish(self, id: str, metrics: Row, state: State = State.DONE) -> None:
        """Add the final metrics at the last epoch and end the session: success if `state` is done, else failure."""
        self.append(id, [])
        session, final, success = self._open.pop(id), _finite(metrics), SUCCESS.get(state, False)
        self._left[id] = session.rows
        from kdtune.report import eventfile

        new = {name: value for name, value in final.items() if session.final.get(name) != value}
        self._add(session.path, eventfile.ending(_rows(session.rows), new, success, time.time()))
        self._note(session.path, _digest(self.parameters[id], digest(to_lines(session.rows)), final, success))
        self._again(id, final, success)
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
        contents = {id: _digest(self.parameters[id], history, final, SUCCESS[state])}
        contents |= {key: _digest(self.parameters[key], final, SUCCESS[state]) for key in self._further[id]}
        return all(_holding(self.folder / self.names[key], holds) is not None for key, holds in contents.items())

    def _whole(self, id: str, rows: list[Row], final: dict[str, float], success: bool | None) -> None:
        """Make a run's folders hold exactly this; `success` is None while the run is not over."""
        folder = self.folder / self.names[id]
        contents = _digest(self.parameters[id], digest(to_lines(rows)), final, success)
        path = _holding(folder, contents)
        if path is None:
            from kdtune.report import eventfile

            events = eventfile.session(self.names[id], self.parameters[id], _rows(rows), final, success)
            path = self._replace(folder, events, contents)
        if success is None:
            self._open[id] = _Session(path, rows, final)
        self._again(id, final, success)

    def _again(self, id: str, final: dict[str, float], success: bool | None) -> None:
        """The same of a run's further places: no curves."""
        for key in self._further[id]:
            contents, folder = _digest(self.parameters[key], final, success), self.folder / self.names[key]
            if _holding(folder, contents) is None:
                from kdtune.report import eventfile

                events = eventfile.session(self.names[key], self.parameters[key], [], final, success)
                self._replace(folder, events, contents)

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
            if link := next((place for place in (self.folder, path.parent) if place.is_symlink()), None):
                raise OSError(errno.ELOOP, f"{link} is a link")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, mode, opener=_no_link) as file:
                file.write(data)
        except OSError as error:
            if not self._warned:
                log.warning("TensorBoard files are incomplete, the runs are not affected: %s: %s", path, error.strerror)
            self._warned = True
            return False
        return True


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sessions(plan: Plan) -> dict[str, Place]:
    """What is shown of a plan, by key: runs by their ids, and every further place of a run by `<id>+2`, `<id>+3`."""
    found = dict(plan.runs)
    places = Counter(plan.runs.keys())
    for place in plan.places:
        if place is not plan.runs[place.id]:
            places[place.id] += 1
            found[f"{place.id}{AGAIN}{places[place.id]}"] = place
    return found


def names(plan: Plan) -> dict[str, str]:
    """A readable folder name by key, safe on any file system; where two would share one, their keys are appended."""
    safe = {key: re.sub(r"[^A-Za-z0-9_.,=+ -]", "_", place.name).strip(" .") for key, place in sessions(plan).items()}
    cut = {key: name[: LONGEST - 20].rstrip(" .") if len(name) > LONGEST else name for key, name in safe.items()}
    used = Counter(name.casefold() for name in cut.values())
    own = {key for key in safe if used[cut[key].casefold()] == 1 and cut[key] == safe[key]}
    return {key: cut[key] if key in own else f"{cut[key]} {key}" for key in safe}


def parameters(plan: Plan) -> dict[str, dict[str, Any]]:
    """The hyperparameters by key: bool, float or text, and one of them for each name throughout the plan."""
    raw = {
        key: {name: _plain(value) for name, value in _of(place).items() if value is not None}
        for key, place in sessions(plan).items()
    }
    kinds: dict[str, set[type]] = {}
    for values in raw.values():
        for name, value in values.items():
            kinds.setdefault(name, set()).add(type(value))
    return {
        id: {name: value if len(kinds[name]) == 1 else str(value) for name, value in values.items()}
        for id, values in raw.items()
    }


def _of(place: Place) -> dict[str, Any]:
    run = place.run
    fixed = {"dataset": run.dataset.heading, "model": run.model.title, "role": place.role, "seed": run.seed}
    teacher = {f"teacher.{axis}": value for axis, value in place.teacher_parameters.items()}
    return fixed | place.parameters | teacher | flat({"noise": run.description.get("noise") or None})


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
    if folder.is_symlink():
        return
    with suppress(OSError):
        for path in [*_event_files(folder), folder / HOLDS]:
            path.unlink(missing_ok=True)
        folder.rmdir()
