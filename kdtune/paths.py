"""Where results and data lie when nobody says: flags first, then the environment, then a default."""

from __future__ import annotations

import os
from pathlib import Path


def results_folder(given: str | None = None) -> str:
    """`--results`, KDTUNE_RESULTS, or ./results; a folder (made absolute) or a URI such as s3://bucket/prefix."""
    where = given or os.environ.get("KDTUNE_RESULTS") or "results"
    return where if "://" in where else str(Path(where).expanduser().resolve())


def data_folder(given: str | None = None) -> Path:
    """`--data`, KDTUNE_DATA, or the user's cache folder: downloads and decoded image folders, once per machine."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or os.environ.get("KDTUNE_DATA") or f"{cache}/kdtune").expanduser().resolve()
