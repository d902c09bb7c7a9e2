"""What can be known to fail before a run starts, for all commands that start some."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kdtune.cli.refused import Refused
from kdtune.extensions import Extension, in_use, use
from kdtune.planning.plan import Plan
from kdtune.store.standing import Standing
from kdtune.store.state import PASSED_OVER, State

# Before anything is imported, which takes a second: Ctrl-C ends it without a word, which is for whoever asked.
ANSWER = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    " signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT]); from kdtune.cli.check import answer; answer()"
)


def failing(plan: Plan, standing: Standing, states: Mapping[str, State], data_dir: Path) -> list[str]:
    """What data, evaluators, weights and networks say would fail, a sentence each. Nothing left to do, nothing said."""
    return _preflight(*asked) if (asked := _asked(plan, standing, states, data_dir)) else []


def failing_apart(plan: Plan, standing: Standing, states: Mapping[str, State], data_dir: Path) -> list[str]:
    """`failing`, by a process of its own, with which torch goes again: the command of a sweep has no other use for half
    a gigabyte. What is printed there goes to stderr. Raises Refused where it comes to no answer."""
    if not (asked := _asked(plan, standing, states, data_dir)):
        return []
    searched = [place for place in sys.path if isinstance(place, str)]  # as Python takes it, which passes over a Path
    words = [sys.executable, "-c", f"import sys; sys.path[:] = {searched!a}; {ANSWER}"]
    with _later(signal.SIGINT):  # a terminal's Ctrl-C goes to both; there it ends a process that knows what to do then
        asking = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        answered, _ = asking.communicate(pickle.dumps((pickle.dumps(asked), in_use())))
    except BaseException:
        asking.kill()
        asking.wait()
        raise
    if (status := asking.returncode) or not answered:  # a model that calls sys.exit() ends it with 0
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        raise Refused(
            f"what would fail was not found out: the process that tried a step of each kind of run ended with {ended}; "
            "what it said of it stands above"
        )
    problems: list[str] = pickle.loads(answered)
    return problems


@contextmanager
def _later(number: int) -> Iterator[None]:
    """Inside, a signal waits, and for a process that is begun there until that one asks for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def answer() -> None:
    """The process of `failing_apart`: its question comes from stdin, its answer goes to stdout."""
    asked, extensions = pickle.load(sys.stdin.buffer)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # a model of the user's own may print
        pickle.dump(_sent(asked, extensions), out)


def on_another_machine(
    plan: Plan, standing: Standing, states: Mapping[str, State], data_dir: Path
) -> Callable[[], list[str]]:
    """`failing`, to be called wherever it is sent to: it needs the machine's data and no store."""
    asked = _asked(plan, standing, states, data_dir)
    return partial(_sent, pickle.dumps(asked), in_use()) if asked else list


def _asked(plan: Plan, standing: Standing, states: Mapping[str, State], data_dir: Path) -> tuple[Any, ...]:
    """Nothing where nothing is left to do."""
    unfinished = [id for id, state in states.items() if state not in PASSED_OVER]
    untrained = {id for id in unfinished if standing.look(id).done is None}
    return (dict(plan.runs), unfinished, untrained, plan.evaluation, data_dir) if unfinished else ()


def _preflight(*asked: Any) -> list[str]:
    from kdtune.training.preflight import preflight  # loads torch: not before it is called, and where

    return preflight(*asked)


def _sent(asked: bytes, extensions: Sequence[Extension]) -> list[str]:
    """`asked` is pickled by itself: the kinds that it is made of must be known there first."""
    use(extensions)
    return _preflight(*pickle.loads(asked))


def listed(problems: Sequence[str]) -> str:
    """One as it is, several from a new line each; what they go on with stands further in."""
    if len(problems) == 1:
        return problems[0]
    indented = (problem.replace("\n", "\n    ") for problem in problems)
    return "\n".join([f"{len(problems)} things would fail", *(f"  {problem}" for problem in indented)])
