"""What a search has proposed: `searches/<its id>/<n>.json`, created once. Of two commands that propose the first wins.

It holds the point and what it was drawn from, never a value: values are the evaluations of runs. Nobody changes a
record, so a finished search starts nothing anew, whatever becomes of the sampler's code; a damaged one is set aside,
and drawn again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kdtune.store.encoding import seal, unseal
from kdtune.store.layout import SEARCHES, proposal_key
from kdtune.store.objects import Objects

NAME = re.compile(r"([0-9]{1,9})\.json")
READERS = 64  # requests to a remote place at one time


@dataclass(frozen=True)
class Record:
    """One proposal: values by axis, a digest of the weights and ends of the runs that it was drawn from, and by what.

    `drew_from` is empty where nothing was known yet.
    """

    point: Mapping[str, Any]
    drew_from: str
    by: str  # the sampler's package and version


class Searches:
    """The proposals of one search."""

    def __init__(self, objects: Objects, search_id: str) -> None:
        self.objects, self.id = objects, search_id

    def known(self) -> dict[int, Record]:
        """All that are there, by number. Raises StorageError."""
        folder = f"{SEARCHES}/{self.id}"
        names = [key.removeprefix(f"{folder}/") for key in self.objects.list(folder)]
        numbers = sorted(int(found[1]) for name in names if (found := NAME.fullmatch(name)))
        if self.objects.local is not None:
            read = [self._read(number) for number in numbers]
        else:
            with ThreadPoolExecutor(READERS) as pool:
                read = list(pool.map(self._read, numbers))
        return {number: record for number, record in zip(numbers, read, strict=True) if record is not None}

    def keep(self, number: int, record: Record) -> Record:
        """Keeps a proposal; returns the one that counts, which is an earlier one where there is one. Raises
        StorageError."""
        data = seal({"point": dict(record.point), "drew_from": record.drew_from, "by": record.by})
        for _ in range(2):  # a damaged record makes room for a good one
            if self.objects.create(proposal_key(self.id, number), data):
                break
            if (theirs := self._read(number)) is not None:
                return theirs
        return record

    def _read(self, number: int) -> Record | None:
        key = proposal_key(self.id, number)
        if (data := self.objects.get(key)) is None:
            return None
        try:
            found = unseal(data)
            point, drew_from, by = found["point"], found["drew_from"], found["by"]
            if not (isinstance(point, dict) and isinstance(drew_from, str) and isinstance(by, str)):
                raise ValueError("not as kdtune writes it")
        except (ValueError, KeyError) as error:
            self.objects.reject(key, data, str(error))
            return None
        return Record(point, drew_from, by)
