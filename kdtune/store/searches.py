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
from kdtune.store.layout import RUN_ID, SEARCHES, proposal_key
from kdtune.store.objects import Objects
from kdtune.store.standing import READERS

PROPOSAL = re.compile(rf"{SEARCHES}/{RUN_ID.pattern}/(0|[1-9][0-9]{{0,8}})\.json")


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
        numbers = self.numbers()
        if self.objects.local is not None:
            read = [self._read(number) for number in numbers]
        else:
            with ThreadPoolExecutor(READERS) as pool:
                read = list(pool.map(self._read, numbers))
        return {number: record for number, record in zip(numbers, read, strict=True) if record is not None}

    def path(self, number: int) -> str:
        """Where a proposal lies, for messages."""
        return self.objects.path(proposal_key(self.id, number))

    def numbers(self) -> list[int]:
        """Of those that are there, damaged or not, in order. Raises StorageError."""
        found = map(number_of, self.objects.list(f"{SEARCHES}/{self.id}"))
        return sorted(number for number in found if number is not None)

    def keep(self, number: int, record: Record) -> Record:
        """Keeps a proposal; returns the one that counts, which is an earlier one where there is one. Raises
        StorageError."""
        data = seal({"point": dict(record.point), "drew_from": record.drew_from, "by": record.by})
        return self.bring(number, data) or record

    def bring(self, number: int, data: bytes) -> Record | None:
        """The same of a record as it is written; None where that is the one that counts."""
        for _ in range(2):  # a damaged record makes room for a good one
            if self.objects.create(proposal_key(self.id, number), data):
                break
            if (theirs := self._read(number)) is not None:
                return theirs
        return None

    def _read(self, number: int) -> Record | None:
        key = proposal_key(self.id, number)
        if (data := self.objects.get(key)) is None:
            return None
        try:
            return record_of(data)
        except ValueError as error:
            self.objects.reject(key, data, str(error))
            return None


def record_of(data: bytes) -> Record:
    """What is written there. ValueError where that is no record, or not as it was written."""
    found = unseal(data)
    point, drew_from, by = (found.get(name) for name in ("point", "drew_from", "by"))
    if not (isinstance(point, dict) and isinstance(drew_from, str) and isinstance(by, str)):
        raise ValueError("not as kdtune writes it")
    return Record(point, drew_from, by)


def number_of(key: str) -> int | None:
    """Which proposal a key names; None where it names none."""
    found = PROPOSAL.fullmatch(key)
    return int(found[1]) if found else None
