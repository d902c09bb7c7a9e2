"""CIFAR-10-C's folder: only the published files pass, and only beside the images they were made from."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from stand_ins import cifar10c_folder
from torch import nn

from kdtune.data import cifar10c
from kdtune.data.error import DataError
from kdtune.data.loading import Data, Split
from kdtune.evaluation.families import FAMILIES


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(30, 3, 6, 6, generator=generator)
    images = (255 * nn.functional.interpolate(small, (32, 32), mode="bilinear")).to(torch.uint8)
    test = Split(images, torch.randint(10, (30,), generator=generator))
    return Data("CIFAR-10", tuple("abcdefghij"), (3, 32, 32), train=test, validation=None, test=test, shifted={})


def pixels(data: Data) -> np.ndarray:
    return data.test.images.permute(0, 2, 3, 1).numpy()


def test_there_is_a_digest_for_every_family_and_the_labels():
    assert set(cifar10c.MD5) == {*FAMILIES, "labels"}
    assert all(len(digest) == 32 and int(digest, 16) for digest in cifar10c.MD5.values())
    assert len(set(cifar10c.MD5.values())) == 20


def test_published_files_are_read_by_severity(tmp_path, data, monkeypatch):
    folder, images = cifar10c_folder(tmp_path, data, monkeypatch, ("fog", "elastic_transform"))
    cifar10c.check_folder(folder)
    cifar10c.check_labels(folder, data.test.labels.numpy(), "CIFAR-10")
    for family, expected in images.items():
        read = cifar10c.read(folder, family, pixels(data), "CIFAR-10")
        assert isinstance(read, np.memmap) and np.array_equal(read, expected)


def test_other_files_are_refused(tmp_path, data, monkeypatch):
    folder, _ = cifar10c_folder(tmp_path, data, monkeypatch, ("fog", "snow"))
    content = (folder / "fog.npy").read_bytes()
    (folder / "fog.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"fog\.npy: not the published file \(MD5 .*zenodo"):
        cifar10c.read(folder, "fog", pixels(data), "CIFAR-10")
    (folder / "fog.npy").write_bytes(content)
    cifar10c.read(folder, "fog", pixels(data), "CIFAR-10")  # looked at again once it was touched
    (folder / "labels.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"labels\.npy: not the published file"):
        cifar10c.check_folder(folder)
    (folder / "snow.npy").unlink()
    with pytest.raises(DataError, match=r"snow\.npy missing of CIFAR-10-C"):
        cifar10c.check_folder(folder)
    with pytest.raises(DataError, match=r"snow\.npy: cannot be read"):
        cifar10c.read(folder, "snow", pixels(data), "CIFAR-10")


def test_labels_must_agree_position_by_position(tmp_path, data, monkeypatch):
    folder, _ = cifar10c_folder(tmp_path, data, monkeypatch, ())
    labels = data.test.labels.numpy()
    changed = labels.copy()
    changed[17] = (changed[17] + 1) % 10
    for other in (changed, labels[:-1], np.sort(labels)):
        with pytest.raises(DataError, match="CIFAR-10-C was not made from Photos"):
            cifar10c.check_labels(folder, other, "Photos")


def test_images_must_be_corruptions_of_the_clean_ones(tmp_path, data, monkeypatch):
    folder, _ = cifar10c_folder(tmp_path, data, monkeypatch, FAMILIES)
    for family in FAMILIES:
        cifar10c.read(folder, family, pixels(data), "CIFAR-10")
        with pytest.raises(DataError, match="not corruptions of Photos's test images"):
            cifar10c.read(folder, family, np.roll(pixels(data), 1, 0), "Photos")


def test_shape_and_type_must_be_the_test_images(tmp_path, data, monkeypatch):
    folder, images = cifar10c_folder(tmp_path, data, monkeypatch, ("fog",))
    with pytest.raises(DataError, match=r"uint8 \[150, 32, 32, 3\], for Photos uint8 \[150, 16, 16, 3\] expected"):
        cifar10c.read(folder, "fog", pixels(data)[:, ::2, ::2], "Photos")
    np.save(folder / "fog.npy", images["fog"].reshape(-1, 32, 32, 3).astype(np.float32))
    monkeypatch.setitem(cifar10c.MD5, "fog", hashlib.md5((folder / "fog.npy").read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"float32 \[150, 32, 32, 3\]"):
        cifar10c.read(folder, "fog", pixels(data), "CIFAR-10")
