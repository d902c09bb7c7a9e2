"""Test images that are training images too: what is right about them was learned by heart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdtune.data.loading import Data, Split

TOLD = 0.01  # share of a set from which on it is said: published sets have a few that nobody took out


def told(data: Data) -> list[str]:
    """A sentence for each set of test images of which a hundredth and more are images to train on or held out, pixel
    for pixel. Labels are not looked at."""
    seen = {row for split in (data.train, data.validation) if split is not None for row in _rows(split)}
    sentences = []
    for name, split in {"test": data.test, **data.shifted}.items():
        both = sum(row in seen for row in _rows(split))
        if both and both >= TOLD * len(split):
            what = "test images" if name == "test" else f"images of {name}"
            sentences.append(
                f"{data.title}: {both} of {len(split)} {what} are among its training images, pixel for pixel: numbers"
                " on them are in part of what was learned by heart"
            )
    return sentences


def _rows(split: Split) -> list[int]:
    """A number for each image, 64 bits: its type, its size and its values."""
    images = split.images.cpu().flatten(1).numpy()
    kind = hash((str(images.dtype), split.images.shape[1:]))
    return [hash((kind, row.tobytes())) for row in images]
