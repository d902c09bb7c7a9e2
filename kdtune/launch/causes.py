"""What Ray tells of a trial that failed, as a cause that the plan knows what to do about.

Ray's exceptions carry no more than their text does, and some arrive as text alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kdtune.launch.watchdog import Stuck
from kdtune.planning.setbacks import Cause, said

OWN = re.compile(r"(?:\x1b\[\d+m)?ray::|.* raised in its creation task", re.DOTALL)  # a traceback from the process
HEADER = re.compile(r"Failure # \d+ \(occurred at [^)]*\)\n")  # Tune's, before each failure of a trial
MEMORY = "due to the node running low on memory"  # Ray's memory monitor
PREEMPTED = "the actor's node was preempted"
BROKEN = "AcceleratorError"  # torch's, of a GPU whose state is lost for this process
# Not of one that is short of memory, which would be so again. The line begins with it: a message may quote it.
GPU = re.compile(rf"(?:torch\.)?{BROKEN}: (?!CUDA error: out of memory)")


def cause_of(text: str) -> Cause:
    """Why a trial failed, by the text of Ray's exception."""
    last = HEADER.split(text)[-1]
    if OWN.match(last):
        return Cause.GPU if GPU.match(said(last)) else Cause.ITSELF
    if MEMORY in last:
        return Cause.MEMORY
    return Cause.PREEMPTED if PREEMPTED in last else Cause.LOST


def in_words(text: str) -> str:
    """Of an exception all that Ray tells; of a process that was lost, how it ended."""
    last = HEADER.split(text)[-1].strip()
    cause = cause_of(text)
    if cause is Cause.ITSELF:
        return last
    if cause is Cause.GPU:
        return f"{cause}: {said(last)}"
    lines = [line.strip() for line in last.splitlines()]
    telling = [line for line in lines if line.startswith(("The actor", "Worker", "the actor's"))]
    return f"{cause}: {max(telling, key=len)}" if telling else f"{cause}, without a word"


def suspect(failure: Mapping[str, Any] | None) -> bool:
    """Whether a run whose last attempt failed so takes eager steps from now on: CUDA graphs may be what its GPU
    stumbled over, or what it waits for."""
    return failure is not None and failure["type"] in (BROKEN, Stuck.__qualname__)


def broke_gpu(error: Exception | None) -> bool:
    """Whether this process has no GPU any more after it. By its name: who asks need not have loaded torch."""
    return type(error).__qualname__ == BROKEN
