"""How a run stands, in one word. These words are shown to people and written to disk: they never change."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """How a run stands. The store tells the first six and what was stopped by hand (see `standing`); the others only
    the command that runs them knows."""

    NEW = "new"
    PARTIAL = "partial"  # has a checkpoint; or is trained, and an evaluator is new
    ELSEWHERE = "elsewhere"  # claimed by a live process
    DONE = "done"
    DIVERGED = "diverged"  # a result too: it is kept and not tried again
    FAILED = "failed"  # the next command tries again
    RUNNING = "running"
    SKIPPED = "skipped"  # its teachers failed
    STOPPED = "stopped"  # by hand, which the store tells too; or its command has ended before it


STARTABLE = frozenset({State.NEW, State.PARTIAL})
FINISHED = frozenset({State.DONE, State.DIVERGED})  # what a student waits for
PASSED_OVER = FINISHED | {State.SKIPPED, State.STOPPED}  # at a command's start: it does nothing about these
ENDED = FINISHED | {State.FAILED, State.SKIPPED, State.STOPPED}
