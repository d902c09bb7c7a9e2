"""CINIC-10's part from ImageNet: which files are taken, how many, and that a network is measured on these."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from stand_ins import subject
from torch import nn

from kdtune.data.cinic import imagenet_part
from kdtune.data.error import DataError
from kdtune.data.loading import Data, Split
from kdtune.evaluation.shift import Shift

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARTS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def cinic(tmp_path_factory) -> Path:
    """The layout of CINIC-10: 4 images a class and part from ImageNet, 2 from CIFAR-10, which are all black."""
    root, generator = tmp_path_factory.mktemp("cinic"), np.random.default_rng(0)
    for part in PARTS:
        for index, name in enumerate(NAMES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                pixels[0, 0] = 25 * index, PARTS.index(part), i  # says what it is
                Image.fromarray(pixels).save(folder / f"n0{index}691459_{i * 37}.png")
            for i in range(2):
                split = "test" if part == "test" else "train"
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"cifar10-{split}-{i}.png")
    return root


def test_data(class_names=NAMES, side: int = 8) -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (30, 3, side, side), generator=generator, dtype=torch.uint8)
    test = Split(images, torch.randint(10, (30,), generator=generator))
    return Data("CIFAR-10", class_names, (3, side, side), train=test, validation=None, test=test, shifted={})


test_data.__test__ = False


class Reader(nn.Module):
    """Reads the class off the first pixel, in the numbering of `class_names`."""

    def __init__(self, class_names: tuple[str, ...]) -> None:
        super().__init__()
        self.order = torch.tensor([class_names.index(name) for name in NAMES])
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append((images[:, :, 0, 0] * 255).round().int())
        label = self.order[(images[:, 0, 0, 0] * 255 / 25).round().long()]
        return nn.functional.one_hot(label, 10).float()


def shift(cinic: Path, **keys) -> Shift:
    return Shift(cinic={"path": str(cinic), **keys})


@pytest.mark.parametrize(
    ("keys", "count"), [({}, 40), ({"part": "all"}, 120), ({"per_class": 3}, 30), ({"part": "all", "per_class": 7}, 70)]
)
@pytest.mark.parametrize("class_names", [NAMES, NAMES[::-1]])
def test_only_imagenets_images_are_taken(cinic, tmp_path, keys, count, class_names):
    network = Reader(class_names)
    measured = shift(cinic, **keys).measure(subject(network, test_data(class_names), data_dir=tmp_path))
    assert measured.metrics == {"shift/cinic": 100.0}
    assert int(measured.arrays["shift/cinic/images"]) == count
    seen = torch.cat(network.seen[1:])  # the first batch is asked twice
    assert len(seen) == count == len(seen.unique(dim=0))
    assert (seen[:, 0].bincount(minlength=226)[::25] == count // 10).all()
    assert set(seen[:, 1].tolist()) <= ({0, 1, 2} if keys.get("part") == "all" else {2})


def names(cinic: Path, part: str, per_class: int | None, seed: int) -> list[str]:
    listing = imagenet_part(cinic, part, per_class, seed)
    return [listing.relative(file).decode() for file in listing.all()]


def test_subsets_are_nested_balanced_and_the_seeds(cinic, tmp_path):
    larger = set(names(cinic, "all", 9, 0))
    smaller = names(cinic, "all", 4, 0)
    assert set(smaller) < larger < set(names(cinic, "all", None, 0))
    assert len(smaller) == 40 and len(larger) == 90
    assert smaller == names(cinic, "all", 4, 0) != names(cinic, "all", 4, 1)
    moved = shutil.copytree(cinic, tmp_path / "elsewhere")
    assert names(moved, "all", 4, 0) == smaller
    drawn = np.array([int(name.split("_")[-1][:-4]) for name in larger])
    assert len(np.unique(drawn)) == 4  # not the first by name


def test_hash_is_the_images_taken(cinic, tmp_path):
    hashes = {
        shift(cinic, **keys).hash for keys in ({}, {"part": "all"}, {"per_class": 2}, {"per_class": 2, "seed": 1})
    }
    assert len(hashes | {Shift().hash}) == 5
    moved = shutil.copytree(cinic, tmp_path / "moved")
    assert shift(moved, per_class=2).hash == shift(cinic, per_class=2).hash
    (moved / "test" / "cat" / "cifar10-test-1.png").write_bytes(b"not looked at")
    assert shift(moved, part="all").hash == shift(cinic, part="all").hash
    changed = shutil.copytree(cinic, tmp_path / "changed")
    taken = imagenet_part(changed, "test", 2, 0).all()[0]
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(taken.path)
    assert shift(changed, per_class=2).hash != shift(cinic, per_class=2).hash


def test_what_is_not_enough_is_said(cinic, tmp_path):
    with pytest.raises(DataError, match=r"\(test\), class airplane: 4 images from ImageNet, 5 wanted"):
        _ = shift(cinic, per_class=5).hash
    with pytest.raises(DataError, match=r"\(train, valid, test\), class airplane: 12 images from ImageNet, 13 wanted"):
        _ = shift(cinic, part="all", per_class=13).hash
    with pytest.raises(DataError, match="nowhere"):
        _ = shift(tmp_path / "nowhere").hash
    own = shutil.copytree(cinic, tmp_path / "own")
    for file in (own / "test" / "ship").glob("n0*"):
        file.unlink()
    with pytest.raises(DataError, match="class ship: 0 images from ImageNet, at least 1 wanted"):
        _ = shift(own).hash
    assert len(imagenet_part(own, "all", None, 0).all()) == 116


def test_classes_and_size_must_be_the_test_sets(cinic, tmp_path):
    with pytest.raises(DataError, match="gnu"):
        shift(cinic).measure(subject(Reader(NAMES), test_data(("gnu", *NAMES[1:])), data_dir=tmp_path))
    with pytest.raises(DataError, match=r"cinic: .* has images of \[3, 8, 8\] .*CIFAR-10 of \[3, 4, 4\]"):
        shift(cinic).measure(subject(Reader(NAMES), test_data(side=4), data_dir=tmp_path))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cinic": {"path": "x", "part": "valid"}}, "'test' or 'all'"),
        ({"cinic": {"path": "x", "per_class": 0}}, "greater than or equal to 1"),
        ({"cinic": {"path": "x", "classes": 3}}, "unknown key 'classes'; did you mean per_class"),
        ({"cinic": {"path": "x"}, "folder": {"path": "x", "name": "y"}}, "each is an entry of its own"),
    ],
)
def test_what_keys_may_say(keys, message):
    with pytest.raises(ValidationError, match=message):
        Shift(**keys)


def test_metrics_are_announced_as_they_are_written(cinic):
    assert shift(cinic).writes == "shift/cinic" and Shift().writes == "shift"


def test_the_real_sample_is_read_as_a_part_and_as_a_folder(shared_data, tmp_path):
    """1,494 real images, none of them CIFAR-10's; numbered, as the sample's makers did, not named by WordNet id."""
    with tarfile.open(shared_data / "cinic10-imagenet-sample" / "test.tar.gz") as archive:
        archive.extractall(tmp_path / "test", filter="data")
    data = test_data(side=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    given = subject(network, data, data_dir=tmp_path / "data")
    part = shift(tmp_path).measure(given)
    folder = Shift(folder={"path": str(tmp_path / "test"), "name": "cinic"}).measure(given)
    assert part.metrics == folder.metrics and int(part.arrays["shift/cinic/images"]) == 1494
    assert np.array_equal(part.arrays["shift/cinic/correct"], folder.arrays["shift/cinic/correct"])
    smaller = shift(tmp_path, per_class=100).measure(given)
    assert int(smaller.arrays["shift/cinic/images"]) == 1000
