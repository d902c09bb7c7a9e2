"""What Ray tells of a trial that failed, as a cause that the plan knows what to do about.

Ray's exceptions carry no more than their text does, and some arrive as text alone.
"""

from __future__ import annotations

import re

from kdtune.planning.setbacks import Cause

OWN = re.compile(r"(?:\x1b\[\d+m)?ray::|.* raised in its creation task", re.DOTALL)  # a traceback from the process
HEADER = re.compile(r"Failure # \d+ \(occurred at [^)]*\)\n")  # Tune's, before each failure of a trial
MEMORY = "due to the node running low on memory"  # Ray's memory monitor
PREEMPTED = "the actor's node was preempted"


def cause_of(text: str) -> Cause:
    """Why a trial failed, by the text of Ray's exception."""
    said = HEADER.split(text)[-1]
    if OWN.match(said):
        return Cause.ITSELF
    if MEMORY in said:
        return Cause.MEMORY
    return Cause.PREEMPTED if PREEMPTED in said else Cause.LOST


def in_words(text: str) -> str:
    """Of an exception all that Ray tells; of a process that was lost, how it ended."""
    said = HEADER.split(text)[-1].strip()
    cause = cause_of(text)
    if cause is Cause.ITSELF:
        return said
    lines = [line.strip() for line in said.splitlines()]
    telling = [line for line in lines if line.startswith(("The actor", "Worker", "the actor's"))]
    return f"{cause}: {max(telling, key=len)}" if telling else f"{cause}, without a word"
