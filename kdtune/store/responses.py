"""A teacher's stored answers on their way to other machines: large, made once, the same for all who ask.

    runs/responses/<key>/<attempt>/000  001 ...   the file in parts, each written whole
    runs/responses/<key>/about                    which attempt counts, and the digest of each part; written last

As everywhere in the store the first `about` wins. Nothing takes them away (`KDTUNE_RESPONSES_GB` is about the copies
that machines keep): whoever wants the room deletes `runs/responses`, and what is needed is computed again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from kdtune.store.encoding import digest, seal, unseal
from kdtune.store.layout import HASH, RESPONSES
from kdtune.store.objects import Objects

log = logging.getLogger(__name__)

PART = 64 << 20  # bytes: what a bucket takes in one request, and a machine has in memory meanwhile


class Responses:
    """The answers of one key, in one store."""

    def __init__(self, objects: Objects, key: str) -> None:
        if not HASH.fullmatch(key):
            raise ValueError(f"{key!r} is not a key of answers: 6 to 64 hex digits")
        self._objects, self._folder = objects, f"{RESPONSES}/{key}"

    @property
    def claim(self) -> str:
        """The name of the claim that whoever computes them holds."""
        return self._folder.removeprefix("runs/")

    def publish(self, path: Path, attempt: str) -> bool:
        """Keeps the file at `path`, in a folder of this attempt; False where somebody else was first, whose counts."""
        digests: list[str] = []
        with path.open("rb") as file:
            while part := file.read(PART):
                self._objects.put(self._part(attempt, len(digests)), part)
                digests.append(digest(part))
        return self._objects.create(f"{self._folder}/about", seal({"attempt": attempt, "parts": digests}))

    def fetch(self, path: Path) -> bool:
        """Writes them to `path`; False where there are none. Damaged ones are set aside with a warning, and are none.

        Errors: OSError where `path` cannot be written, StorageError.
        """
        key = f"{self._folder}/about"
        if (data := self._objects.get(key)) is None:
            return False
        try:
            about = unseal(data)
            attempt, digests = str(about["attempt"]), list(about["parts"])
        except (ValueError, LookupError, TypeError) as error:
            self._objects.reject(key, data, str(error))
            return False
        with path.open("wb") as file:
            for number, wanted in enumerate(digests):
                part = self._objects.get(self._part(attempt, number))
                if part is None or digest(part) != wanted:
                    lost = self._objects.path(self._part(attempt, number))
                    self._objects.reject(key, data, f"{lost} is {'missing' if part is None else 'damaged'}")
                    return False
                file.write(part)
        return True

    def _part(self, attempt: str, number: int) -> str:
        return f"{self._folder}/{attempt}/{number:03d}"
