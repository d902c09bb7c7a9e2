"""Where runs live, by id; the only memory there is. Nobody else knows a path.

    runs/<id>/<attempt>/      run.yaml  model.safetensors  history.jsonl  provenance.json  failure.json  checkpoints/
                              labels.npz (where labels were corrupted: which ones)
    runs/<id>/evaluations/    <evaluator's hash>.npz, then <evaluator's hash>.json
    runs/done/<id>            which attempt counts, how it ended, the digest of each of its files; written last
    runs/claims/<name>        see `claims`

Readers of a finished run follow only `done`. The first `done` wins and is never overwritten, so two drivers that train
the same run waste time and nothing else. A damaged file is never used: it is named, and set aside where that helps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kdtune.store import checkpoints
from kdtune.store.attempt import (
    ATTEMPT,
    DESCRIPTION,
    DONE,
    HISTORY,
    LABELS,
    PROVENANCE,
    RUN_ID,
    WEIGHTS,
    Attempt,
    Done,
    done_key,
    evaluation_key,
    read_done,
    run_folder,
)
from kdtune.store.claims import Claim, Claims, new_attempt
from kdtune.store.encoding import digest, from_json, from_lines, from_npz, from_yaml, seal, to_npz, unseal
from kdtune.store.objects import Objects, StorageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Attempt", "Claim", "DamagedError", "Done", "StorageError", "Store"]


class DamagedError(Exception):
    """A file of a finished run is missing or not as it was written. The message names it and what would do."""


class Store:
    """The runs under one root: a folder, a URI, or `Objects`. Reading needs no folder to exist."""

    def __init__(self, root: str | os.PathLike[str] | Objects) -> None:
        self.objects = root if isinstance(root, Objects) else Objects(root)
        self.claims = Claims(self.objects)

    def claim(self, name: str, wait: bool = False) -> Claim | None:
        """Claim a run (or "sweep/<name>/<profile>") before working on it; None if somebody else has it."""
        return self.claims.claim(name, wait)

    def owner(self, name: str) -> dict[str, Any] | None:
        """Who holds the claim now; None if nobody does, or nobody who is still alive."""
        return self.claims.owner(name)

    def attempt(self, run_id: str, name: str | None = None) -> Attempt:
        """A new folder to try this run in. `name` may be that of the claim held (`claim.attempt`)."""
        return Attempt(self.objects, run_id, name or new_attempt())

    # How a run ended; how runs stand: see `standing`

    def done(self, run_id: str) -> Done | None:
        """How the run ended, None if it did not. A damaged `done` is set aside with a warning and counts as none."""
        return read_done(self.objects, run_id)

    def finished(self) -> set[str]:
        """Ids of all runs that have a `done`, from one listing; nothing is read."""
        names = (key.removeprefix(f"{DONE}/") for key in self.objects.list(DONE))
        return {name for name in names if RUN_ID.fullmatch(name)}

    # What a run left

    def checkpoint(self, run_id: str) -> tuple[int, bytes] | None:
        """Epoch and bytes of the newest checkpoint, over all attempts, whose digest fits. Bad ones are set aside."""
        return checkpoints.newest(self.objects, run_folder(run_id))

    def weights(self, run_id: str) -> bytes:
        """The finished network (safetensors). LookupError if the run has none, DamagedError if not as written."""
        done = self.done(run_id)
        if done is None or WEIGHTS not in done.files:
            raise LookupError(
                f"run {run_id} {'is not done' if done is None else 'is ' + done.outcome}: it has no weights"
            )
        return self.file(run_id, done, WEIGHTS)

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """A row per epoch; of a run in progress, what its newest attempt has written so far. Empty if there is none."""
        done, data = self._newest(run_id, HISTORY)
        return [] if data is None else from_lines(data, whole=done)

    def provenance(self, run_id: str) -> dict[str, Any] | None:
        """Commit, versions, device, seconds, teacher chosen; None if there is none."""
        return self._parsed(run_id, PROVENANCE, from_json)

    def description(self, run_id: str) -> dict[str, Any] | None:
        """The resolved description that the id is the hash of; None if there is none."""
        return self._parsed(run_id, DESCRIPTION, from_yaml)

    def corrupted(self, run_id: str) -> np.ndarray | None:
        """Which of the images trained on had a wrong label, bool [N] in the order of `Data.train`; None: all clean."""
        _, data = self._newest(run_id, LABELS)
        if data is None:
            return None
        import numpy as np

        held = from_npz(data)
        return np.unpackbits(held["corrupted"], count=int(held["images"])).astype(bool)

    # Evaluations

    def write_evaluation(
        self,
        run_id: str,
        evaluator_hash: str,
        evaluator: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        """Store one evaluator's results. The first ones win: if there are any, nothing is written."""
        place = evaluation_key(run_id, evaluator_hash)
        record: dict[str, Any] = {"evaluator": evaluator, "metrics": metrics, "arrays_sha256": None}
        packed = to_npz(arrays) if arrays else None
        if packed is not None:
            record["arrays_sha256"] = digest(packed)
        sealed = seal(record)
        self.evaluation(run_id, evaluator_hash)  # sets damaged ones aside
        with self.objects.locked():
            if self.objects.exists(f"{place}.json"):
                return
            if packed is not None:
                self.objects.put(f"{place}.npz", packed)
            self.objects.create(f"{place}.json", sealed)

    def evaluation(self, run_id: str, evaluator_hash: str) -> dict[str, float | None] | None:
        """The metrics by name, None if not measured yet. Damaged ones are set aside, with a warning, and are none."""
        record = self._evaluation(run_id, evaluator_hash)
        return None if record is None else record["metrics"]

    def evaluation_arrays(self, run_id: str, evaluator_hash: str) -> dict[str, np.ndarray]:
        """The arrays by name; empty if not measured. DamagedError if they are not as written: all is set aside then."""
        record = self._evaluation(run_id, evaluator_hash)
        if record is None or record["arrays_sha256"] is None:
            return {}
        place = evaluation_key(run_id, evaluator_hash)
        data = self.objects.get(f"{place}.npz")
        if data is not None and digest(data) == record["arrays_sha256"]:
            return from_npz(data)
        if data is not None:
            self.objects.reject(f"{place}.npz", data, "it does not fit the digest beside it")
        self.objects.reject(
            f"{place}.json", self.objects.get(f"{place}.json") or b"", "its arrays are missing or damaged"
        )
        raise DamagedError(
            f"{self.objects.path(place)}.npz is {'missing' if data is None else 'damaged'};"
            " the same sweep command again measures it anew, without training"
        )

    def _evaluation(self, run_id: str, evaluator_hash: str) -> dict[str, Any] | None:
        key = f"{evaluation_key(run_id, evaluator_hash)}.json"
        data = self.objects.get(key)
        if data is None:
            return None
        try:
            record = unseal(data)
            if set(record) != {"evaluator", "metrics", "arrays_sha256"}:
                raise ValueError(f"it holds {', '.join(sorted(record))}")
        except ValueError as error:
            self.objects.reject(key, data, str(error))
            return None
        return record

    # Files

    def file(self, run_id: str, done: Done, name: str) -> bytes:
        """A file of the attempt that counts. DamagedError if it is not as it was written."""
        key = f"{run_folder(run_id)}/{done.attempt}/{name}"
        data = self.objects.get(key)
        if data is None or digest(data) != done.files[name]:
            raise DamagedError(
                f"{self.objects.path(key)} is {'missing' if data is None else 'damaged'}: it does not fit the digest in"
                f" {self.objects.path(done_key(run_id))}. Put it back, or delete the latter to train the run again"
            )
        return data

    def _attempts(self, run_id: str) -> list[str]:
        folder = run_folder(run_id)
        parts = {key.removeprefix(f"{folder}/").split("/")[0] for key in self.objects.list(folder)}
        return sorted((part for part in parts if ATTEMPT.fullmatch(part)), reverse=True)

    def _newest(self, run_id: str, name: str) -> tuple[bool, bytes | None]:
        """The file of the attempt that counts, checked (True), or of the newest attempt that has one (False)."""
        done = self.done(run_id)
        if done is not None:
            return True, self.file(run_id, done, name) if name in done.files else None
        for attempt in self._attempts(run_id):
            if (data := self.objects.get(f"{run_folder(run_id)}/{attempt}/{name}")) is not None:
                return False, data
        return False, None

    def _parsed(self, run_id: str, name: str, parse: Callable[[bytes], Any]) -> dict[str, Any] | None:
        _, data = self._newest(run_id, name)
        try:
            return None if data is None else dict(parse(data))
        except (ValueError, TypeError) as error:
            raise DamagedError(f"{name} of the unfinished run {run_id} is damaged: {error}; train it again") from error
