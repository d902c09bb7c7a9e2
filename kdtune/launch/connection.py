"""A Ray to work with: one of our own on this machine, or a cluster that runs, by its address."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import ray
from ray._private import worker as ray_worker

from kdtune.launch.cluster import environment
from kdtune.launch.door import CannotConnect, knock

OUT_OF_STEP = re.compile(
    r"started with:\s+Ray: (?P<ray>\S+)\s+Python: (?P<python>\S+)"
    r".*started with:\s+Ray: (?P<own_ray>\S+)\s+Python: (?P<own_python>\S+)",
    re.DOTALL,
)


@contextlib.contextmanager
def ray_at(address: str | None, folder: str) -> Iterator[None]:
    """Ray, for the time of the block. Without an address one of our own, which keeps its sockets and logs in `folder`.

    `address="local"` never joins another Ray, however stale the address file it left behind. Raises CannotConnect.
    """
    # Ray says that it takes no signal in a thread (which is wanted), and at length that it made a token.
    with _quiet("ray._private.worker", "ray._private.authentication"):
        common = {"log_to_driver": False, "logging_level": logging.WARNING}
        if address is None:
            ray.init(address="local", include_dashboard=False, _temp_dir=folder, **common)
            _protect_token()
        else:
            knock(address)
            try:
                ray.init(address=address, runtime_env=environment(), **common)
            except Exception as error:  # of many kinds: another version, a wrong token, nobody who knows this machine
                raise CannotConnect(in_one_line(str(error))) from error
    ray_worker._worker_logs_enabled = False  # Ray would print what it knows of dead processes, fifty lines for each
    try:
        yield
    finally:
        ray_worker._worker_logs_enabled = True


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """These loggers of Ray's say errors alone meanwhile."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def in_one_line(text: str) -> str:
    """What Ray says of a cluster that cannot be joined. Of Rays or Pythons out of step: which, and what would do."""
    if (said := OUT_OF_STEP.search(text)) is None:
        return " ".join(text.split())
    return (
        f"it runs Ray {said['ray']} on Python {said['python']}, this process Ray {said['own_ray']} on Python "
        f"{said['own_python']}: both must be the same on all machines, patch level included"
    )


def _protect_token() -> None:
    """Ray writes the token that lets its bearer run code readable for everybody on the machine."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        token.chmod(0o600)
