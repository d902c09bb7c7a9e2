from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from itertools import islice
from pathlib import Path

import numpy
import pytest
from PIL import Image

from kdtune.data import files
from kdtune.data.error import DataError
from kdtune.data.files import Arrays, decoded, digest, image_shape
from kdtune.data.listing import list_images

PROJECT = Path(__file__).parents[2]
REAL = PROJECT.parent / "shared" / "data"
BOTH = ("train", "test")
TREE = {
    "train/cat/a.png": 1,
    "train/cat/b.PNG": 2,
    "train/dog/a.jpg": 3,
    "train/dog/c.jpeg": 4,
    "test/cat/a.png": 5,
    "test/dog/a.png": 6,
}


def encoded(seed: int, size: tuple[int, int] = (8, 6), kind: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, seed in TREE.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(seed, kind="PNG" if path.suffix.lower() == ".png" else "JPEG"))
    return tmp_path / "tree"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def read(tree: Path, data_dir: Path) -> Arrays:
    return decoded(list_images(tree, BOTH), data_dir)


def digest_of(tree: Path, data_dir: Path) -> str:
    return digest(list_images(tree, BOTH), data_dir)


# --- what is read


def test_every_image_in_order_as_pillow_decodes_it(tree: Path, data_dir: Path) -> None:
    (tree / "train" / ".hidden").mkdir()
    (tree / "train" / "cat" / ".DS_Store").write_bytes(b"")
    (tree / "train" / "cat" / "README.txt").write_text("passed over")
    arrays = read(tree, data_dir)
    assert arrays.class_names == ("cat", "dog") and list(arrays.splits) == ["train", "test"]
    for split, (images, labels) in arrays.splits.items():
        names = [name for name in TREE if name.startswith(split)]
        assert labels.tolist() == [int("dog" in name) for name in names] and labels.dtype == numpy.int64
        assert images.dtype == numpy.uint8 and images.shape == (len(names), 3, 6, 8)
        for name, image in zip(names, images, strict=True):
            with Image.open(tree / name) as expected:
                assert numpy.array_equal(image.transpose(1, 2, 0), numpy.array(expected))
    assert image_shape(list_images(tree, BOTH)) == (3, 6, 8)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_colour_modes_become_rgb(mode: str, tree: Path, data_dir: Path) -> None:
    (tree / "train/cat/a.png").write_bytes(encoded(1, mode=mode))
    image = read(tree, data_dir).splits["train"][0][0]
    with Image.open(tree / "train/cat/a.png") as expected:
        assert expected.mode == mode
        assert numpy.array_equal(image.transpose(1, 2, 0), numpy.array(expected.convert("RGB")))


def test_every_format_that_pillow_reads_beside_the_others(tree: Path, data_dir: Path) -> None:
    """Row A7: .bmp, .webp and others were dropped without a word."""
    kinds = {"e.bmp": "BMP", "f.WebP": "WEBP", "g.tiff": "TIFF", "h.GIF": "GIF", "i.ppm": "PPM"}
    for name, kind in kinds.items():
        (tree / "train/cat" / name).write_bytes(encoded(9, kind=kind, mode="L"))
    images, labels = read(tree, data_dir).splits["train"]
    assert len(images) == len(labels) == 4 + len(kinds) and labels.tolist() == [0] * 7 + [1] * 2


def test_sixteen_bit_grey_images_of_a_folder(tree: Path, data_dir: Path) -> None:
    """Row A7: of such images 99.6 % of the pixels became 255."""
    grey = numpy.random.default_rng(0).integers(0, 65536, (6, 8), dtype=numpy.uint16)
    Image.fromarray(grey).save(tree / "train/cat/a.png")
    image = read(tree, data_dir).splits["train"][0][0]
    assert numpy.array_equal(image, numpy.rint(grey / 257).astype(numpy.uint8)[None].repeat(3, 0))


def test_what_is_passed_over_is_named_once(tree: Path, data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree / "train/cat/README.txt").write_text("notes")
    (tree / "train/cat/Thumbs.db").write_bytes(b"")
    (tree / "train/dog/._a.png").write_bytes(b"")
    (tree / "test/stray.png").write_bytes(encoded(1))
    (tree / "valid").mkdir()
    for _ in range(2):
        assert len(read(tree, data_dir).splits["train"][0]) == 4
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    said = warning.getMessage()
    assert said.startswith(f"{tree}: passed over 5 that are no images of a class: ")
    for name in ("train/cat/README.txt", "train/cat/Thumbs.db", "train/dog/._a.png", "test/stray.png", "valid"):
        assert name in said


def test_a_folder_of_images_alone_is_no_news(tree: Path, data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tree, data_dir)
    assert not caplog.records


def test_real_jpegs(tmp_path: Path, data_dir: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"no real images at {REAL}")
    for split in BOTH:
        with tarfile.open(REAL / "cifar10-jpeg" / f"{split}.tar.gz") as archive:
            for member in islice((member for member in archive if member.isfile()), 30):
                archive.extract(member, tmp_path / "cifar10" / split, filter="data")
    arrays = read(tmp_path / "cifar10", data_dir)
    assert arrays.class_names == ("airplane",) and arrays.splits["train"][0].shape == (30, 3, 32, 32)
    assert 60 < arrays.splits["train"][0].mean() < 200


# --- the digest


def test_digest_is_of_names_and_bytes_only(tree: Path, data_dir: Path, tmp_path: Path) -> None:
    first = digest_of(tree, data_dir)
    moved = Path(shutil.copytree(tree, tmp_path / "elsewhere" / "other"))
    os.utime(moved / "train/cat/a.png", (1, 1))
    assert digest_of(moved, tmp_path / "fresh") == first and len(first) == 16
    (moved / "train/cat/a.png").rename(moved / "train/cat/0.png")
    renamed = digest_of(moved, data_dir)
    (moved / "train/cat/0.png").write_bytes(encoded(99))
    assert len({first, renamed, digest_of(moved, data_dir)}) == 3


def test_digest_is_pinned(tmp_path: Path) -> None:
    for name, content in (("train/a/1.png", b"one"), ("test/a/2.png", b"two")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    content = b"".join(
        name + b"\0%d\0" % 3 + held for name, held in ((b"train/a/1.png", b"one"), (b"test/a/2.png", b"two"))
    )
    expected = hashlib.sha256(content).hexdigest()[:16]
    # another digest would give every run on a folder another id
    assert digest_of(tmp_path, tmp_path / "data") == expected == "c990ce3bd2d33d39"


def test_files_are_not_read_again_until_touched(tree: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest_of(tree, data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_read", lambda *_: pytest.fail("read again"))
        assert digest_of(tree, data_dir) == first
    (tree / "test/dog/a.png").write_bytes(encoded(77))
    assert digest_of(tree, data_dir) != first


@pytest.mark.parametrize("how", ["written into", "replaced"])
def test_other_bytes_of_the_same_size_and_time_are_noticed(how: str, tree: Path, data_dir: Path) -> None:
    file = tree / "test/dog/a.png"
    before, first = file.stat(), digest_of(tree, data_dir)
    content = file.read_bytes()
    other = content[:-1] + bytes([content[-1] ^ 1])
    if how == "replaced":
        file.with_suffix(".new").write_bytes(other)
        file.with_suffix(".new").replace(file)
    else:
        file.write_bytes(other)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert digest_of(tree, data_dir) != first


def test_a_digest_cut_off_while_it_was_written_is_made_again(tree: Path, data_dir: Path) -> None:
    first = digest_of(tree, data_dir)
    (known,) = (file for file in (data_dir / "decoded/digests").iterdir() if not file.suffix)
    known.write_text(first[:5])
    assert digest_of(tree, data_dir) == first


# --- decoded once


def test_the_second_time_maps_what_was_decoded(tree: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(tree, data_dir)
    monkeypatch.setattr(files, "_decode", lambda *_: pytest.fail("decoded again"))
    second = read(tree, data_dir)
    assert isinstance(second.splits["train"][0], numpy.memmap)
    assert all(numpy.array_equal(second.splits[split][0], first.splits[split][0]) for split in BOTH)
    second.splits["train"][0][:] = 0  # a private page: the file stays as it is
    assert numpy.array_equal(read(tree, data_dir).splits["train"][0], first.splits["train"][0])


@pytest.mark.parametrize(
    "damage", ["flip a byte", "cut", "no contents", "bad contents", "gone", "decoded by an earlier version"]
)
def test_damaged_leftovers_are_decoded_again(damage: str, tree: Path, data_dir: Path) -> None:
    first = read(tree, data_dir).splits["train"][0].copy()
    kept = data_dir / "decoded" / digest_of(tree, data_dir)
    saved, contents = kept / "train.npy", kept / "contents.json"
    content = saved.read_bytes()
    if damage == "flip a byte":
        saved.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        saved.write_bytes(content[:-10])
    elif damage == "no contents":
        contents.unlink()
    elif damage == "bad contents":
        contents.write_text('{"splits":')
    elif damage == "decoded by an earlier version":
        numpy.save(saved, numpy.full_like(first, 255))
        told = json.loads(contents.read_text())
        told["splits"]["train"]["sha256"] = hashlib.sha256(saved.read_bytes()).hexdigest()
        contents.write_text(json.dumps({key: told[key] for key in told if key != "decoding"}))
    else:
        saved.unlink()
    assert numpy.array_equal(read(tree, data_dir).splits["train"][0], first)
    assert saved.read_bytes() == content


def test_what_a_killed_process_left_does_no_harm(tree: Path, data_dir: Path) -> None:
    aside = data_dir / "decoded" / f"{digest_of(tree, data_dir)}.part"
    aside.mkdir()
    (aside / "train.npy").write_bytes(b"half")
    assert len(read(tree, data_dir).splits["train"][0]) == 4
    assert not aside.exists()


def test_two_processes_decode_once(tree: Path, data_dir: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from kdtune.data import files
from kdtune.data.listing import list_images
tree, data, gate = map(Path, sys.argv[1:])
decode = files._decode
def slow(*arguments):
    print("decodes")
    time.sleep(0.5)
    decode(*arguments)
files._decode = slow
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.001)
print(files.decoded(list_images(tree, ("train", "test")), data).splits["train"][0].sum())
"""
    gate = data_dir.with_name("gate")
    command = [sys.executable, "-c", code, str(tree), str(data_dir), str(gate)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    gate.touch()
    printed = [process.communicate(timeout=30)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    total = str(read(tree, data_dir).splits["train"][0].sum())
    assert sorted(printed, key=len) == [[total], ["decodes", total]]


def test_files_that_change_while_they_are_read_are_refused(
    tree: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files._pixels

    def changing(file: os.DirEntry[str], content: bytes) -> numpy.ndarray:
        (tree / "train/dog/a.jpg").write_bytes(encoded(55, kind="JPEG"))
        return real(file, content)

    digest_of(tree, data_dir)
    monkeypatch.setattr(files, "_pixels", changing)
    with pytest.raises(DataError, match="files changed while they were read"):
        read(tree, data_dir)


# --- what is refused


def test_sizes_must_agree(tree: Path, data_dir: Path) -> None:
    (tree / "test/dog/a.png").write_bytes(encoded(1, size=(9, 6)))
    with pytest.raises(DataError, match=r"one size: .*train/cat/a.png and .*test/dog/a.png are 8 x 6 and 9 x 6"):
        read(tree, data_dir)
    assert not [path for path in (data_dir / "decoded").glob("*/contents.json") if path.parent.suffix != ".part"]


@pytest.mark.parametrize("content", [b"", b"no image", encoded(3)[:-40], encoded(3, kind="JPEG")[:80]])
def test_a_broken_image_is_named(content: bytes, tree: Path, data_dir: Path) -> None:
    (tree / "train/dog/c.jpeg").write_bytes(content)
    with pytest.raises(DataError, match=r"train/dog/c\.jpeg: not a readable image"):
        read(tree, data_dir)


def test_missing_folders_and_classes(tree: Path) -> None:
    with pytest.raises(DataError, match="nowhere/train: cannot list"):
        list_images(tree / "nowhere", BOTH)
    (tree / "train" / "eel").mkdir()
    with pytest.raises(DataError, match="train/eel: no image files"):
        list_images(tree, BOTH)
    shutil.copy(tree / "train/cat/a.png", tree / "train/eel/a.png")
    with pytest.raises(DataError, match="same classes; only one of them has eel"):
        list_images(tree, BOTH)
    with pytest.raises(DataError, match="train/cat: no class folders"):
        list_images(tree / "train" / "cat", ("",))


def test_a_folder_inside_a_class_folder(tree: Path) -> None:
    (tree / "train/cat/more").mkdir()
    shutil.copy(tree / "train/cat/a.png", tree / "train/cat/more/a.png")
    with pytest.raises(DataError, match=r"train/cat/more: a folder inside a class folder; images lie in .*train/cat"):
        list_images(tree, BOTH)


def test_a_link_that_leads_nowhere(tree: Path) -> None:
    (tree / "train/cat/c.png").symlink_to(tree / "nowhere.png")
    with pytest.raises(DataError, match=r"train/cat/c\.png: no file"):
        list_images(tree, BOTH)


def test_an_image_that_is_refused_is_named(tree: Path, data_dir: Path) -> None:
    Image.new("RGBA", (8, 6), (1, 2, 3, 0)).save(tree / "test/cat/a.png")
    with pytest.raises(DataError, match=r"test/cat/a\.png: has transparent pixels"):
        read(tree, data_dir)


def test_a_data_folder_that_cannot_be_written(tree: Path, data_dir: Path) -> None:
    data_dir.write_text("a file")
    with pytest.raises(DataError, match="--data DIR or KDTUNE_DATA"):
        read(tree, data_dir)


@pytest.mark.soak
def test_the_whole_cifar10_folder(tmp_path: Path, data_dir: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"no real images at {REAL}")
    for split in BOTH:
        with tarfile.open(REAL / "cifar10-jpeg" / f"{split}.tar.gz") as archive:
            archive.extractall(tmp_path / "cifar10" / split, filter="data")
    arrays = read(tmp_path / "cifar10", data_dir)
    assert digest_of(tmp_path / "cifar10", data_dir) == "9331aba37042b53e"
    images, labels = arrays.splits["train"]
    assert images.shape == (50_000, 3, 32, 32) and numpy.bincount(labels).tolist() == [5000] * 10
    assert numpy.bincount(arrays.splits["test"][1]).tolist() == [1000] * 10
    # the mean that came with the files
    assert numpy.allclose(images.mean((0, 2, 3)) / 255, (0.4913, 0.4821, 0.4465), atol=2e-4)
    started = time.monotonic()
    read(tmp_path / "cifar10", data_dir)
    assert time.monotonic() - started < 10  # decoding would take longer
