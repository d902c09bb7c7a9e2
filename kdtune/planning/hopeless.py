"""Why a run can never start: what became of the teachers, and of the source, that it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdtune.store.state import State

Parts = Mapping[str, Sequence[str]]  # `Place.chooses_from`


def hopeless(parts: Parts, states: Mapping[str, State], reasons: Mapping[str, str]) -> str:
    """Empty if it may start some time. `reasons`: why others ended without a result, by id. What has no state is not
    waited for."""
    for part, ids in parts.items():
        for id in (id for id in ids if id in states):
            if states[id] is State.STOPPED:
                return f"its {part} {id} was stopped {reasons.get(id, '')}".rstrip()
            if states[id] is State.SKIPPED:
                return f"its {part} {id} is skipped: {reasons[id]}"
            if states[id] is State.FAILED:
                return f"its {part} {id} failed"
    for part, ids in parts.items():
        if _diverged(ids, states):
            return "all teachers it chooses from diverged" if part == "teacher" else f"its {part} {ids[0]} diverged"
    return ""


def all_diverged(parts: Parts, states: Mapping[str, State]) -> bool:
    """Whether there is nobody to learn from, or to have images from, which is a result and not a failure."""
    return any(_diverged(ids, states) for ids in parts.values())


def _diverged(ids: Sequence[str], states: Mapping[str, State]) -> bool:
    known = [states[id] for id in ids if id in states]
    return bool(known) and all(state is State.DIVERGED for state in known)
