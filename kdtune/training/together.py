"""Several runs on one device, each in a process of its own: how fast they are together, and whether each is as alone.

    together(Part(...), most=8).count

Processes side by side compute with the same kernels as a lone one, so a run that shares a device has the bits of one
that does not; that is looked at, not taken on trust.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

SECONDS = 3.0  # that is trained for, for each number of runs
GAIN = 1.1  # what twice as many runs must give together; less is not worth their memory and cores
ROOM = 0.9  # of a device's memory


@dataclass(frozen=True)
class Part:
    """What a process rehearses: a run and the one that it learns from, as JSON; `extensions` as (path, text)."""

    run: str
    teacher: str | None
    device: str
    extensions: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Ready:
    """What it says first: a digest of the weights after a few epochs, and how many bytes of the device's memory are
    taken, by all that use it, of how many there are; zeros on a CPU, whose memory nobody asks for."""

    weights: str
    taken: int
    there: int


class NotRehearsed(Exception):
    """A process ended before it had answered; the message is what it said last."""


@dataclass(frozen=True)
class Together:
    """Images a second of so many runs side by side, all together, by their number. `alike`: each is as alone, bit for
    bit. `room`: for how many there is memory, where that is why no more were tried."""

    rates: Mapping[int, float]
    alike: bool
    room: int | None = None

    @property
    def count(self) -> int:
        """How many should share the device: twice as many as long as that gives GAIN, and one where any differs."""
        if not self.alike:
            return 1
        count = 1
        while self.rates.get(2 * count, 0.0) >= GAIN * self.rates[count]:
            count *= 2
        return count

    def __str__(self) -> str:
        alone = self.rates[1]
        gains = [f"{count} {rate / alone:.2f} x" for count, rate in self.rates.items() if count > 1]
        told = "; ".join([f"{alone:,.0f} images a second alone", *([f"together {', '.join(gains)}"] if gains else [])])
        if not self.alike:
            return f"{told}; side by side they do not end with the bits of a lone one"
        return told if self.room is None else f"{told}; there is memory for {self.room}"


def together(part: Part, most: int, seconds: float = SECONDS) -> Together:
    """What 1, 2, 4, ... runs like this do on its device, at most so many. Raises NotRehearsed."""
    with ExitStack() as stack:
        first = stack.enter_context(Rehearsing(part))
        alone = Ready(**first.answer())
        room = int(ROOM * alone.there / alone.taken) if alone.taken else most
        others = [stack.enter_context(Rehearsing(part)) for _ in range(min(room, most) - 1)]
        weights = {Ready(**each.answer()).weights for each in others}  # of all, so that all are ready
        alike = weights <= {alone.weights}
        everyone, rates, count = [first, *others], dict[int, float](), 1
        while count <= len(everyone):
            rates[count] = sum(side_by_side(everyone[:count], seconds))
            if not alike or (count > 1 and rates[count] < GAIN * rates[count // 2]):
                break
            count *= 2
    return Together(rates, alike, room if room < min(count, most) else None)


def side_by_side(those: Sequence[Rehearsing], seconds: float) -> list[float]:
    """Images a second of each, all at once."""
    for each in those:
        each.ask(str(seconds))
    return [each.answer() for each in those]


class Rehearsing:
    """One process of `training.rehearsal`; it ends where the context does."""

    def __init__(self, part: Part) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        beside = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kdtune.training.rehearsal"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(beside)},  # this very code
        )
        self.ask(json.dumps(asdict(part)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def ask(self, line: str) -> None:
        """Says nothing of a process that is gone: its answer will be missing."""
        with suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        """What it says next. Raises NotRehearsed."""
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:] or ["it ended without a word"]
            raise NotRehearsed(last[0])
        return json.loads(line)
