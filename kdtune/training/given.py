"""Answers that somebody else's teacher gave to the training images, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from kdtune.data.error import DataError
from kdtune.data.loading import Data
from kdtune.recipe import Recipe
from kdtune.training.responses import sha256

ROWS = 1000  # images whose answers are looked at together
SUM = 0.01  # how far probabilities in half precision may be from 1, added up
KINDS = (".npy", ".safetensors")


def given_answers(path: Path, digest: str | None, data: Data, images: int, recipe: Recipe) -> torch.Tensor:
    """The logits of `data.train`'s images, [N, views, K], as the file has them, on the device of these images; on the
    CPU mapped where all are used.

    The file holds one array of logits, float16 or float32, as `.npy` or `.safetensors`: [images, views, K], or
    [images, K] where an image has one answer however it is seen. `images` are all training images of the data set in
    the order of its files, whatever `train_size`, `validation` and `only` leave of them. Views count rows of the
    crop's window, then columns, then whether it is mirrored (`data.augmentation.drawn_views`): 162 for a padding of 4
    and a flip. `digest` is that of the file when the sweep was planned.

    Errors: DataError for a file that cannot be read, holds something else or has changed.
    """
    try:
        found = sha256(path)
        answers = _array(path)
    except Exception as error:  # a damaged file makes its readers raise nearly everything there is
        raise DataError(f"{path}: the answers in it cannot be read ({error}); {' or '.join(KINDS)} would do") from error
    if digest is not None and found != digest:
        raise DataError(f"{path}: has changed since the sweep was planned; other answers are other runs: command again")
    _refuse(answers, path, images, recipe.augmentation.views, data.classes)
    kept = torch.from_numpy(answers if answers.ndim == 3 else answers[:, None])
    if data.train.places is not None:
        kept = kept[data.train.places]
    kept = kept.to(data.train.images.device)  # before one answer stands for all views: a copy would have each of them
    return kept.expand(-1, recipe.augmentation.views, -1)


def _array(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        found = np.load(path, mmap_mode="c", allow_pickle=False)  # "c": pages are shared until written to
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive of arrays, an .npz under another name")
        return found
    if path.suffix != ".safetensors":
        raise ValueError(f"it ends in {path.suffix or 'nothing'}")
    tensors = list(safetensors.torch.load_file(path).values())
    if len(tensors) != 1:
        raise ValueError(f"it holds {len(tensors)} tensors, not one")
    if tensors[0].dtype not in (torch.float16, torch.float32):  # NumPy has no bfloat16
        raise ValueError(f"it holds {str(tensors[0].dtype).removeprefix('torch.')}; logits are float16 or float32")
    return tensors[0].numpy()


def _refuse(answers: np.ndarray, path: Path, images: int, views: int, classes: int) -> None:
    """DataError for an array that is not these images' answers."""
    wanted = [(images, views, classes), (images, classes)]
    if answers.shape not in wanted:
        told = " or ".join(map(str, map(list, wanted)))
        raise DataError(f"{path}: holds an array {list(answers.shape)}; [images, views, classes] are here {told}")
    if answers.dtype not in (np.float16, np.float32):
        raise DataError(f"{path}: holds {answers.dtype}; logits are float16 or float32")
    shares = True
    for first in range(0, images, ROWS):
        rows = answers[first : first + ROWS]
        if not np.isfinite(rows).all():
            raise DataError(f"{path}: not all of its logits are finite, in images {first} to {first + ROWS - 1}")
        shares = shares and bool((rows >= 0).all() and (abs(rows.sum(-1, dtype=np.float64) - 1) < SUM).all())
    if shares:  # softened once more they would teach nearly the same of every class
        told = "each row is of numbers from 0 up that add to 1: probabilities, not logits; their logarithm would do"
        raise DataError(f"{path}: {told}")
