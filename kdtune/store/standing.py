"""How runs stand: one look at the store for the length of a command. Whoever asks for a run's state asks here.

`Standing` lists `runs/` once and reads the records that the listing names, each at most once, for nobody ever changes
them: `done`, evaluations, provenance. Claims do change: they are read whenever a state hangs on one. Where a place is
remote a request takes tens of milliseconds, so there all reads of a plan are made at the same time by many threads.

A finished run is one whose `done` is there and what its numbers rest on: description, weights, and a provenance that is
as it was written. Where one is missing that is a warning, and the run is trained again, if it is not put back: one
damaged file is one run's matter and never stops a command. A history that is damaged is a warning and an empty one.

What this process or another does to a run afterwards is seen after `refresh`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from sys import intern
from typing import Any, TypeVar

from kdtune.garbage import uncollected
from kdtune.store import checkpoints
from kdtune.store.done import DamagedError, Done
from kdtune.store.encoding import from_json, from_lines, unseal
from kdtune.store.evaluations import Metrics
from kdtune.store.layout import (
    ATTEMPT,
    CLAIMS,
    DESCRIPTION,
    DONE,
    FAILURE,
    HISTORY,
    PROVENANCE,
    RUN_ID,
    STOPPED,
    WEIGHTS,
    evaluation_name,
    run_folder,
)
from kdtune.store.state import State
from kdtune.store.stopping import Stop, stop_of
from kdtune.store.store import Store

log = logging.getLogger(__name__)

FAILURE_FIELDS = ("type", "message", "traceback", "time")
READERS = 64  # requests to a remote place at one time

_TOLD: set[str] = set()  # what this process has said to be lost: a command looks more than once

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class Look:
    """One run as a listing showed it, and what was read of it since. `done`, `claim`, `stop`: whether there may be
    one."""

    def __init__(
        self, store: Store, run_id: str, keys: Iterable[str], done: bool, claim: bool, stop: bool = False
    ) -> None:
        self.id = run_id
        self._store = store
        self._folder = run_folder(run_id)
        self._keys = frozenset(key.removeprefix(f"{self._folder}/") for key in keys)
        self._may_be_claimed = claim
        # Not cached_property: up to Python 3.11 all instances share one lock, and no two records are read at a time.
        self._done: list[Done | None] = [] if done else [None]
        self._stop: list[Stop | None] = [] if stop else [None]
        self._provenance: dict[str, Any] = {}
        self._evaluations: dict[str, dict[str, Any] | None] = {}
        self._history_is_lost = False
        self.lost: tuple[Done, str] | None = None  # a record whose files are not there, and what lacks

    def state(self, evaluators: Iterable[str]) -> State:
        """The one place where it is decided. `evaluators` (hashes) are those that should have measured the run."""
        if self.done is not None and not (self.done.outcome == State.DONE and self.missing(evaluators)):
            return State(self.done.outcome)
        if self._may_be_claimed and self._store.owner(self.id) is not None:
            return State.ELSEWHERE
        if self.done is not None:
            return State.PARTIAL
        if self.stop is not None:
            return State.STOPPED
        return State.FAILED if self._failure_key else self.untried

    @property
    def stop(self) -> Stop | None:
        """Who has stopped it by hand; None if nobody has. Of a finished run it says nothing."""
        if not self._stop:
            self._stop.append(stop_of(self._store.objects, self.id))
        return self._stop[0]

    @property
    def untried(self) -> State:
        """What it is before the next attempt at it, whatever became of the last one."""
        return State.PARTIAL if checkpoints.any_complete(self._keys) else State.NEW

    @property
    def done(self) -> Done | None:
        """How the run ended, None if it did not, or if what its numbers rest on is not there any more."""
        if not self._done:
            done = self._store.done(self.id)
            if done is not None and (why := self._lacking(done)):
                # Whoever looks takes nothing away: what lacks may come back, with a disk or the end of a copy.
                if why not in _TOLD:
                    log.warning("run %s counts as not done, for %s; put it back, or it is trained again", self.id, why)
                _TOLD.add(why)
                self.lost, done = (done, why), None
            self._done.append(done)
        return self._done[0]

    def _lacking(self, done: Done) -> str:
        """What of a finished run is missing or damaged, empty if nothing is. Weights are only looked for, not read."""
        for name in (DESCRIPTION, WEIGHTS):
            key = f"{self._folder}/{done.attempt}/{name}"
            # The listing may be older than `done`: what it lacks is looked for.
            gone = f"{done.attempt}/{name}" not in self._keys and not self._store.objects.exists(key)
            if name in done.files and gone:
                return f"{self._store.objects.path(key)}, which is missing"
        try:
            self._provenance = dict(from_json(self._store.file(self.id, done, PROVENANCE)))
        except (DamagedError, ValueError, TypeError):
            return f"{self._store.objects.path(f'{self._folder}/{done.attempt}/{PROVENANCE}')}, missing or damaged"
        return ""

    def missing(self, evaluators: Iterable[str]) -> list[str]:
        return [evaluator for evaluator in evaluators if self.evaluation(evaluator) is None]

    def evaluation(self, evaluator: str) -> Metrics | None:
        """What an evaluator measured, None if it did not. A damaged record is set aside with a warning and is none."""
        record = self.record(evaluator)
        return None if record is None else record["metrics"]

    def record(self, evaluator: str) -> dict[str, Any] | None:
        """An evaluator's whole record (`evaluations.FIELDS`) on the weights that count, None if there is none."""
        if evaluator not in self._evaluations:
            self._evaluations[evaluator] = self._read(evaluator)
        return self._evaluations[evaluator]

    def _read(self, evaluator: str) -> dict[str, Any] | None:
        done = self.done
        if done is None or WEIGHTS not in done.files:
            return None
        if f"{evaluation_name(done.attempt, evaluator)}.json" not in self._keys:
            return None
        record = self._store.evaluations(self.id, done).record(evaluator)
        if record is not None:  # thousands of runs have the same hundred names
            record["metrics"] = {intern(name): value for name, value in record["metrics"].items()}
        return record

    @property
    def provenance(self) -> dict[str, Any]:
        """Of a finished run; empty where it is not."""
        return self._provenance if self.done is not None else {}

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row per epoch of a finished run, read each time, for it may be large. Empty, with a warning, where it is
        damaged."""
        done = self.done
        if done is None or HISTORY not in done.files or self._history_is_lost:
            return []
        try:
            return from_lines(self._store.file(self.id, done, HISTORY))
        except (DamagedError, ValueError) as error:
            log.warning("run %s is shown without its history: %s", self.id, error)
            self._history_is_lost = True
            return []

    @property
    def failure(self) -> dict[str, Any] | None:
        """type, message, traceback and time of the newest attempt's failure; None if it had none or the run is done."""
        return None if self.done is not None else self.last_failure

    @property
    def last_failure(self) -> dict[str, Any] | None:
        """The same of a run that is done: why what was asked of it since could not be measured."""
        if (key := self._failure_key) is None:
            return None
        try:
            data = self._store.objects.get(key)
            return None if data is None else dict.fromkeys(FAILURE_FIELDS, "") | unseal(data)
        except ValueError as error:
            message = f"{self._store.objects.path(key)} is damaged: {error}"
            return dict.fromkeys(FAILURE_FIELDS, "") | {"type": "unknown", "message": message}

    @property
    def _failure_key(self) -> str | None:
        if not self._keys:
            return None
        attempts = {key.split("/")[0] for key in self._keys}
        newest = max((name for name in attempts if ATTEMPT.fullmatch(name)), default="")
        return f"{self._folder}/{newest}/{FAILURE}" if f"{newest}/{FAILURE}" in self._keys else None


def members_of(chosen: Mapping[str, Any]) -> dict[str, str]:
    """Of the teacher that a provenance names the runs that it is made of, one or a whole pool, with the digests of
    their weights."""
    whole = str(chosen.get("id", ""))
    members = chosen.get("members") or {whole: chosen.get("weights_sha256", "")}
    return {id: members[id] for id in whole.split("+") if id in members}  # in the order of the pool


class Standing:
    """How the runs of a store stand, in the eyes of one command: `evaluators` (hashes) are those that it asks for."""

    def __init__(self, store: Store, evaluators: Iterable[str] = ()) -> None:
        self.store = store
        self.evaluators = tuple(evaluators)
        self._looks: dict[str, Look] = {}
        self._listed = False

    @uncollected()
    def states(self, ids: Iterable[str]) -> dict[str, State]:
        """How every one of these runs stands."""
        ids = list(ids)
        self.preload(ids)
        return dict(zip(ids, self._each(self.state, ids), strict=True))

    def state(self, id: str) -> State:
        """How a run stands; the claim of one that is not finished is read now."""
        return self.look(id).state(self.evaluators)

    def missing(self, id: str) -> list[str]:
        """Hashes of the evaluators that have not measured this run."""
        return self.look(id).missing(self.evaluators)

    def measured(self, id: str, further: Iterable[str] = ()) -> Metrics:
        """All that the evaluators, and after them `further` ones, have measured of a run so far, by metric. A flag that
        one of them raised is up."""
        metrics: Metrics = {}
        last = dict.fromkeys(further)
        for evaluator in (*(each for each in self.evaluators if each not in last), *last):
            raised = {name: value for name, value in metrics.items() if "flags/" in name and value}
            metrics |= (self.look(id).evaluation(evaluator) or {}) | raised
        return metrics

    def histories(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The rows of these runs, an epoch a row; none of a run that is not finished."""
        ids = list(ids)
        return dict(zip(ids, self._each(lambda id: self.look(id).history, ids), strict=True))

    def look(self, id: str) -> Look:
        """All that is known of a run. Of one that the store has never heard of: nothing."""
        if id not in self._looks and not self._listed:
            self._list()
        if id not in self._looks:
            self._looks[id] = Look(self.store, id, (), done=False, claim=False)
        return self._looks[id]

    def refresh(self, *ids: str) -> None:
        """Look at these runs again. Asked before anything else, it is a look at them alone: nothing else is listed."""

        def again(id: str) -> Look:
            return Look(self.store, id, self.store.objects.list(run_folder(id)), done=True, claim=True, stop=True)

        self._looks |= zip(ids, self._each(again, ids), strict=True)
        self.preload(ids)

    def preload(self, ids: Iterable[str], further: Iterable[str] = ()) -> None:
        """Read what will be asked of these runs, all at once. In a local folder that saves nothing: no read there."""
        if self.store.objects.local is not None:
            return
        looks = [self.look(id) for id in ids]
        self._each(lambda look: look.done, looks)
        evaluators = dict.fromkeys((*self.evaluators, *further))
        wanted = [(look, evaluator) for look in looks for evaluator in evaluators]
        self._each(lambda each: each[0].record(each[1]), wanted)

    def _list(self) -> None:
        self.store.objects.refuse_link(DONE)  # a listing passes over links: all would seem new
        keys: dict[str, list[str]] = {}
        done, claimed, stopped = set(), set(), set()
        for key in self.store.objects.list("runs"):
            folder, _, name = key.rpartition("/")
            if folder == DONE:
                done.add(name)
            elif folder == CLAIMS:
                claimed.add(name)
            elif folder == STOPPED:
                stopped.add(name)
            else:
                keys.setdefault(key.split("/")[1], []).append(key)
        for id in keys.keys() | done | claimed | stopped:
            if RUN_ID.fullmatch(id) and id not in self._looks:
                self._looks[id] = Look(self.store, id, keys.get(id, ()), id in done, id in claimed, id in stopped)
        self._listed = True

    def _each(self, ask: Callable[[Asked], Told], of: Sequence[Asked]) -> list[Told]:
        if self.store.objects.local is not None or len(of) < 2:
            return [ask(each) for each in of]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(ask, of))
