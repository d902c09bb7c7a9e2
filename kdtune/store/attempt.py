"""One try at a run, and the record that ends it. Readers go through `store`; the layout on disk is described there."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kdtune.store import checkpoints
from kdtune.store.claims import new_attempt
from kdtune.store.encoding import digest, seal, to_json, to_lines, to_npz, to_yaml, unseal
from kdtune.store.objects import Objects, StorageError
from kdtune.store.state import State

if TYPE_CHECKING:
    import numpy as np

OUTCOMES = (State.DONE, State.DIVERGED)
DESCRIPTION, WEIGHTS, HISTORY = "run.yaml", "model.safetensors", "history.jsonl"
PROVENANCE, FAILURE = "provenance.json", "failure.json"
LABELS = "labels.npz"
DONE = "runs/done"

RUN_ID = re.compile(r"[0-9a-f]{12}")
HASH = re.compile(r"[0-9a-f]{6,64}")
ATTEMPT = re.compile(r"[0-9]{8}T[0-9]{6,12}-[0-9a-f]{6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Done:
    """What `runs/done/<id>` says: the attempt that counts, how it ended, SHA-256 of its files by name."""

    attempt: str
    outcome: str
    files: dict[str, str]

    def __post_init__(self) -> None:
        if not (isinstance(self.attempt, str) and ATTEMPT.fullmatch(self.attempt) and self.outcome in OUTCOMES):
            raise ValueError(f"attempt {self.attempt!r}, outcome {self.outcome!r}")
        if not all(isinstance(value, str) and _SHA256.fullmatch(value) for value in self.files.values()):
            raise ValueError("a digest is not 64 hex digits")


class Attempt:
    """One try at a run, in a folder of its own, so that no other process writes here."""

    def __init__(self, objects: Objects, run_id: str, name: str) -> None:
        if not ATTEMPT.fullmatch(name):
            raise ValueError(f"{name!r} is not an attempt's name, such as {new_attempt()}")
        self.run_id = run_id
        self.name = name
        self._objects = objects
        self._run = run_folder(run_id)
        self._files: dict[str, str] = {}  # digests of what was written, by name

    def write_description(self, description: Mapping[str, Any]) -> None:
        """run.yaml."""
        self._write(DESCRIPTION, to_yaml(description))

    def write_corrupted(self, mask: np.ndarray) -> None:
        """labels.npz: which of the images trained on have a wrong label, bool [N], as packed bits and their number."""
        import numpy as np

        self._write(LABELS, to_npz({"corrupted": np.packbits(mask), "images": np.array(len(mask))}))

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The history so far, whole."""
        self._write(HISTORY, to_lines(rows))

    def save_checkpoint(self, epoch: int, data: bytes, keep: int = 2) -> None:
        """Write the state after `epoch` epochs; of all attempts of this run only the newest `keep` stay."""
        checkpoints.save(self._objects, self._run, self.name, epoch, data, keep)

    def write_failure(self, error: BaseException) -> None:
        """Why this attempt ended. The next attempt hides it."""
        record = {
            "type": type(error).__qualname__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._objects.put(f"{self._run}/{self.name}/{FAILURE}", seal(record))

    def finish(
        self, outcome: str, weights: bytes | None, history: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]
    ) -> bool:
        """Write the results, then `done`; True if it is this attempt that counts. All checkpoints go then."""
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome {outcome!r}; one of {', '.join(OUTCOMES)}")
        done = read_done(self._objects, self.run_id)
        if done is None:
            if weights is not None:
                self._write(WEIGHTS, weights)
            self.write_history(history)
            self._write(PROVENANCE, to_json(provenance, indent=2))
            mine = Done(self.name, outcome, self._files)
            self._objects.create(done_key(self.run_id), seal(asdict(mine)))
            done = read_done(self._objects, self.run_id)
        if done is None:
            where = self._objects.path(done_key(self.run_id))
            raise StorageError(
                f"{where} cannot be read back after writing; check the storage and give the command again"
            )
        checkpoints.delete_all(self._objects, self._run)
        return done.attempt == self.name

    def _write(self, name: str, data: bytes) -> None:
        self._objects.put(f"{self._run}/{self.name}/{name}", data)
        self._files[name] = digest(data)


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


def run_folder(run_id: str) -> str:
    """The key under which everything of a run lies; ValueError if `run_id` is not 12 hex digits."""
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} is not a run's id: 12 hex digits")
    return f"runs/{run_id}"


def done_key(run_id: str) -> str:
    """The key of the record that says a run is finished."""
    return f"{DONE}/{run_folder(run_id).removeprefix('runs/')}"


def evaluation_key(run_id: str, evaluator_hash: str) -> str:
    """The key of an evaluator's results, without .json or .npz."""
    if not HASH.fullmatch(evaluator_hash):
        raise ValueError(f"{evaluator_hash!r} is not an evaluator's hash: 6 to 64 hex digits")
    return f"{run_folder(run_id)}/evaluations/{evaluator_hash}"
