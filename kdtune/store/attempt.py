"""One try at a run, and the record that ends it. Readers go through `store`; the layout on disk is described there."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kdtune.store import checkpoints
from kdtune.store.claims import new_attempt
from kdtune.store.done import OUTCOMES, Done, read_done
from kdtune.store.encoding import digest, seal, to_json, to_lines, to_npz, to_yaml
from kdtune.store.evaluations import Evaluations
from kdtune.store.layout import (
    ATTEMPT,
    DESCRIPTION,
    FAILURE,
    HISTORY,
    LABELS,
    PROVENANCE,
    STACKS,
    WEIGHTS,
    done_key,
    run_folder,
)
from kdtune.store.objects import Objects, StorageError

if TYPE_CHECKING:
    import numpy as np


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

    def write_labels(self, mask: np.ndarray, labels: np.ndarray | None = None) -> None:
        """labels.npz: which of the images trained on have a wrong label, bool [N], as packed bits and their number;
        and, where they cannot be drawn again, the labels, int16 [N]."""
        import numpy as np

        kept = {"corrupted": np.packbits(mask), "images": np.array(len(mask))}
        self._write(LABELS, to_npz(kept if labels is None else kept | {"labels": labels.astype(np.int16)}))

    def write_extension(self, code: str, text: str) -> None:
        """The user's own code that decides the run's numbers, to be read by people; nothing here runs it."""
        self._write(f"extension-{code}.py", text.encode())

    def save_checkpoint(self, epoch: int, data: bytes) -> None:
        """Write the state after `epoch` epochs; of all attempts of this run only the newest few stay."""
        checkpoints.save(self._objects, self._run, self.name, epoch, data)

    def evaluations(self, weights: str) -> Evaluations:
        """What evaluators measure of the network that this attempt has trained; `weights` is the digest of its file."""
        return Evaluations(self._objects, self.run_id, self.name, weights)

    def write_failure(self, error: BaseException) -> None:
        """Why this attempt ended. The next attempt hides it."""
        record = {
            "type": type(error).__qualname__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._objects.put(f"{self._run}/{self.name}/{FAILURE}", seal(record))

    def write_stacks(self, text: str) -> None:
        """stacks.txt: where the threads of its process were when it did not get on."""
        self._objects.put(f"{self._run}/{self.name}/{STACKS}", text.encode())

    def finish(
        self,
        outcome: str,
        weights: bytes | None,
        history: Sequence[Mapping[str, Any]],
        provenance: Mapping[str, Any],
        others: Mapping[str, bytes] | None = None,
    ) -> bool:
        """Write the results, then `done`; True if it is this attempt that counts. All checkpoints go then.

        `others`: further weights of the run by file, of `layout.BESIDE`.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome {outcome!r}; one of {', '.join(OUTCOMES)}")
        done = read_done(self._objects, self.run_id)
        if done is None:
            if weights is not None:
                self._write(WEIGHTS, weights)
                for name, further in (others or {}).items():
                    self._write(name, further)
            self._write(HISTORY, to_lines(history))
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
