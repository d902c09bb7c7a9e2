"""What a store keeps of its runs, whole and held against its digests: for tests that compare what was written."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdtune.store.encoding import from_json, from_lines, from_npz, from_yaml
from kdtune.store.layout import DESCRIPTION, DONE, HISTORY, LABELS, PROVENANCE, WEIGHTS
from kdtune.store.store import Store


def finished(store: Store) -> set[str]:
    """Ids of the runs that have a `done`."""
    ids = (key.removeprefix(f"{DONE}/") for key in store.objects.list(DONE))
    return {id for id in ids if "." not in id and store.done(id) is not None}  # `<id>.damaged` is none


def checkpoint(store: Store, id: str) -> tuple[int, bytes] | None:
    """Epoch and bytes of the one that training would go on from."""
    return next(((found.epoch, data) for found, data in store.checkpoints(id)), None)


def weights(store: Store, id: str) -> bytes:
    return _file(store, id, WEIGHTS)


def history(store: Store, id: str) -> list[dict[str, Any]]:
    return from_lines(_file(store, id, HISTORY))


def provenance(store: Store, id: str) -> dict[str, Any]:
    return dict(from_json(_file(store, id, PROVENANCE)))


def description(store: Store, id: str) -> dict[str, Any]:
    return from_yaml(_file(store, id, DESCRIPTION))


def corrupted(store: Store, id: str) -> np.ndarray:
    """Which of the images trained on have a wrong label, bool [N]."""
    held = from_npz(_file(store, id, LABELS))
    return unpack(held["corrupted"], int(held["images"]))


def unpack(packed: np.ndarray, count: int) -> np.ndarray:
    """The bits that an evaluator packed (`evaluator.pack`), bool [..., count]."""
    return np.unpackbits(packed, axis=-1, count=count).astype(bool)


def _file(store: Store, id: str, name: str) -> bytes:
    done = store.done(id)
    assert done is not None, f"run {id} is not finished"
    return store.file(id, done, name)
