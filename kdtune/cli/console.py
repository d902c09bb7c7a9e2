"""What leaves the process on stdout: one JSON object that nothing else can reach."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


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
        os.write(stdout, (json.dumps(value, allow_nan=False) + "\n").encode())

    try:
        yield print_json
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
