"""A run's id, made of its description: what `run` makes of a sweep file and `run.yaml` keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KNOBS = {("noise", "input"), ("noise", "teacher"), ("noise", "target"), ("dataset", "labels")}


def id_of(description: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of a description, in any order of its keys but among knobs.

    Raises TypeError for what is no description: values that JSON does not have, keys that are not text.
    """
    return hashlib.sha256(json.dumps(canonical(description)).encode()).hexdigest()[:12]


def canonical(stated: Any, path: tuple[str, ...] = ()) -> Any:
    """A description without the order of its keys, which no reader sees; but knobs of one point compose in theirs."""
    if not isinstance(stated, dict):
        return stated
    parts = {key: canonical(value, (*path, key)) for key, value in stated.items()}
    return [[key, parts[key]] for key in parts] if path in KNOBS else dict(sorted(parts.items()))
