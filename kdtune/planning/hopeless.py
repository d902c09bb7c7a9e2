"""Why a run can never start: what became of the teachers that it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdtune.store.state import State


def hopeless(teachers: Sequence[str], states: Mapping[str, State], reasons: Mapping[str, str]) -> str:
    """Empty if it may start some time. `reasons`: why these ended without a result, by id."""
    for id in teachers:
        if states[id] is State.STOPPED:
            return f"its teacher {id} was stopped {reasons.get(id, '')}".rstrip()
        if states[id] is State.SKIPPED:
            return f"its teacher {id} is skipped: {reasons[id]}"
        if states[id] is State.FAILED:
            return f"its teacher {id} failed"
    return "all teachers it chooses from diverged" if all_diverged(teachers, states) else ""


def all_diverged(teachers: Sequence[str], states: Mapping[str, State]) -> bool:
    """Whether there is nobody to learn from, which is a result and not a failure."""
    return bool(teachers) and all(states.get(id) is State.DIVERGED for id in teachers)
