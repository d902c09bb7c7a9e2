"""Where runs live, by id; the only memory there is. Nobody else knows a path.

    runs/<id>/<attempt>/      run.yaml  model.safetensors  history.jsonl  provenance.json  failure.json  checkpoints/
                              labels.npz (where labels were corrupted: which ones)
                              stacks.txt (where it hung)
                              extension-<12 hex>.py (code of the user's own, as it was)
                              evaluations/  <evaluator's hash>.npz, then <evaluator's hash>.json, of these weights
    runs/done/<id>            which attempt counts, how it ended, the digest of each of its files; written last
    runs/claims/<name>        see `claims`
    runs/stopped/<id>         that somebody has stopped the run by hand; see `stopping`
    runs/responses/<key>/     a teacher's stored answers; see `responses`
    runs/imports/<digest>     which runs a bundle brought, and from where; see `importing`
    searches/<id>/<n>.json    what a search has proposed; see `searches`
    runs/trash/<time>/        what was taken away: <id>, done/<id>, stopped/<id> of each run; see `forgetting`

Readers of a finished run follow only `done`. The first `done` wins and is never overwritten, so two drivers that train
the same run waste time and nothing else. A damaged file is never used: it is named, and set aside where that helps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kdtune.store import checkpoints
from kdtune.store.attempt import Attempt
from kdtune.store.checkpoints import Checkpoint
from kdtune.store.claims import Claim, Claims, new_attempt
from kdtune.store.done import DamagedError, Done, read_done, read_file, withdraw
from kdtune.store.evaluations import Evaluations, Metrics
from kdtune.store.layout import ATTEMPT, RUN_ID, WEIGHTS, run_folder
from kdtune.store.objects import Objects, StorageError
from kdtune.store.responses import Responses

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Attempt", "Claim", "DamagedError", "Done", "StorageError", "Store"]


class Store:
    """The runs under one root: a folder, a URI, or `Objects`. Reading needs no folder to exist.

    `by`: the command that runs are claimed for, see `claims`.
    """

    def __init__(self, root: str | os.PathLike[str] | Objects, by: str = "") -> None:
        self.objects = root if isinstance(root, Objects) else Objects(root)
        self.claims = Claims(self.objects, by=by)

    def claim(self, name: str) -> Claim | None:
        """Claim a run (or "sweep/<name>/<profile>") before working on it; None if somebody else has it."""
        return self.claims.claim(name, self._last_attempt(name))

    def owner(self, name: str) -> dict[str, Any] | None:
        """Who holds the claim now; None if nobody does, or nobody who is still alive."""
        return self.claims.owner(name)

    def attempt(self, run_id: str, name: str | None = None) -> Attempt:
        """A new folder to try this run in. `name` may be that of the claim held (`claim.attempt`)."""
        return Attempt(self.objects, run_id, name or new_attempt(self._last_attempt(run_id)))

    # How a run ended; how runs stand: see `standing`

    def done(self, run_id: str) -> Done | None:
        """How the run ended, None if it did not. A damaged `done` is set aside with a warning and counts as none.

        Whether the files are there that it vouches for, `standing` looks.
        """
        return read_done(self.objects, run_id)

    def withdraw(self, run_id: str, done: Done, why: str) -> None:
        """Set `done` aside with a warning: a file that it vouches for is not there, the run is not finished."""
        withdraw(self.objects, run_id, done, why)

    # Checkpoints

    def checkpoints(self, run_id: str) -> Iterator[tuple[Checkpoint, bytes]]:
        """The checkpoints of all attempts whose digest fits, newest first. Bad ones are set aside with a warning."""
        return checkpoints.sound(self.objects, run_folder(run_id))

    def reject_checkpoint(self, run_id: str, checkpoint: Checkpoint, why: str) -> None:
        """Set one aside with a warning."""
        checkpoints.reject(self.objects, run_folder(run_id), checkpoint, why)

    # Evaluations

    def evaluations(self, run_id: str, done: Done) -> Evaluations:
        """What evaluators measured of a finished network."""
        return Evaluations(self.objects, run_id, done.attempt, done.files[WEIGHTS])

    def evaluation(self, run_id: str, evaluator_hash: str) -> Metrics | None:
        """The metrics by name, None if not measured. Damaged ones are set aside, with a warning, and are none."""
        evaluations = self._finished_evaluations(run_id)
        return evaluations.metrics(evaluator_hash) if evaluations else None

    def evaluation_arrays(self, run_id: str, evaluator_hash: str) -> dict[str, np.ndarray]:
        """The arrays by name; empty if not measured. DamagedError if they are not as written: all is set aside then."""
        evaluations = self._finished_evaluations(run_id)
        return evaluations.arrays(evaluator_hash) if evaluations else {}

    def _finished_evaluations(self, run_id: str) -> Evaluations | None:
        done = self.done(run_id)
        return self.evaluations(run_id, done) if done is not None and WEIGHTS in done.files else None

    def responses(self, key: str) -> Responses:
        """A teacher's stored answers, for all machines."""
        return Responses(self.objects, key)

    # Files

    def file(self, run_id: str, done: Done, name: str) -> bytes:
        """A file of the attempt that counts. DamagedError if it is not as it was written."""
        return read_file(self.objects, run_id, done, name)

    def _last_attempt(self, name: str) -> str:
        if not RUN_ID.fullmatch(name):
            return ""
        parts = {key.split("/")[2] for key in self.objects.list(run_folder(name))}
        return max((part for part in parts if ATTEMPT.fullmatch(part)), default="")
