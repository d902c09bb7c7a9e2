"""What a check found, in a line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """`failure`: it would not work, or lets others in. `warning`: it works, and costs or risks more than need be."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """One thing about a file, a machine or a cluster, in a line."""

    level: Level
    what: str


def ok(what: str) -> Finding:
    return Finding(Level.OK, what)


def warning(what: str) -> Finding:
    return Finding(Level.WARNING, what)


def failure(what: str) -> Finding:
    return Finding(Level.FAILURE, what)
