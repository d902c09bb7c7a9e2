"""What leaves the process: lines that may be lost, one JSON object that nothing else can reach, its exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

import click

from kdtune.launch.interrupt import LEFT_BEHIND


class Losable(io.FileIO):
    """Standard output or error, by its descriptor. From the first write that fails on, what is written is dropped.

    Readers go away (`| head`), disks fill up, terminals vanish: nothing of it is a reason to end hours of work.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None
        self.going_on = ""  # what goes on without output

    def write(self, data: Any) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
                self._say_so(error)
        return memoryview(data).nbytes

    def _say_so(self, error: OSError) -> None:
        """Once, on stderr. Whoever ends `kdtune table | head` has what was wanted: only work tells of it."""
        if self.fileno() != 2 and (self.going_on or error.errno != errno.EPIPE):
            what = f"; {self.going_on} goes on" if self.going_on else ""
            with contextlib.suppress(OSError):
                os.write(2, f"output is lost from here on ({os.strerror(error.errno or 0)}){what}\n".encode())


@contextlib.contextmanager
def losable_output(going_on: str = "") -> Iterator[None]:
    """Within, stdout and stderr may go away. `going_on` names what goes on then, for the one message: "the sweep"."""
    _fill_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = _losable(sys.stdout, 1), _losable(sys.stderr, 2)
    for stream in streams:
        if (raw := _raw(stream)) is not None:
            raw.going_on = going_on or raw.going_on
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def stdout_failed() -> bool:
    """Whether what was written within `losable_output` did not arrive, though somebody was there to read it."""
    raw = _raw(sys.stdout)
    sys.stdout.flush()
    return raw is not None and raw.lost is not None and raw.lost.errno != errno.EPIPE


def _losable(stream: TextIO | None, descriptor: int) -> TextIO:
    """A stream on the same descriptor that may be lost; itself where it is so already, or is somebody else's."""
    own = sys.__stdout__ if descriptor == 1 else sys.__stderr__
    if stream is not own or (stream is not None and _raw(stream) is not None):
        return stream  # type: ignore[return-value]
    with contextlib.suppress(OSError):
        if stream is not None:
            stream.flush()
    buffered = io.BufferedWriter(Losable(descriptor))
    encoding, errors = (stream.encoding, stream.errors) if stream is not None else ("utf-8", "backslashreplace")
    errors = "backslashreplace" if errors == "strict" else errors  # letters that a terminal lacks
    return io.TextIOWrapper(buffered, encoding, errors, line_buffering=True)


def _raw(stream: TextIO) -> Losable | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, Losable) else None


def _fill_closed() -> None:
    """Opens what was closed (`>&-`) on nothing: else a file of results gets its number, and all that is printed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)


class Verb(click.Command):
    """A command whose output may be lost, its help and its complaints too. Ctrl-C where nothing else takes it is said
    in a word, and is status 130, as a shell has it (click: 1)."""

    def main(self, *args: Any, **more: Any) -> Any:
        with losable_output():
            return super().main(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(128 + signal.SIGINT)


class Verbs(Verb, click.Group):
    """Several of them."""


@contextlib.contextmanager
def json_to_stdout(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Yields a function that prints one JSON object. While it is wanted, all other output goes to stderr.

    The redirection is of the file descriptor, so that libraries and runs in this process that print do not spoil it.
    """
    if not wanted:
        yield lambda value: None
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)

    def print_json(value: Any) -> None:
        file = Losable(stdout)
        with io.BufferedWriter(file) as whole:
            whole.write((json.dumps(value, allow_nan=False) + "\n").encode())

    try:
        yield print_json
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def leave(status: int) -> NoReturn:
    """Ends this process. At once where a thread was left behind that hangs in Ray: Ray would wait for it."""
    if any(thread.name == LEFT_BEHIND for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
