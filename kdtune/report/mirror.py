"""Copies here of results in a bucket, for what needs a real folder: tables, figures, TensorBoard's files."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from kdtune.paths import data_folder
from kdtune.store.bucket import endpoint_of
from kdtune.store.objects import Objects

# What a sweep's command leaves in its folder.
NAMES = ("sweep.yaml", "plan.json", "results.csv", "results.parquet", "search.csv")
TABLE = "results.parquet"
ORIGIN = ".origin"  # in a mirror of results: their URI. No sweep has such a name


def mirror(root: str) -> Path:
    """The folder for copies of the results at this URI, by service, bucket and prefix: another for each."""
    parts = urlsplit(root)
    service = urlsplit(endpoint_of(dict(parse_qsl(parts.query)))).netloc
    names = (parts.scheme, service, parts.netloc, *parts.path.split("/"))
    place = data_folder() / "mirror" / Path(*(_quoted(name) for name in names if name))
    place.mkdir(parents=True, exist_ok=True)
    aside = place / f"{ORIGIN}.{secrets.token_hex(6)}.tmp"
    aside.write_text(root)
    aside.replace(place / ORIGIN)
    return place


def _quoted(name: str) -> str:
    return quote(name, safe="=+@") if name.strip(".") else name.replace(".", "%2E")


def results_of(place: Path) -> str:
    """The folder, or the URI, of the results that a profile's folder or its copy belongs to."""
    origin = place.parent.parent / ORIGIN
    return origin.read_text() if origin.is_file() else str(place.parent.parent)


def origin_of(place: Path) -> str | None:
    """The URI that this folder is a copy of; None where it is none."""
    place = place.resolve()
    for above in (place, *place.parents[:2]):
        if (above / ORIGIN).is_file() and above.is_relative_to((data_folder() / "mirror").resolve()):
            base, query, options = (above / ORIGIN).read_text().partition("?")
            return "/".join([base.rstrip("/"), *place.relative_to(above).parts]) + query + options
    return None


def fetched(uri: str) -> Path:
    """A copy of what tables and plans lie at a URI: that of a profile's folder, of a sweep's, or of all results.

    Raises LookupError where there are none, StorageError.
    """
    base, query, options = uri.partition("?")
    base = base.rstrip("/")
    objects = Objects(base + query + options)
    objects.knock()
    keys = [key for key in objects.list() if not key.startswith("runs/")]
    depth = min((key.count("/") for key in keys if key.rpartition("/")[2] == TABLE), default=None)
    if depth is None or depth > 2:
        raise LookupError(f"{base}: no results here; the sweep's own command makes them")
    above = base.split("/")[: len(base.split("/")) - (2 - depth)]
    below = base.split("/")[len(above) :]
    place = mirror("/".join(above) + query + options).joinpath(*below)
    for copy in [each for name in NAMES for each in place.rglob(name)]:
        if copy.relative_to(place).as_posix() not in keys:
            copy.unlink()  # it has gone there
    for key in keys:
        if key.count("/") <= 2 and key.rpartition("/")[2] in NAMES and (data := objects.get(key)) is not None:
            (place / key).parent.mkdir(parents=True, exist_ok=True)
            (place / key).write_bytes(data)
    return place
