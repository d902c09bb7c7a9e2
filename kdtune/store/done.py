"""The record that makes a run finished, and the files it vouches for. For `store` and `standing`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from kdtune.store.encoding import digest, unseal
from kdtune.store.layout import ATTEMPT, PROVENANCE, SHA256, WEIGHTS, done_key, run_folder
from kdtune.store.objects import Objects, StorageError
from kdtune.store.state import State

log = logging.getLogger(__name__)

OUTCOMES = (State.DONE, State.DIVERGED)


class DamagedError(Exception):
    """A file of a finished run is missing or not as it was written. The message names it and what would do."""


@dataclass(frozen=True)
class Done:
    """What `runs/done/<id>` says: the attempt that counts, how it ended, SHA-256 of its files by name."""

    attempt: str
    outcome: str
    files: dict[str, str]

    def __post_init__(self) -> None:
        if not (isinstance(self.attempt, str) and ATTEMPT.fullmatch(self.attempt) and self.outcome in OUTCOMES):
            raise ValueError(f"attempt {self.attempt!r}, outcome {self.outcome!r}")
        if not all(isinstance(value, str) and SHA256.fullmatch(value) for value in self.files.values()):
            raise ValueError("a digest is not 64 hex digits")
        if PROVENANCE not in self.files or (self.outcome == State.DONE and WEIGHTS not in self.files):
            raise ValueError(f"a run that is {self.outcome} has more files than {', '.join(sorted(self.files))}")


def read_done(objects: Objects, run_id: str) -> Done | None:
    """How the run ended, None if it did not. A damaged `done` is set aside with a warning and counts as none."""
    key = done_key(run_id)
    data = objects.get(key)
    if data is None:
        return None
    try:
        return Done(**unseal(data))
    except (ValueError, TypeError, AttributeError) as error:
        objects.reject(key, data, str(error))
        return None


def withdraw(objects: Objects, run_id: str, done: Done, why: str) -> None:
    """Set `done` aside with a warning, since what it vouches for is not there: the run is not finished any more.

    A `done` that another process has written since is left alone.
    """
    key = done_key(run_id)
    data = objects.get(key)
    if data is None or read_done(objects, run_id) != done:
        return
    try:
        kept = objects.set_aside(key, data)
    except StorageError as error:
        log.warning("run %s counts as not done, for %s; its record could not be set aside: %s", run_id, why, error)
    else:
        log.warning("run %s counts as not done, for %s; its record is kept as %s", run_id, why, kept)


def read_file(objects: Objects, run_id: str, done: Done, name: str) -> bytes:
    """A file of the attempt that counts. DamagedError if it is not as it was written."""
    key = f"{run_folder(run_id)}/{done.attempt}/{name}"
    data = objects.get(key)
    if data is None or digest(data) != done.files.get(name):
        raise DamagedError(
            f"{objects.path(key)} is {'missing' if data is None else 'damaged'}: it does not fit the digest in"
            f" {objects.path(done_key(run_id))}. Put it back, or `kdtune forget` it to train the run again"
        )
    return data
