"""Where results and data lie when nobody says: flags first, then the environment, then a default."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import tempfile
from pathlib import Path


def results_folder(given: str | os.PathLike[str] | None = None) -> str:
    """`--results`, KDTUNE_RESULTS, or ./results; a folder (made absolute) or a URI such as s3://bucket/prefix.

    What is empty or nearly a URI stays as it is: the store says what is wrong with it.
    """
    where = os.fspath((os.environ.get("KDTUNE_RESULTS") or "results") if given is None else given)
    return where if not where or re.match(r"[a-z][a-z0-9]+:/", where) else absolute(where)


def data_folder(given: str | None = None) -> Path:
    """`--data`, KDTUNE_DATA, or the user's cache folder: downloads and decoded image folders, once per machine."""
    ensure_user()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(absolute(given or os.environ.get("KDTUNE_DATA") or f"{cache}/kdtune"))


def absolute(path: str | Path) -> str:
    """The path without `~` and links. Not by pathlib, which raises for an unknown user and for a link to itself."""
    return os.path.realpath(os.path.expanduser(path))


def ensure_user() -> None:
    """A name and a home for a user without passwd entry, as in `docker run -u 54321`; others keep what they have.

    torch asks for the name of a folder of its own, Ray for the home, as soon as it is imported and for its token.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", str(os.getuid()))
        if not os.access(os.path.expanduser("~"), os.W_OK | os.X_OK) or "HOME" not in os.environ:
            os.environ["HOME"] = _private_folder()


def _private_folder() -> str:
    """Of this user alone: what torch and Ray keep in a home is run, or lets its bearer run code."""
    folder = Path(tempfile.gettempdir()) / f"kdtune-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not folder.is_symlink() and folder.is_dir() and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return str(folder)
    return tempfile.mkdtemp(prefix="kdtune-")
