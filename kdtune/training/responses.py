"""A teacher's answers to every view of the training images: computed once, shared by all its students.

A crop with padding 4 and a flip make 162 views of an image; half-precision logits of ten classes for all of CIFAR-10
are 162 MB. The data folder then holds

    responses/<key>/answers.npy     float16 [N, views, K], mapped into memory, its pages shared by all runs
    responses/<key>/about.json      its digest, written last

The key is made of the teacher (its run, which says how pixels are normalised, and its weights), the images, what views
there are of them, and the precision. All answers are computed at a fixed batch size, in one order: view after view,
image after image.

The first student that needs them computes them, while the others wait; a machine that has none fetches them from the
results (`store.responses`), which costs the results' disk as much room again where both are on one. They are no run of
the plan: nothing about them would stand in a table, and the students that wait would have nothing else to do.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn

from kdtune.data.augmentation import viewed
from kdtune.data.error import DataError
from kdtune.data.loading import Split, inputs
from kdtune.recipe import Recipe
from kdtune.store.store import Store
from kdtune.training.pulse import heard

log = logging.getLogger(__name__)

FORMAT = 1  # rises where the same teacher and images would give other answers
BATCH = 500  # fixed: logits differ in their last bits between batch sizes
WAIT_S = 5.0  # between signs of life while another run computes them
LIMIT = "KDTUNE_RESPONSES_GB"  # that a data folder keeps, 50 where nobody says; the least used go


def refuse(split: Split, loss: str) -> None:
    """ValueError for a set of which views are not the same ever again, or not bytes."""
    if split.images.is_floating_point():
        raise ValueError(f"{loss}.responses: stored are of images of 8 bits; these were moved or drawn: computed")


def stored_answers(
    teacher: nn.Module,
    known_as: str,
    split: Split,
    recipe: Recipe,
    data_dir: Path,
    store: Store,
    pulse: Callable[[], None],
) -> torch.Tensor:
    """float16 [N, views, K] on the split's device; on the CPU a mapped file.

    `known_as` tells the teacher from all others: its run's id, and the digest of its weights. Errors: DataError for a
    folder that cannot be written, ValueError for logits that half precision cannot hold, StorageError.
    """
    key = _key(known_as, split, recipe)
    folder = data_dir / "responses" / key
    found = _kept(folder)
    if found is None:
        with _locked(folder, pulse):
            found = _kept(folder)
            if found is None:
                with _aside(folder) as path:
                    _obtain(path, store, key, lambda: _compute(teacher, split, recipe, path, pulse), pulse)
                _make_room(folder)
                found = _kept(folder)
    if found is None:
        raise DataError(f"{folder}: answers do not read back as they were written; check this disk")
    answers = torch.from_numpy(found)
    return answers.to(split.images.device)


def _key(known_as: str, split: Split, recipe: Recipe) -> str:
    pixels = hashlib.sha256(split.images.cpu().contiguous().numpy().data)
    views = recipe.augmentation.model_dump(mode="json")
    about = [FORMAT, known_as, pixels.hexdigest(), list(split.images.shape), views, recipe.precision]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _kept(folder: Path) -> np.ndarray | None:
    """What an earlier run computed; None where there is nothing, or it is not what was written."""
    about, answers = folder / "about.json", folder / "answers.npy"
    try:
        if json.loads(about.read_text())["sha256"] != sha256(answers):
            return None
        with suppress(OSError):  # another user's
            os.utime(about)  # the least used goes first
        return np.load(answers, mmap_mode="c", allow_pickle=False)  # "c": pages are shared until written to
    except (OSError, ValueError, LookupError, TypeError):
        return None


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """Where to write the answers; afterwards they are in place, with their digest."""
    aside = folder.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    aside.mkdir(parents=True)
    answers = aside / "answers.npy"
    yield answers
    (aside / "about.json").write_text(json.dumps({"sha256": sha256(answers)}))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _obtain(answers: Path, store: Store, key: str, compute: Callable[[], None], pulse: Callable[[], None]) -> None:
    """Fetches them from the results; computes and keeps them there where nobody else does. Whoever does is waited for:
    the claim of a process that is gone is taken over."""
    kept = store.responses(key)
    while not kept.fetch(answers):
        if (claim := store.claim(kept.claim)) is None:
            pulse()
            time.sleep(WAIT_S)
            continue
        with claim:
            if kept.fetch(answers):  # they may have come between the look and the claim
                return
            compute()
            if kept.publish(answers, claim.attempt):
                return
        # Somebody took this claim over, and was first: all machines have that one's, to the last bit.


@torch.no_grad()
def _compute(teacher: nn.Module, split: Split, recipe: Recipe, path: Path, pulse: Callable[[], None]) -> None:
    count, views = len(split), recipe.augmentation.views
    device = split.images.device
    cast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
    answers: np.ndarray | None = None
    teacher.eval()
    with heard(teacher, pulse), cast:
        for view in range(views):
            for places in torch.arange(count, device=device).split(BATCH):
                seen = torch.full_like(places, view)
                logits = teacher(inputs(viewed(split.images[places], recipe.augmentation, seen))).half()
                if not logits.isfinite().all():
                    raise ValueError("the teacher's logits are too large for responses: stored, in half precision")
                if answers is None:
                    shape = (count, views, logits.shape[1])
                    answers = np.lib.format.open_memmap(path, "w+", np.float16, shape)
                answers[places.cpu().numpy(), view] = logits.cpu().numpy()
    if answers is not None:
        answers.flush()  # type: ignore[attr-defined]


def _make_room(kept: Path) -> None:
    """Takes away what was not used for longest until the others are within LIMIT; who reads it keeps its pages."""
    try:
        most = float(os.environ.get(LIMIT, "50")) * 1e9
    except ValueError as error:
        raise DataError(f"{LIMIT}: came {os.environ[LIMIT]!r}; a number of gigabytes, such as 50") from error
    others = [path for path in kept.parent.glob("*/about.json") if path.parent != kept]
    size = sum(file.stat().st_size for file in kept.iterdir())
    for about in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        size += sum(file.stat().st_size for file in about.parent.iterdir())
        if size > most:
            log.info("%s: taken away, the answers kept there are more than %g GB", about.parent, most / 1e9)
            shutil.rmtree(about.parent, ignore_errors=True)


@contextmanager
def _locked(folder: Path, pulse: Callable[[], None]) -> Iterator[None]:
    """One run of the machine at a time; those that wait give signs of life."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        while True:
            try:
                lock.acquire(timeout=WAIT_S)
                break
            except Timeout:
                pulse()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        where = f"{folder.parent}: cannot be written ({error})"
        raise DataError(f"{where}; name another data folder with --data DIR or KDTUNE_DATA") from error


def sha256(path: Path) -> str:
    """Of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
