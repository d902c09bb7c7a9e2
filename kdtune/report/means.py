"""A curve for each setting: the mean over its seeds, epoch by epoch, as a run of TensorBoard's.

    <folder>/tensorboard/means/student dropout=0.2 epochs=30/   events.out.tfevents.*  holds.json

A mean over changing seeds would jump. So an epoch is there when all seeds have reached it, and of it what all have
measured; final metrics when all are done. Left out, as in `kdtune table`, are seeds that diverged, failed or were
stopped by hand, and those that never began for want of a teacher: then the whole curve is that of the others. `seeds`
says how many they are.
What a run is trained with and how fast (`lr`, `noise/`, `time/`) is the single runs'. A mean has no time of its own:
its events have the time when they were written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kdtune.planning.plan import Plan
from kdtune.report.eventfolder import EventFolders, clear_others, holding, standing_for
from kdtune.report.sessions import settings
from kdtune.store.encoding import digest, to_lines
from kdtune.store.state import State

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

Row = Mapping[str, Any]  # one epoch of a history

LEFT_OUT = frozenset({State.DIVERGED, State.FAILED, State.SKIPPED, State.STOPPED})
EMPTY = digest(to_lines([]))  # of a history without epochs
SEEDS = "seeds"  # of a mean: how many runs it is over
SINGLE = ("lr", "noise", "time")  # groups of values that only single runs show


@dataclass(frozen=True)
class Ended:
    """A run that is done: the digest of its history, its final metrics."""

    history: str
    final: Mapping[str, float]


@dataclass
class _Curve:
    """A mean that is being added to: its file, and the last epoch in it."""

    path: Path
    last: dict[str, float]


class Means:
    """The event files of a plan's settings below `folder`. They follow what `tensorboard.Events` is told."""

    def __init__(self, folders: EventFolders, folder: Path, plan: Plan) -> None:
        self.folders, self.folder = folders, folder
        self.grow(plan)
        self._out: set[str] = set()
        self._ended: dict[str, Ended] = {}
        self._rows: dict[str, Sequence[Row]] = {}
        self._open: dict[str, _Curve] = {}

    def grow(self, plan: Plan) -> None:
        """A plan with more runs than before."""
        self.settings = settings(plan)  # ids by folder name
        self._of: dict[str, list[str]] = {}
        for name, ids in self.settings.items():
            for id in ids:
                self._of.setdefault(id, []).append(name)

    def lacking(self, states: Mapping[str, State], ended: Mapping[str, Ended]) -> set[str]:
        """How runs stand now; which of them have histories that `rebuild` needs: those of means that are not there."""
        self._out = {id for id, state in states.items() if state in LEFT_OUT}
        self._ended = dict(ended)
        self._open.clear()
        absent = (self._counted(name) for name in self.settings if not self._holds(name))
        return {id for ids in absent for id in ids}

    def rebuild(self, histories: Mapping[str, Sequence[Row]]) -> None:
        """Make the folder hold these means and no others, after `lacking`."""
        self._rows |= histories
        kept = {name for name in self.settings if self._holds(name) or self._whole(name)}
        clear_others(self.folder, kept)

    def extend(self, id: str, rows: Sequence[Row]) -> None:
        """A run has reached further; `rows` are all it has."""
        again = id in self._out or id in self._ended
        self._out.discard(id)
        self._ended.pop(id, None)
        self._rows[id] = rows
        for name in self._of.get(id, ()):
            if again:
                self._whole(name)
            else:
                self._advance(name)

    def end(self, id: str, state: State, ended: Ended) -> None:
        """A run has come to an end, or will be tried again."""
        if state in LEFT_OUT:
            self._out.add(id)
        elif state == State.DONE:
            self._ended[id] = ended
        for name in self._of.get(id, ()):
            if state in LEFT_OUT:
                self._whole(name)
            elif state == State.DONE and self._over(name):
                self._conclude(name)

    def close(self) -> None:
        """Means that are not over keep what they have."""
        self._open.clear()

    def _counted(self, name: str) -> list[str]:
        return [id for id in self.settings[name] if id not in self._out]

    def _over(self, name: str) -> bool:
        return all(id in self._ended for id in self._counted(name))

    def _contents(self, name: str) -> str:
        """What a mean stands for; the rows of those that are done are not read for it."""
        ended = {id: self._ended.get(id) for id in self._counted(name)}
        rows = {id: digest(to_lines([*self._rows.get(id, ())])) for id, each in ended.items() if each is None}
        return standing_for([[each.history, each.final] if each else rows[id] for id, each in ended.items()])

    def _holds(self, name: str) -> bool:
        return self._over(name) and holding(self.folder / name, self._contents(name)) is not None

    def _advance(self, name: str) -> None:
        """Add the epochs that all have reached since the last look."""
        curve = self._open.get(name)
        if curve is None or not curve.path.exists():  # it has not begun, or was deleted meanwhile
            self._whole(name)
        elif rows := self._averaged(name, int(curve.last["epoch"])):
            curve.last = rows[-1]
            self.folders.add(curve.path, [*_scalars(rows)])

    def _conclude(self, name: str) -> None:
        """Add the final metrics, for all are done."""
        curve = self._open.get(name)
        if curve is None or not curve.path.exists():
            self._whole(name)
        else:
            self.folders.add(curve.path, self._ending(name, curve.last))
            self.folders.note(curve.path, self._contents(name))

    def _whole(self, name: str) -> bool:
        """Write a mean anew, where there is anything of it; whether there is."""
        self._open.pop(name, None)
        rows = self._averaged(name, 0)
        if not rows and not (self._counted(name) and self._over(name)):
            return False
        from kdtune.report import eventfile

        last = rows[-1] if rows else {}
        events = [eventfile.restart(time.time()), *_scalars(rows), *self._ending(name, last)]
        contents = self._contents(name)
        path = holding(self.folder / name, contents) or self.folders.replace(self.folder / name, events, contents)
        if rows:
            self._open[name] = _Curve(path, last)
        return True

    def _ending(self, name: str, last: Row) -> list[Event]:
        """The means of final metrics, once all are done."""
        if not self._over(name):
            return []
        from kdtune.report import eventfile

        finals = [self._ended[id].final for id in self._counted(name)]
        return eventfile.ending([last] if last else [], _mean(finals), None, time.time())

    def _averaged(self, name: str, after: int) -> list[dict[str, float]]:
        """The epochs behind `after` that all have reached."""
        histories = [self._rows.get(id, ()) for id in self._counted(name)]
        if not histories or not all(histories):
            return []
        reached = min(int(rows[-1]["epoch"]) for rows in histories)
        if reached <= after:
            return []
        behind = [{int(row["epoch"]): row for row in _behind(rows, after)} for rows in histories]
        epochs = (epoch for epoch in range(after + 1, reached + 1) if all(epoch in rows for rows in behind))
        return [{"epoch": epoch, **_mean([rows[epoch] for rows in behind])} for epoch in epochs]


def _behind(rows: Sequence[Row], after: int) -> Iterable[Row]:
    return takewhile(lambda row: row["epoch"] > after, reversed(rows))


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    """Of each value that is a finite number in all of them; how many they are."""
    means: dict[str, float] = {SEEDS: len(rows)}
    for name in rows[0]:
        if name != "epoch" and name.partition("/")[0] not in SINGLE:
            with suppress(KeyError, TypeError, ValueError, OverflowError):  # one lacks it; it is no number
                mean = fmean([row[name] for row in rows])
                if math.isfinite(mean):
                    means[name] = mean
    return means


def _scalars(rows: Sequence[Mapping[str, float]]) -> Iterator[Event]:
    from kdtune.report import eventfile

    now = time.time()
    return (eventfile.scalars(row, int(row["epoch"]), now) for row in rows)
