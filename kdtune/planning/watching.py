"""Who has a say in a dispatch, and who is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from kdtune.planning.plan import Plan
from kdtune.store.state import State


class Watcher(Protocol):
    """Who is told what happens: the screen, TensorBoard. The plan that a watcher was given has these ids, or has got
    them in `grown`."""

    def started(self, id: str) -> None: ...
    def rows(self, id: str, rows: list[dict[str, float]]) -> None: ...
    def ended(self, id: str, state: State) -> None: ...
    def grown(self, plan: Plan, new: Sequence[str]) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


class CannotGrow(Exception):
    """What a source would ask for next cannot be asked for; the message says why."""


class Source(Protocol):
    """Where a plan's further runs come from: a search."""

    def more(self, states: Mapping[str, State]) -> Plan | None:
        """The plan with what can be asked for by now, given how its runs stand; None where that is nothing new.

        Raises CannotGrow, StorageError.
        """

    @property
    def to_come(self) -> int:
        """How many students are not in the plan yet, at most."""

    @property
    def progress(self) -> str:
        """How far it is, in words."""

    def foreseen(self) -> Plan:
        """The plan as it may be in the end: for what is yet to come stand others like it."""
