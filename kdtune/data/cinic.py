"""CINIC-10 (Darlow et al. 2018): CIFAR-10's classes, its own images and ImageNet's, as PART/CLASS/FILE.png.

Files named cifar10-... come from CIFAR-10, all others (n02123045_1234.png, by WordNet id) from ImageNet. Only these are
another domain: 21,000 a class over train, valid and test, 7,000 of them in test. Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kdtune.data.error import DataError
from kdtune.data.listing import Listing, list_images

OWN = "cifar10-"  # how the names of CIFAR-10's images begin
PARTS = {"test": ("test",), "all": ("train", "valid", "test")}


def imagenet_part(path: Path, part: str, per_class: int | None, seed: int) -> Listing:
    """CINIC-10's images from ImageNet, of its test part or of all.

    With `per_class` that many of every class, over the parts together: the first in an order that names and `seed`
    decide, so that fewer are a subset of more, wherever the folder lies. Raises DataError where there are not enough.
    """
    listing = list_images(path, PARTS[part])
    files = {
        name: [[file for file in of if not file.name.startswith(OWN)] for of in classes]
        for name, classes in listing.files.items()
    }
    found = listing._replace(files=files)
    for index, name in enumerate(found.class_names):
        every = [file for classes in found.files.values() for file in classes[index]]
        if len(every) < (per_class or 1):
            where = f"{path} ({', '.join(PARTS[part])}), class {name}"
            raise DataError(f"{where}: {len(every)} images from ImageNet, {per_class or 'at least 1'} wanted")
        if per_class is not None:
            order = {file.path: hashlib.sha256(b"%d/" % seed + found.relative(file)).digest() for file in every}
            kept = {file.path for file in sorted(every, key=lambda file: order[file.path])[:per_class]}
            for classes in found.files.values():
                classes[index] = [file for file in classes[index] if file.path in kept]
    # The folder's other parts and its papers are left out because nobody asks for them: no word about them.
    odd = tuple(name for name in found.passed_over if os.path.dirname(name))
    return found._replace(files={name: classes for name, classes in files.items() if any(classes)}, passed_over=odd)
