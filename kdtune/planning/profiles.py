"""Which profile a sweep file runs under where nobody names one, and the line that says so. One rule for all doors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kdtune.planning.devices import has_usable_gpu
from kdtune.sweepfile.source import Source, read_source

LOCAL = "local"  # the address, in Ray's words, of a Ray of one's own

LIMITS = {
    "paper": "this is the paper's own scale",
    "quick": "short schedules: levels lie below the paper's, directions should show",
    "laptop": "tiny networks on tiny images: everything works, directions at most, no verdict on the paper",
}


def choose(requested: str | None, address: str | None, offered: Sequence[str]) -> tuple[str, str]:
    """The profile and why: the one that was named; else `paper` on a cluster or a usable GPU; else `laptop`."""
    if requested:
        return requested, "asked for"
    if address and address != LOCAL:
        return "paper", f"a cluster was named ({address})"
    if has_usable_gpu():
        return "paper", "this machine has a GPU that torch can use"
    if "laptop" in offered:
        return "laptop", "no cluster was named, and torch finds no GPU here"
    return "paper", "the file has no profile laptop"


def wants_gpu(profile: str) -> bool:
    """Whether its networks are worth a GPU where machines come for the asking. A file's own profile is taken so."""
    return profile != "laptop"


def of_file(file: str | Path | Source, requested: str | None = None) -> str:
    """The profile of a file outside a command: as there, RAY_ADDRESS names a cluster. Raises SweepFileError."""
    source = file if isinstance(file, Source) else read_source(file)
    return choose(requested, os.environ.get("RAY_ADDRESS"), list(source.profiles))[0]


def line(profile: str, why: str, changes: Sequence[str], offered: Sequence[str]) -> str:
    """Which profile, why, what it changes, what it cannot show, how to insist on another."""
    changed = ", ".join(dict.fromkeys(path.split(".")[0] for path in changes)) or "nothing"
    others = ", ".join(name for name in offered if name != profile)
    if not others and not changes:
        return f"profile {profile}: the file as it stands, which names no other"
    insist = f" Another: --profile {others.replace(', ', ' | ')}." if others else ""
    limits = LIMITS.get(profile, "a scale of the file's own") if others else "the file as it stands"
    return f"profile {profile}: {why}. It sets {changed} ({limits}).{insist}"
