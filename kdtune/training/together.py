"""Several runs on one device, each in a process of its own: how fast they are together, and whether each is as alone.

    together(Part(...), most=8).count

Processes side by side compute with the same kernels as a lone one, so a run that shares a device has the bits of one
that does not; that is looked at, not taken on trust.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

LONGEST_S = 300.0  # for all of it; more is a process that hangs
SECONDS = 3.0  # that is trained for, for each number of runs
GAIN = 1.1  # what twice as many runs must give together; less is not worth their memory and cores
ROOM = 0.9  # of a device's memory


@dataclass(frozen=True)
class Part:
    """What a process rehearses: a run and those that it learns from, all at once, as JSON; `extensions` as (path,
    text)."""

    run: str
    teachers: Sequence[str]
    device: str
    extensions: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Ready:
    """What it says first: a digest of the weights after a few epochs, and how many bytes of the device's memory are
    taken, by all that use it and by what the run will have beside what is rehearsed, of how many there are; zeros on a
    CPU, whose memory nobody asks for."""

    weights: str
    taken: int
    there: int


class NotRehearsed(Exception):
    """A process ended before it had answered; the message is what it wrote, a traceback most often."""


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
        begun: list[Rehearsing] = []

        def begin() -> Rehearsing:
            begun.append(stack.enter_context(Rehearsing(part)))
            return begun[-1]

        stack.enter_context(_within(LONGEST_S, begun))
        alone = begin().ready()
        room = int(ROOM * alone.there / alone.taken) if alone.taken else most
        there = [*begun, *(begin() for _ in range(min(room, most) - 1))]
        for each in there[1:]:
            try:
                if each.ready().weights != alone.weights:
                    return Together({1: there[0].rate(seconds)}, alike=False)
            except NotRehearsed:  # alone it did: the device's memory was not enough for so many, say
                there.remove(each)
                room = len(there)
        rates, count = dict[int, float](), 1
        while count <= len(there):
            rates[count] = sum(side_by_side(there[:count], seconds))
            if count > 1 and rates[count] < GAIN * rates[count // 2]:
                break
            count *= 2
    return Together(rates, True, room if room < min(count, most) else None)


@contextmanager
def _within(seconds: float, those: Collection[Rehearsing]) -> Iterator[None]:
    """Inside for longer, all of them are ended."""

    def end() -> None:
        for each in those:
            each.process.kill()

    late = threading.Timer(seconds, end)
    late.start()
    try:
        yield
    finally:
        late.cancel()


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
            [sys.executable, "-P", "-m", "kdtune.training.rehearsal"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(beside)},  # this very code, whatever lies here
        )
        self.ask(json.dumps(asdict(part)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ready(self) -> Ready:
        """Its first answer. Raises NotRehearsed."""
        return Ready(**self.answer())

    def rate(self, seconds: float) -> float:
        """Images a second, while no other trains. Raises NotRehearsed."""
        return side_by_side([self], seconds)[0]

    def ask(self, line: str) -> None:
        """Says nothing of a process that is gone: its answer will be missing."""
        with suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        """What it says next. Raises NotRehearsed."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        if self.process.wait() == -signal.SIGKILL:
            raise NotRehearsed(f"a process was killed, by the system or as it took longer than {LONGEST_S:.0f} s")
        self.errors.seek(0)
        raise NotRehearsed(self.errors.read().strip() or "it ended without a word")
