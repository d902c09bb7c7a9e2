"""Makes imagecorruptions.npz, what the package of that name does to the images of test_families.py. No test.

The package is no part of `dev`, for it asks for a second OpenCV, with windows: `pip install --no-deps --target FOLDER
imagecorruptions==1.1.2 scikit-image lazy-loader`, then, with FOLDER and `tests` on PYTHONPATH, run this file.
Made with scikit-image 0.26.0, OpenCV 5.0.0.93, Pillow 13.0.0, NumPy 2.4.6.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

FILE = Path(__file__).with_name("imagecorruptions.npz")


def as_it_was(image, sigma, multichannel=False, **keys):
    """scikit-image's filter under the argument that the package knows."""
    from skimage.filters import gaussian

    return gaussian(image, sigma, channel_axis=-1 if multichannel else None, **keys)


def main() -> None:
    """Of a family that draws, how far each image is moved and how far its pixels lie apart; of others, 8 images."""
    from evaluation.test_families import IMAGENET, RANDOM, natural

    np.float_ = np.float64  # type: ignore[attr-defined] # gone from NumPy 2
    reference = import_module("imagecorruptions.corruptions")
    reference.gaussian = as_it_was
    images = natural(150).permute(0, 2, 3, 1).numpy()
    kept = {}
    for family in IMAGENET:
        np.random.seed(0)
        made = np.array([np.uint8(getattr(reference, family)(Image.fromarray(image), 1)) for image in images])
        if family in RANDOM:
            kept[f"{family}/moved"] = np.abs(made.astype(float) - images).mean((1, 2, 3)).astype(np.float32)
            kept[f"{family}/spread"] = made.std((1, 2, 3)).astype(np.float32)
        else:
            kept[family] = made[:8].transpose(0, 3, 1, 2)
    np.savez_compressed(FILE, **kept)


if __name__ == "__main__":
    main()
