"""CIFAR-10-C as it is published: a file <family>.npy per corruption family, and labels.npy, in one folder.

A family holds uint8 [50000, 32, 32, 3]: CIFAR-10's 10,000 test images in their order, at severity 1, then 2, to 5.
Files are held against the MD5s that libraries of CIFAR-10-C's users publish (torch-uncertainty and three more agree).
Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from kdtune.data.error import DataError

TITLE = "CIFAR-10-C"
WHERE = "https://zenodo.org/records/2535967"
IMAGES = 10_000  # per severity
ALIKE = 0.5  # correlation of a clean image with its corruption at severity 1; of two images it is about 0.1
MD5 = {
    "brightness": "0a81ef75e0b523c3383219c330a85d48",
    "contrast": "3c8262171c51307f916c30a3308235a8",
    "defocus_blur": "7d1322666342a0702b1957e92f6254bc",
    "elastic_transform": "9421657c6cd452429cf6ce96cc412b5f",
    "fog": "7b397314b5670f825465fbcd1f6e9ccd",
    "frost": "31f6ab3bce1d9934abfb0cc13656f141",
    "gaussian_blur": "c33370155bc9b055fb4a89113d3c559d",
    "gaussian_noise": "ecaf8b9a2399ffeda7680934c33405fd",
    "glass_blur": "7361fb4019269e02dbf6925f083e8629",
    "impulse_noise": "2090e01c83519ec51427e65116af6b1a",
    "jpeg_compression": "2b9cc4c864e0193bb64db8d7728f8187",
    "labels": "c439b113295ed5254878798ffe28fd54",
    "motion_blur": "fffa5f852ff7ad299cfe8a7643f090f4",
    "pixelate": "0f14f7e2db14288304e1de10df16832f",
    "saturate": "1cfae0964219c5102abbb883e538cc56",
    "shot_noise": "3a7239bb118894f013d9bf1984be7f11",
    "snow": "bb238de8555123da9c282dea23bd6e55",
    "spatter": "8a5a3903a7f8f65b59501a6093b4311e",
    "speckle_noise": "ef00b87611792b00df09c0b0237a1e30",
    "zoom_blur": "6ea8e63f1c5cdee1517533840641641b",
}


def check_folder(folder: Path) -> None:
    """Raises DataError where a file is missing or, by its labels, the folder is not CIFAR-10-C. Quick."""
    missing = [name for name in MD5 if not _file(folder, name).is_file()]
    if missing:
        raise DataError(f"{folder}: {', '.join(f'{name}.npy' for name in missing)} missing of {TITLE}; see {WHERE}")
    _checked(folder, "labels")


def check_labels(folder: Path, labels: np.ndarray, title: str) -> None:
    """Raises DataError unless these labels of the test set `title` are CIFAR-10-C's, position by position."""
    published = _checked(folder, "labels")
    if len(labels) * 5 != len(published) or not np.array_equal(np.tile(labels, 5), published):
        reason = "its labels are not those of the test images, position by position"
        raise DataError(
            f"{folder}: {TITLE} was not made from {title}: {reason}; without `files` corruptions are computed"
        )


def read(folder: Path, family: str, clean: np.ndarray, title: str) -> np.ndarray:
    """One family, uint8 [5, 10000, 32, 32, 3], mapped, not read.

    clean: the test images, uint8 [10000, 32, 32, 3]. Raises DataError for a file that is missing or not the published
    one, and where its images are not corruptions of the clean ones.
    """
    images = _checked(folder, family)
    if images.dtype != np.uint8 or images.shape != (5 * len(clean), *clean.shape[1:]):
        came = f"{images.dtype} {list(images.shape)}"
        raise DataError(
            f"{_file(folder, family)}: {came}, for {title} uint8 {[5 * len(clean), *clean.shape[1:]]} expected"
        )
    some = np.linspace(0, len(clean) - 1, min(200, len(clean))).astype(int)
    pairs = zip(clean[some].reshape(len(some), -1), images[some].reshape(len(some), -1), strict=True)
    alike = np.nanmean([np.corrcoef(before, after)[0, 1] for before, after in pairs])
    if not alike > ALIKE:
        what = f"its images are not corruptions of {title}'s test images (correlation {alike:.2f})"
        raise DataError(f"{_file(folder, family)}: {what}; without `files` corruptions are computed")
    return images.reshape(5, *clean.shape)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _checked(folder: Path, name: str) -> np.ndarray:
    """A file's array, mapped, after its MD5 was found right; once per process as long as it is not touched."""
    file = _file(folder, name)
    try:
        stat = file.stat()
        found = _md5(file, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
        if found != MD5[name]:
            raise DataError(f"{file}: not the published file (MD5 {found}, not {MD5[name]}); get it again from {WHERE}")
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); get it again from {WHERE}") from error


@lru_cache(maxsize=64)
def _md5(file: Path, seen: tuple[int, ...]) -> str:
    """`seen` is another tuple whenever the file was touched."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()
