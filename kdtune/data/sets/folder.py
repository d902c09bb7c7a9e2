"""Images on disk as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from kdtune.data.dataset import Dataset
from kdtune.data.files import Arrays, decoded, digest, image_shape
from kdtune.data.listing import Listing, list_images
from kdtune.settings import PathText, Text


class Folder(Dataset):
    """Images of one size under path/train/CLASS/ and path/test/CLASS/, in any format that Pillow reads; classes are
    ordered by name. Grey images have three channels too. `data.pixels` says what becomes of 16 bits, what is refused.

    `name` is the set's title everywhere, figures included. A run's id knows the set by name and content, not by path.
    """

    path: PathText
    name: Text

    SPLITS: ClassVar[tuple[str, str]] = ("train", "test")

    @property
    def title(self) -> str:
        return self.name

    @property
    def known_as(self) -> str:
        return self.name

    def listing(self) -> Listing:
        return list_images(Path(self.path), self.SPLITS)

    def digest(self, data_dir: Path) -> str:
        return digest(self.listing(), data_dir)

    def shape(self) -> tuple[int, int, int]:
        return image_shape(self.listing())

    def classes(self) -> int:
        return len(self.listing().class_names)

    def counts(self) -> tuple[int, int]:
        files = self.listing().files
        train, test = (sum(map(len, files[split])) for split in self.SPLITS)
        return train, test

    def file_names(self) -> list[str]:
        listing = self.listing()
        classes = zip(listing.class_names, listing.files["train"], strict=True)
        return [f"{name}/{file.name}" for name, files in classes for file in files]

    def read(self, data_dir: Path) -> Arrays:
        return decoded(self.listing(), data_dir)
