"""What can be known to fail before a run starts, for all commands that start some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdtune.planning.plan import Plan
from kdtune.store.standing import Standing
from kdtune.store.state import FINISHED, State


def failing(plan: Plan, standing: Standing, states: Mapping[str, State], data_dir: Path) -> list[str]:
    """What data, evaluators, weights and networks say would fail, a sentence each. Nothing left to do, nothing said."""
    return on_another_machine(plan, standing, states, data_dir)()


def on_another_machine(
    plan: Plan, standing: Standing, states: Mapping[str, State], data_dir: Path
) -> Callable[[], list[str]]:
    """`failing`, to be called wherever it is sent to: it needs the machine's data and no store."""
    unfinished = [id for id, state in states.items() if state not in FINISHED]
    if not unfinished:
        return list
    untrained = {id for id in unfinished if standing.look(id).done is None}
    return partial(_preflight, dict(plan.runs), unfinished, untrained, plan.evaluation, data_dir)


def _preflight(*asked: Any) -> list[str]:
    from kdtune.training.preflight import preflight  # loads torch: not before it is called, and where

    return preflight(*asked)


def listed(problems: Sequence[str]) -> str:
    """One as it is, several from a new line each; what they go on with stands further in."""
    if len(problems) == 1:
        return problems[0]
    indented = (problem.replace("\n", "\n    ") for problem in problems)
    return "\n".join([f"{len(problems)} things would fail", *(f"  {problem}" for problem in indented)])
