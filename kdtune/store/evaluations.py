"""What evaluators measured of one network: `<attempt>/evaluations/<hash>.npz`, then `<hash>.json`, which is sealed.

A number belongs to the weights that it was measured on: results lie under the attempt that trained them and say of
which run and weights they are. What does not fit is never read; it is set aside with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdtune.store.done import DamagedError
from kdtune.store.encoding import digest, from_npz, seal, to_npz, unseal
from kdtune.store.layout import EVALUATIONS, evaluation_name, run_folder
from kdtune.store.objects import Objects

if TYPE_CHECKING:
    import numpy as np

FIELDS = {"run", "weights", "evaluator", "code", "metrics", "arrays_sha256"}
Metrics = dict[str, float | None]


class Evaluations:
    """Results by evaluator's hash, of the network with these `weights` (SHA-256 of their file)."""

    def __init__(self, objects: Objects, run_id: str, attempt: str, weights: str) -> None:
        self._objects, self._run_id, self._attempt, self._weights = objects, run_id, attempt, weights

    def record(self, evaluator_hash: str) -> dict[str, Any] | None:
        """FIELDS, None if it is not measured yet. What is damaged or of other weights is set aside and is none."""
        key = f"{self._place(evaluator_hash)}.json"
        data = self._objects.get(key)
        if data is None:
            return None
        try:
            return fitting(data, self._run_id, self._weights)
        except ValueError as error:
            self._objects.reject(key, data, str(error))
            return None

    def metrics(self, evaluator_hash: str) -> Metrics | None:
        """The metrics by name, None if they are not measured yet."""
        record = self.record(evaluator_hash)
        return None if record is None else record["metrics"]

    def arrays(self, evaluator_hash: str) -> dict[str, np.ndarray]:
        """The arrays by name; empty if not measured. DamagedError if they are not as written: all is set aside then."""
        record = self.record(evaluator_hash)
        if record is None or record["arrays_sha256"] is None:
            return {}
        place = self._place(evaluator_hash)
        data = self._objects.get(f"{place}.npz")
        if data is not None and digest(data) == record["arrays_sha256"]:
            return from_npz(data)
        if data is not None:
            self._objects.reject(f"{place}.npz", data, "it does not fit the digest beside it")
        metrics = self._objects.get(f"{place}.json") or b""
        self._objects.reject(f"{place}.json", metrics, "its arrays are missing or damaged")
        raise DamagedError(
            f"{self._objects.path(place)}.npz is {'missing' if data is None else 'damaged'};"
            " the same sweep command again measures it anew, without training"
        )

    def write(
        self,
        evaluator_hash: str,
        evaluator: Mapping[str, Any],
        metrics: Mapping[str, float | None],
        arrays: Mapping[str, np.ndarray],
        code: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep an evaluator's results; `code` says which code measured. If there are any already, those stay.

        ValueError for a metric that is no number.
        """
        packed = to_npz(arrays) if arrays else None
        record = {
            "run": self._run_id,
            "weights": self._weights,
            "evaluator": evaluator,
            "code": code or {},
            "metrics": {name: float(value) if isinstance(value, bool) else value for name, value in metrics.items()},
            "arrays_sha256": digest(packed) if packed is not None else None,
        }
        sealed = seal(record)
        fitting(sealed, self._run_id, self._weights)  # else it would be measured again and again, and never be there
        self.add(evaluator_hash, sealed, packed)

    def take_over(self, evaluator_hash: str, code: Mapping[str, Any]) -> bool:
        """Copy what an earlier attempt at this run measured, if it had trained the very same weights and measured with
        the same code; True if there was such a result."""
        below = [EVALUATIONS, f"{evaluator_hash}.json"]
        listed = self._objects.list(run_folder(self._run_id))
        for key in reversed([key for key in listed if key.split("/")[3:] == below]):  # the newest attempt first
            data = self._objects.get(key)
            try:
                record = fitting(data or b"", self._run_id, self._weights)
            except ValueError:  # of other weights, or damaged: it is that attempt's matter
                continue
            packed = self._objects.get(f"{key.removesuffix('.json')}.npz") if record["arrays_sha256"] else None
            fits = record["arrays_sha256"] == (digest(packed) if packed is not None else None)
            if fits and record["code"].get("sources") == code.get("sources"):
                self.add(evaluator_hash, data or b"", packed)
                return True
        return False

    def add(self, evaluator_hash: str, sealed: bytes, packed: bytes | None) -> None:
        """Keep a record (that `fitting` takes) and its arrays as they are. If there are any already, those stay."""
        self.record(evaluator_hash)  # sets what is damaged aside
        place = self._place(evaluator_hash)
        with self._objects.locked():
            if self._objects.exists(f"{place}.json"):
                return
            if packed is not None:
                self._objects.put(f"{place}.npz", packed)
            self._objects.create(f"{place}.json", sealed)

    def _place(self, evaluator_hash: str) -> str:
        return f"{run_folder(self._run_id)}/{evaluation_name(self._attempt, evaluator_hash)}"


def fitting(data: bytes, run_id: str, weights: str) -> dict[str, Any]:
    """The record, if it is whole and of this network; else ValueError."""
    record = unseal(data)
    if set(record) != FIELDS:
        raise ValueError(f"it holds {', '.join(sorted(record))}")
    if not (isinstance(record["metrics"], dict) and isinstance(record["code"], dict)):
        raise ValueError("its metrics or its code are no mapping")
    if wrong := [name for name, value in record["metrics"].items() if type(value) not in (float, int, type(None))]:
        raise ValueError(f"its metric {wrong[0]!r} is no number")  # a table of which would stop a whole command
    if (record["run"], record["weights"]) != (run_id, weights):
        raise ValueError(f"it was measured on other weights, {record['weights']!s:.12} of run {record['run']}")
    return record
