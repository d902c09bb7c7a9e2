"""Results to be handed on, without training; and bundles as somebody else might make them, with tarfile."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kdtune.identity import id_of
from kdtune.store.bundle import MANIFEST
from kdtune.store.bundling import contents, write
from kdtune.store.done import Done
from kdtune.store.encoding import digest, from_json, seal, to_json, to_yaml, unseal
from kdtune.store.layout import done_key, proposal_key, run_folder
from kdtune.store.searches import Record, Searches
from kdtune.store.store import Store

SWEEP, PROFILE = "small", "paper"
FOLDER = f"{SWEEP}/{PROFILE}"
HASH, OTHER_HASH = "aaaa00001111", "bbbb00001111"
SEARCH, OTHER_SEARCH = "5ea4c4000000", "5ea4c4000001"
PROPOSALS = {2: Record({"sigma": 0.0345}, "", "optuna"), 10: Record({"sigma": 0.2}, "ab" * 32, "optuna")}


def describe(seed: int) -> dict[str, Any]:
    return {"recipe_version": 3, "model": {"mlp": {"hidden": [8]}}, "seed": seed}


def train(
    store: Store, seed: int, weights: bytes = b"weights", outcome: str = "done", hashes: tuple[str, ...] = (HASH,)
) -> str:
    """A finished run as `perform` leaves it; its id."""
    id = id_of(describe(seed))
    attempt = store.attempt(id)
    attempt.write_description(describe(seed))
    if seed == 1:
        attempt.write_labels(np.array([True, False, True]))
    data = b"%s of seed %d" % (weights, seed)
    for hash in hashes if outcome == "done" else ():
        arrays = {"logits": np.arange(3)} if hash == HASH else {}
        attempt.evaluations(digest(data)).write(hash, {"name": "accuracy"}, {"test/accuracy": 1.0 * seed}, arrays)
    assert attempt.finish(outcome, data if outcome == "done" else None, [{"epoch": 1}], {"seconds": 1.0})
    return id


def fill(root: Path) -> SimpleNamespace:
    """Three finished runs, one of them diverged, one that failed, and a sweep's folder."""
    store = Store(root)
    ids = [train(store, 0, hashes=(HASH, OTHER_HASH)), train(store, 1), train(store, 2, outcome="diverged")]
    failed = id_of(describe(3))
    attempt = store.attempt(failed)
    attempt.write_description(describe(3))
    attempt.write_failure(ValueError("a cable was pulled"))
    folder = root / FOLDER
    (folder / "figures").mkdir(parents=True)
    (folder / "tensorboard").mkdir()
    for name in ("sweep.yaml", "plan.json", "results.csv", "results.parquet", "report.html", "figures/figure1.png"):
        (folder / name).write_text(f"content of {name}")
    (folder / "tensorboard/events").write_text("large")
    return SimpleNamespace(store=store, root=root, ids=ids, failed=failed, all=[*ids, failed])


def tree(root: Path) -> dict[str, bytes]:
    """All files below a folder, but for its lock."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


# Bundles of others


def opened(data: bytes) -> dict[str, bytes]:
    """What is in a bundle, but for its manifest."""
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        files = {each.name: archive.extractfile(each) for each in archive.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None and name != MANIFEST}


def manifest_of(files: Mapping[str, bytes], **other: Any) -> bytes:
    names = {name: digest(data) for name, data in files.items()}
    return seal({"format": 1, "sweep": SWEEP, "profile": PROFILE, "members": names, **other})


def packed(files: Mapping[str, bytes], manifest: bytes | None = None, more: tuple[Any, ...] = ()) -> bytes:
    """A tar of these, in this order; `more`: members (TarInfo, bytes) behind them."""
    whole = BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        first = {MANIFEST: manifest_of(files) if manifest is None else manifest}
        for name, data in [*first.items(), *files.items()] if manifest != b"" else [*files.items()]:
            archive.addfile(plain(name, len(data)), BytesIO(data))
        for info, data in more:
            archive.addfile(info, BytesIO(data))
    return whole.getvalue()


def plain(name: str, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def record_of(files: Mapping[str, bytes], id: str) -> Done:
    return Done(**unseal(files[done_key(id)]))


def with_file(files: Mapping[str, bytes], id: str, name: str, data: bytes) -> dict[str, bytes]:
    """The same where a file of a run is another, and its record says so too."""
    done = record_of(files, id)
    record = asdict(done) | {"files": done.files | {name: digest(data)}}
    place = f"{run_folder(id)}/{done.attempt}/{name}"
    return {**files, place: data, done_key(id): seal(record)}


def described_as(files: Mapping[str, bytes], id: str, description: Any) -> dict[str, bytes]:
    data = description if isinstance(description, bytes) else to_yaml(description)
    return with_file(files, id, "run.yaml", data)


def about_of(data: bytes) -> dict[str, Any]:
    """The manifest of a bundle."""
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        file = archive.extractfile(MANIFEST)
        assert file is not None
        return dict(from_json(file.read()))


def bundled(root: Path) -> SimpleNamespace:
    """Results below `root` as `fill` makes them, and the bundle of them: its bytes, and its files by name."""
    made = fill(root / "results")
    write(made.store.objects, contents(made.store.objects, SWEEP, PROFILE, made.all), root / "small.tar")
    made.bundle = (root / "small.tar").read_bytes()
    made.files = opened(made.bundle)
    return made


def with_search(made: SimpleNamespace, root: Path) -> SimpleNamespace:
    """The same results as those of a search, beside another search, and the bundle of them."""
    made.store.objects.put(f"{FOLDER}/plan.json", to_json({"search": json.dumps({"id": SEARCH})}))
    for number, record in PROPOSALS.items():
        Searches(made.store.objects, SEARCH).keep(number, record)
    Searches(made.store.objects, OTHER_SEARCH).keep(2, PROPOSALS[2])
    for beside in ("3.json.damaged", "notes.txt", "007.json"):
        made.store.objects.put(f"searches/{SEARCH}/{beside}", b"no proposal")
    write(made.store.objects, contents(made.store.objects, SWEEP, PROFILE, made.all), root / "search.tar")
    made.bundle = (root / "search.tar").read_bytes()
    made.files = opened(made.bundle)
    made.proposals = [proposal_key(SEARCH, number) for number in PROPOSALS]
    return made
