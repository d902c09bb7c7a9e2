"""A sweep in one file, to be handed on: its finished runs as they lie in the store, and its folder.

    manifest.json             format, sweep, profile, and the SHA-256 of each file below; sealed
    <sweep>/<profile>/        sweep.yaml  plan.json  results.csv  results.parquet  report.html  figures/
    runs/<id>/<attempt>/      run.yaml  model.safetensors  history.jsonl  provenance.json  labels.npz  evaluations/
    runs/done/<id>
    searches/<id>/<n>.json    what its search has proposed, where it has one

Names are keys of the store. Checkpoints, claims and failures are of no use to others. A digest shows damage, not who
made a bundle: whoever opens one trusts its numbers as far as its author; but nothing in it is ever run or unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from kdtune.identity import id_of
from kdtune.store import tar
from kdtune.store.done import Done
from kdtune.store.encoding import digest, from_json, from_lines, from_yaml, unseal
from kdtune.store.evaluations import fitting
from kdtune.store.layout import (
    DESCRIPTION,
    DONE,
    EVALUATIONS,
    EXTENSION,
    FILES,
    HASH,
    HISTORY,
    RUN_ID,
    SEARCHES,
    SHA256,
    WEIGHTS,
    done_key,
    evaluation_name,
    run_folder,
)
from kdtune.store.objects import PART
from kdtune.store.searches import Record, number_of, record_of
from kdtune.store.tar import BundleError

FORMAT = 1  # rises where a reader of this one would misread a newer
MANIFEST = "manifest.json"
PLAN = "plan.json"
VIEW = ("sweep.yaml", PLAN, "results.csv", "results.parquet")  # of a sweep's folder, always there
MORE = ("report.html", "search.csv")  # and these where they are
FIGURES = "figures"
RECORD_BYTES = 64 << 20  # at most, of what is parsed: the manifest of a million files
DESCRIPTION_BYTES = 1 << 20
PIECE = 1 << 20  # bytes that are in memory while a file is only looked at


@dataclass(frozen=True)
class Packed:
    """A run in a bundle: its record, and which evaluators have measured it, by hash, with whether they left arrays."""

    done: Done
    evaluations: dict[str, bool]

    @property
    def weights(self) -> str | None:
        """The digest of its weights, None of a run that diverged."""
        return self.done.files.get(WEIGHTS)


class Bundle:
    """An open bundle in which all has been found to be as it should be; else BundleError, which says what is not."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._members = file, tar.members(file)
        self.digest, about = self._manifest()
        self.sweep, self.profile = str(about["sweep"]), str(about["profile"])
        self._digests: dict[str, str] = about["members"]
        self._of: dict[str, list[str]] = {}  # names by the first two parts: of a sweep's folder, of a run, of records
        for name in self._digests:
            self._of.setdefault("/".join(name.split("/")[:2]), []).append(name)
        self._check_members()
        self.runs = {name.rpartition("/")[2]: self._packed(name) for name in self._of.get(DONE, ())}
        self.view = self._of.get(self.folder, [])
        plan = f"{self.folder}/{PLAN}"
        self.search = search_of(self.read(plan, RECORD_BYTES)) if plan in self._digests else ""
        names = self._of.get(f"{SEARCHES}/{self.search}", ())
        self.proposals = {number: name for name in names if (number := number_of(name)) is not None}
        self._check_names()
        self._check_digests()
        for id, run in self.runs.items():
            key = f"{run_folder(id)}/{run.done.attempt}/{DESCRIPTION}"
            check_description(id, self.read(key, DESCRIPTION_BYTES))
            if HISTORY in run.done.files:
                check_history(id, self.read(f"{run_folder(id)}/{run.done.attempt}/{HISTORY}"))
        for name in self.proposals.values():
            check_record(name, self.read(name, DESCRIPTION_BYTES))

    @property
    def folder(self) -> str:
        """The key of the sweep's folder."""
        return f"{self.sweep}/{self.profile}"

    def size(self, name: str) -> int:
        """Bytes."""
        return self._members[name].size

    def digest_of(self, name: str) -> str:
        """The SHA-256 of a file in it."""
        return self._digests[name]

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The whole file. BundleError where it has changed since it was looked at, or has more bytes than `limit`."""
        if limit is not None and self.size(name) > limit:
            raise BundleError(f"{name} has {self.size(name):,} bytes; at most {limit:,} make sense")
        data = b"".join(self._pieces(name))
        if name != MANIFEST and digest(data) != self._digests[name]:
            raise BundleError(f"{name} is damaged: it does not fit its digest")
        return data

    def _pieces(self, name: str) -> Iterator[bytes]:
        member = self._members[name]
        self._file.seek(member.start)
        for at in range(0, member.size, PIECE):
            yield self._file.read(min(PIECE, member.size - at))

    def _manifest(self) -> tuple[str, dict[str, Any]]:
        """Its digest, and what it says."""
        if next(iter(self._members), None) != MANIFEST:
            raise BundleError(f"it does not begin with a {MANIFEST}, so it is no bundle of `kdtune bundle`")
        data = self.read(MANIFEST, RECORD_BYTES)
        try:
            format = from_json(data)["format"]
            if type(format) is int and format > FORMAT:
                raise BundleError(
                    f"it is of format {format}, and this kdtune knows none above {FORMAT}: get a newer one"
                )
            about = unseal(data)
            if format != FORMAT or not _is_manifest(about):
                raise ValueError("it is not as `kdtune bundle` writes it")
        except (ValueError, LookupError, TypeError) as error:
            raise BundleError(f"its {MANIFEST} is damaged: {error}") from error
        return digest(data), about

    def _check_members(self) -> None:
        """What the manifest names is there, and nothing else."""
        there = self._members.keys() - {MANIFEST}
        for name in sorted(there ^ self._digests.keys()):
            beyond = "is in it and its manifest does not name it" if name in there else "is in its manifest alone"
            raise BundleError(f"{name!r} {beyond}")

    def _check_digests(self) -> None:
        """Of all files, however large."""
        for name, wanted in self._digests.items():
            found = hashlib.sha256()
            for piece in self._pieces(name):
                found.update(piece)
            if found.hexdigest() != wanted:
                raise BundleError(f"{name} is damaged: it does not fit its digest")

    def _packed(self, record: str) -> Packed:
        id = record.rpartition("/")[2]
        try:
            if record != done_key(id):
                raise ValueError("it is no record of a run")
            done = Done(**unseal(self.read(record, RECORD_BYTES)))
            wrong = [name for name in done.files if name not in FILES and not EXTENSION.fullmatch(name)]
            if wrong or DESCRIPTION not in done.files:
                raise ValueError(f"it vouches for {wrong[0]!r}" if wrong else f"it has no {DESCRIPTION}")
        except (ValueError, TypeError, AttributeError) as error:
            raise BundleError(f"{record!r} cannot be used: {error}") from error
        return Packed(done, self._evaluations(id, done))

    def _evaluations(self, id: str, done: Done) -> dict[str, bool]:
        found = {}
        above = f"{run_folder(id)}/{done.attempt}/{EVALUATIONS}/"
        for name in self._of.get(run_folder(id), ()):
            hash = name.removeprefix(above).removesuffix(".json")
            if name == f"{above}{hash}.json" and HASH.fullmatch(hash) and WEIGHTS in done.files:
                try:
                    arrays = fitting(self.read(name, RECORD_BYTES), id, done.files[WEIGHTS])["arrays_sha256"]
                    if self._digests.get(f"{above}{hash}.npz") != arrays:
                        raise ValueError("the arrays beside it do not fit it")
                except ValueError as error:
                    raise BundleError(f"{name} cannot be used: {error}") from error
                found[hash] = arrays is not None
        return found

    def _check_names(self) -> None:
        """Every file belongs to a run whose record vouches for it, to the sweep's folder or its search; none lacks."""
        known = {f"{self.folder}/{name}": "" for name in VIEW}
        known |= {name: "" for name in self.view if is_shown(name.removeprefix(f"{self.folder}/"))}
        known |= dict.fromkeys(self.proposals.values(), "")
        for id, run in self.runs.items():
            known |= {done_key(id): ""}
            known |= {f"{run_folder(id)}/{run.done.attempt}/{name}": value for name, value in run.done.files.items()}
            for hash, arrays in run.evaluations.items():
                place = f"{run_folder(id)}/{evaluation_name(run.done.attempt, hash)}"
                known |= {f"{place}.json": ""} | ({f"{place}.npz": ""} if arrays else {})
        for name in sorted(known.keys() ^ self._digests.keys()):
            raise BundleError(f"{name} is missing" if name in known else f"{name!r} has no place in a bundle")
        for name in (name for name, wanted in known.items() if wanted and wanted != self._digests[name]):
            raise BundleError(f"{name} is not the file that its run's record vouches for")


def check_description(id: str, data: bytes) -> None:
    """BundleError where run.yaml is not the description of the run of this id."""
    try:
        made = id_of(from_yaml(data))
    except (ValueError, TypeError) as error:
        raise BundleError(f"the {DESCRIPTION} of run {id} cannot be read: {error}") from error
    if made != id:
        raise BundleError(f"run {id} is not what its {DESCRIPTION} describes: that is run {made}")


def check_history(id: str, data: bytes) -> None:
    """BundleError where history.jsonl is not an epoch a row: a command that shows the run would stumble over it."""
    try:
        if any(type(row.get("epoch")) is not int for row in from_lines(data)):
            raise ValueError("a row does not say of which epoch it is")
    except ValueError as error:
        raise BundleError(f"the {HISTORY} of run {id} cannot be used: {error}") from error


def check_record(name: str, data: bytes) -> Record:
    """What a search has proposed. BundleError where it is not as it was written."""
    try:
        return record_of(data)
    except ValueError as error:
        raise BundleError(f"{name} is damaged: {error}") from error


def search_of(plan: bytes) -> str:
    """The id of the search that a plan.json is of; empty where it lists all its points."""
    try:
        found = from_json(from_json(plan)["search"].encode())["id"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
    return found if isinstance(found, str) and RUN_ID.fullmatch(found) else ""


def _is_manifest(about: Mapping[str, Any]) -> bool:
    sweep, profile, members = (about.get(name) for name in ("sweep", "profile", "members"))
    return (
        isinstance(sweep, str)
        and isinstance(profile, str)
        and is_folder(sweep, profile)
        and isinstance(members, dict)
        and all(isinstance(value, str) and SHA256.fullmatch(value) for value in members.values())
    )


def is_folder(sweep: str, profile: str) -> bool:
    """Whether these can be the names of a sweep's folder; on some file systems letter case is not there."""
    return all(PART.fullmatch(name) for name in (sweep, profile)) and sweep.casefold() not in ("runs", SEARCHES)


def is_shown(name: str) -> bool:
    """Whether it is a file of a sweep's folder that is handed on."""
    folder, _, figure = name.rpartition("/")
    return name in (*VIEW, *MORE) or (folder == FIGURES and PART.fullmatch(figure) is not None)
