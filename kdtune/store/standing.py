"""How runs stand: one look at the store for the length of a command. Whoever asks for a run's state asks here.

`Standing` lists `runs/` once and reads the records that the listing names, each at most once, for nobody ever changes
them: `done`, evaluations, provenance. Claims do change: they are read whenever a state hangs on one. Where a place is
remote a request takes tens of milliseconds, so there all reads of a plan are made at the same time by many threads.

What this process or another does to a run afterwards is seen after `refresh`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from kdtune.store import checkpoints
from kdtune.store.attempt import ATTEMPT, DONE, FAILURE, HISTORY, PROVENANCE, RUN_ID, Done, evaluation_key, run_folder
from kdtune.store.claims import FOLDER as CLAIMS
from kdtune.store.encoding import from_json, from_lines, unseal
from kdtune.store.state import State
from kdtune.store.store import DamagedError, Store

READERS = 32  # requests to a remote place at one time

Metrics = dict[str, float | None]
Asked = TypeVar("Asked")
Told = TypeVar("Told")


class Look:
    """One run as a listing showed it, and what was read of it since. `done` and `claim`: whether there may be one."""

    def __init__(self, store: Store, run_id: str, keys: Iterable[str], done: bool, claim: bool) -> None:
        self.id = run_id
        self._store = store
        self._folder = run_folder(run_id)
        self._keys = frozenset(key.removeprefix(f"{self._folder}/") for key in keys)
        self._may_be_claimed = claim
        # Not cached_property: up to Python 3.11 all instances share one lock, and no two records are read at a time.
        self._done: list[Done | None] = [] if done else [None]
        self._provenance: list[dict[str, Any]] = []
        self._evaluations: dict[str, Metrics | None] = {}

    def state(self, evaluators: Iterable[str]) -> State:
        """The one place where it is decided. `evaluators` (hashes) are those that should have measured the run."""
        if self.done is not None and not (self.done.outcome == State.DONE and self.missing(evaluators)):
            return State(self.done.outcome)
        if self._may_be_claimed and self._store.owner(self.id) is not None:
            return State.ELSEWHERE
        if self.done is not None:
            return State.PARTIAL
        return State.FAILED if self.has_failed else self.untried

    @property
    def untried(self) -> State:
        """What it is before the next attempt at it, whatever became of the last one."""
        return State.PARTIAL if checkpoints.any_complete(self._keys) else State.NEW

    @property
    def done(self) -> Done | None:
        """How the run ended, None if it did not. A damaged `done` is set aside with a warning and counts as none."""
        if not self._done:
            self._done.append(self._store.done(self.id))
        return self._done[0]

    def missing(self, evaluators: Iterable[str]) -> list[str]:
        return [evaluator for evaluator in evaluators if self.evaluation(evaluator) is None]

    def evaluation(self, evaluator: str) -> Metrics | None:
        """What an evaluator measured, None if it did not. A damaged record is set aside with a warning and is none."""
        if evaluator not in self._evaluations:
            listed = f"{evaluation_key(self.id, evaluator)}.json".removeprefix(f"{self._folder}/") in self._keys
            self._evaluations[evaluator] = self._store.evaluation(self.id, evaluator) if listed else None
        return self._evaluations[evaluator]

    @property
    def provenance(self) -> dict[str, Any]:
        """Of a finished run; empty where there is none. DamagedError if it is not as it was written."""
        if self.done is None or PROVENANCE not in self.done.files:
            return {}
        if not self._provenance:
            self._provenance.append(dict(from_json(self._store.file(self.id, self.done, PROVENANCE))))
        return self._provenance[0]

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row per epoch, read each time, for it may be large. DamagedError if it is not as it was written."""
        if self.done is not None:
            listed = HISTORY in self.done.files
            return from_lines(self._store.file(self.id, self.done, HISTORY), whole=True) if listed else []
        return self._store.history(self.id) if any(key.endswith(f"/{HISTORY}") for key in self._keys) else []

    @property
    def has_failed(self) -> bool:
        """Whether the newest attempt has; nothing is read."""
        return self._failure_key is not None

    @property
    def failure(self) -> dict[str, Any] | None:
        """type, message, traceback and time of the newest attempt's failure; None if it had none or the run is done."""
        if self.done is not None or (key := self._failure_key) is None:
            return None
        try:
            return None if (data := self._store.objects.get(key)) is None else unseal(data)
        except ValueError as error:
            message = f"{self._store.objects.path(key)} is damaged: {error}"
            return {"type": "unknown", "message": message, "traceback": "", "time": ""}

    @property
    def _failure_key(self) -> str | None:
        attempts = {key.split("/")[0] for key in self._keys}
        newest = max((name for name in attempts if ATTEMPT.fullmatch(name)), default="")
        return f"{self._folder}/{newest}/{FAILURE}" if f"{newest}/{FAILURE}" in self._keys else None


class Standing:
    """How the runs of a store stand, in the eyes of one command: `evaluators` (hashes) are those that it asks for."""

    def __init__(self, store: Store, evaluators: Iterable[str] = ()) -> None:
        self.store = store
        self.evaluators = tuple(evaluators)
        self._looks: dict[str, Look] = {}
        self._listed = False

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

    def measured(self, id: str) -> Metrics:
        """All that the evaluators have measured of a run so far, by metric."""
        metrics: Metrics = {}
        for evaluator in self.evaluators:
            metrics |= self.look(id).evaluation(evaluator) or {}
        return metrics

    def histories(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The rows of these runs, an epoch a row; none of a run that has no history yet."""
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
            return Look(self.store, id, self.store.objects.list(run_folder(id)), done=True, claim=True)

        self._looks |= zip(ids, self._each(again, ids), strict=True)
        self.preload(ids)

    def preload(self, ids: Iterable[str]) -> None:
        """Read what will be asked of these runs, all at once. In a local folder that saves nothing: no read there."""
        if self.store.objects.local is not None:
            return
        looks = [self.look(id) for id in ids]
        self._each(lambda look: look.done, looks)
        reads: list[Callable[[], Any]] = []
        for look in looks:
            reads += [_reading(look, evaluator) for evaluator in self.evaluators]
            reads += [_reading(look)] if look.done is not None else []
        self._each(lambda read: read(), reads)

    def _list(self) -> None:
        keys: dict[str, list[str]] = {}
        done, claimed = set(), set()
        for key in self.store.objects.list("runs"):
            folder, _, name = key.rpartition("/")
            if folder == DONE:
                done.add(name)
            elif folder == CLAIMS:
                claimed.add(name)
            else:
                keys.setdefault(key.split("/")[1], []).append(key)
        for id in keys.keys() | done | claimed:
            if RUN_ID.fullmatch(id) and id not in self._looks:
                self._looks[id] = Look(self.store, id, keys.get(id, ()), id in done, id in claimed)
        self._listed = True

    def _each(self, ask: Callable[[Asked], Told], of: Sequence[Asked]) -> list[Told]:
        if self.store.objects.local is not None or len(of) < 2:
            return [ask(each) for each in of]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(ask, of))


def _reading(look: Look, evaluator: str | None = None) -> Callable[[], Any]:
    """The read of an evaluator's results, or of the provenance. What is damaged is told when it is asked for."""

    def read() -> None:
        if evaluator is not None:
            look.evaluation(evaluator)
        else:
            with suppress(DamagedError):
                look.provenance  # noqa: B018

    return read
