from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.data.listing import list_images
from kdtune.data.loading import Split, load, load_images
from kdtune.data.sets.folder import Folder
from kdtune.data.sets.published import MNIST, Digits
from kdtune.data.split import split


def dataset(kind: str = "digits", /, **asked: Any) -> Dataset:
    return Dataset.model_validate({kind: {}, **asked})


def write_folder(root: Path, counts: dict[str, dict[str, int]], size: tuple[int, int] = (6, 5)) -> Path:
    """Random images as root/SPLIT/CLASS/i.png; `size` is width, height."""
    random = numpy.random.default_rng(0)
    for part, classes in counts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = write_folder(tmp_path / "pets", {"train": {"dog": 4, "cat": 6}, "test": {"cat": 2, "dog": 1}})
    return Folder(path=str(path), name="Pets (PNG)")


def images_of(split: Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.images]


# --- what a sweep file may say


def test_a_bare_name_is_a_dataset() -> None:
    assert Dataset.model_validate("mnist") == dataset("mnist") == MNIST()
    assert dataset(train_size=100) == Digits(train_size=100)
    assert {"cifar10", "cifar100", "mnist", "fashion_mnist", "digits", "folder"} <= set(Dataset.kinds())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"cifar11": {}},
        {"digits": {}, "mnist": {}},
        {"digits": {"size": 8}},
        {"folder": {"path": "x"}},
        {"folder": {"path": "x", "name": ""}},
        {"digits": {}, "train_size": 0},
        {"digits": {}, "train_size": "300"},
        {"digits": {}, "validation": 0.0},
        {"digits": {}, "validation": 1.0},
        {"digits": {}, "seed": -1},
        {"digits": {}, "seed": None},
        {"digits": {}, "labels": "noisy"},
        {"digits": {}, "labels": {"corruption": {}}},
        {"digits": {}, "labels": {"corruption": {"rate": 1.1}}},
        {"digits": {}, "labels": {"corruption": {"rate": 0.1, "classes": "right"}}},
        {"digits": {}, "labels": {"variability": {"rate": 0.1}}},
    ],
)
def test_what_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Dataset.model_validate(wrong)


def test_description_is_content_without_path_and_without_what_is_off(folder: Folder, tmp_path: Path) -> None:
    plain = dataset("mnist").description(tmp_path)
    assert plain == {"name": "mnist", "digest": "06b0d1f124c4e5fa", "seed": 0}
    asked = dataset(train_size=300, validation=0.1, seed=2).description(tmp_path)
    assert asked == {"name": "digits", "digest": "0b9464ec3276aea2", "seed": 2, "train_size": 300, "validation": 0.1}
    described = folder.description(tmp_path)
    assert described == {"name": "Pets (PNG)", "digest": folder.digest(tmp_path), "seed": 0}
    assert str(tmp_path) not in json.dumps(described)


def test_plan_and_dry_run_need_no_torch(folder: Folder, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from kdtune.data.dataset import Dataset
data = Path(sys.argv[2])
folder = {"folder": {"path": sys.argv[1], "name": "n"}, "train_size": 5, "validation": 0.2}
for one in map(Dataset.model_validate, ["cifar10", folder]):
    kept, held_out = one.sizes(one.counts()[0])
    print(one.title, one.shape(), one.classes(), kept - held_out, one.description(data)["name"])
print([name for name in ("torch", "torchvision", "sklearn", "ray", "pandas") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, folder.path, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines() == ["CIFAR-10 (3, 32, 32) 10 50000 cifar10", "n (3, 5, 6) 2 4 n", "[]"]


# --- loading


def test_load_gives_uint8_and_int64_on_the_device(tmp_path: Path) -> None:
    data = load(dataset(validation=0.1), tmp_path)
    assert data.validation is not None
    for part, size in ((data.train, 841), (data.validation, 93), (data.test, 466), (data.shifted["writers"], 397)):
        assert part.images.dtype == torch.uint8 and part.images.shape == (size, 1, 8, 8)
        assert part.labels.dtype == torch.int64 and part.labels.shape == (len(part),) == (size,)
        assert part.images.device.type == part.labels.device.type == "cpu"
    assert (data.title, data.classes, data.shape) == ("digits (8 x 8, scikit-learn)", 10, (1, 8, 8))
    assert load(dataset(), tmp_path, device="meta").test.images.device.type == "meta"


def test_what_is_promised_without_loading_is_what_is_loaded(folder: Folder, tmp_path: Path) -> None:
    for one in (dataset(), dataset(train_size=301, validation=0.15), folder):
        data = load(one, tmp_path)
        assert one.shape() == data.shape == tuple(data.test.images.shape[1:])
        assert one.classes() == data.classes
        train, test = one.counts()
        kept, held_out = one.sizes(train)
        assert (kept - held_out, test) == (len(data.train), len(data.test))
        assert one.title == data.title


def test_a_folder_is_read_in_order_of_class_and_name(folder: Folder, tmp_path: Path) -> None:
    data = load(folder, tmp_path)
    assert data.class_names == ("cat", "dog") and data.shifted == {} and data.validation is None
    assert data.train.labels.tolist() == [0] * 6 + [1] * 4 and data.test.labels.tolist() == [0, 0, 1]
    with Image.open(Path(folder.path) / "train" / "dog" / "2.png") as image:
        expected = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)
    assert torch.equal(data.train.images[8], expected)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    missing = Dataset.model_validate({"folder": {"path": str(tmp_path / "nowhere"), "name": "x"}})
    with pytest.raises(DataError, match="nowhere"):
        load(missing, tmp_path)


# --- read once


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Dataset]:
    """What is read, as often as it is."""
    seen: list[Dataset] = []
    for kind in (Digits, Folder):

        def counted(self: Dataset, data_dir: Path, read: Any = kind.read) -> Any:
            seen.append(self)
            return read(self, data_dir)

        monkeypatch.setattr(kind, "read", counted)
    return seen


def test_what_is_made_of_a_set_does_not_read_it_again(reads: list[Dataset], tmp_path: Path) -> None:
    wrong = {"labels": {"corruption": {"rate": 0.5}}}
    every = [
        load(dataset(**asked), tmp_path) for asked in ({}, {"train_size": 90, "validation": 0.1, "seed": 3}, wrong)
    ]
    assert reads == [Digits()]
    assert [len(data.train) for data in every] == [934, 81, 934]
    plain, corrupted = every[0].train, every[2].train
    assert torch.equal(plain.images, corrupted.images) and not torch.equal(plain.labels, corrupted.labels)
    assert torch.equal(load(dataset(), tmp_path).train.labels, plain.labels)  # nothing was written into what is kept


def test_other_content_and_other_kinds_are_read(reads: list[Dataset], folder: Folder, tmp_path: Path) -> None:
    load(folder, tmp_path)
    before = load(folder, tmp_path).test.images.clone()
    load(dataset(), tmp_path)
    assert [type(one) for one in reads] == [Folder, Digits]
    Image.new("RGB", (6, 5), "red").save(Path(folder.path) / "test" / "cat" / "0.png")
    assert not torch.equal(load(folder, tmp_path).test.images, before)
    assert len(reads) == 3


def test_with_the_digest_a_folder_is_not_listed_again(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = folder.digest(tmp_path)
    first = load(folder, tmp_path, planned={"digest": digest})
    again = lambda *_: pytest.fail("listed again")  # noqa: E731
    monkeypatch.setattr(sys.modules[Folder.__module__], "list_images", again)
    second = load(folder, tmp_path, planned={"digest": digest})
    assert images_of(second.train) == images_of(first.train)
    with pytest.raises(pytest.fail.Exception, match="listed again"):
        load(folder, tmp_path)


@pytest.mark.parametrize("loaded_before", [False, True])
def test_another_digest_than_the_planned_one_is_refused(loaded_before: bool, folder: Folder, tmp_path: Path) -> None:
    found = folder.digest(tmp_path)
    if loaded_before:
        load(folder, tmp_path, planned={"digest": found})
    with pytest.raises(DataError, match=rf"Pets \(PNG\): .* changed since .*{found}.*0123456789abcdef.* again"):
        load(folder, tmp_path, planned={"digest": "0123456789abcdef"})


def test_images_changed_after_the_plan_are_refused(folder: Folder, tmp_path: Path) -> None:
    planned = folder.digest(tmp_path)
    Image.new("RGB", (6, 5), "red").save(Path(folder.path) / "test" / "cat" / "0.png")
    with pytest.raises(DataError, match=f"changed since .*{planned} was planned"):
        load(folder, tmp_path, planned={"digest": planned})


# --- train_size and validation


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"train_size": 935}, "train_size: 935, but digits .* has 934 training images"),
        ({"train_size": 20, "validation": 0.02}, "validation: 0.02 of 20 images holds out 0"),
        ({"train_size": 20, "validation": 0.98}, "validation: 0.98 of 20 images holds out 20"),
    ],
)
def test_too_few_images_are_an_error_with_the_numbers(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        dataset(**asked).sizes(dataset().counts()[0])
    with pytest.raises(DataError, match=message):
        load(dataset(**asked), tmp_path)


def test_a_class_that_no_training_image_shows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="9 training images cannot show its 10 classes"):
        load(dataset(train_size=9), tmp_path)
    assert len(load(dataset(train_size=10), tmp_path).train.labels.unique()) == 10


def test_one_class_is_none(tmp_path: Path) -> None:
    for part in ("train/a", "test/a"):
        (tmp_path / part).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / part / "1.png")
    one = Dataset.model_validate({"folder": {"path": str(tmp_path), "name": "n"}})
    with pytest.raises(DataError, match="n: one class alone, 'a'"):
        load(one, tmp_path / "data")


LABELS = st.lists(st.integers(0, 4), min_size=6, max_size=80)


def numbered(labels: list[int]) -> Split:
    return Split(torch.arange(len(labels)), torch.tensor(labels))  # an image is its own number


def parts(whole: Split, asked: Dataset) -> tuple[Split, Split | None]:
    kept, held_out = split(whole.labels, asked)
    return whole[kept], whole[held_out] if len(held_out) else None


@settings(deadline=None)
@given(LABELS, st.data())
def test_a_subset_is_as_balanced_as_the_classes_allow(labels: list[int], data: st.DataObject) -> None:
    size, seed = data.draw(st.integers(1, len(labels))), data.draw(st.integers(0, 99))
    train, held_out = parts(numbered(labels), dataset(train_size=size, seed=seed))
    chosen = train.images.tolist()
    assert held_out is None and len(chosen) == size and chosen == sorted(set(chosen))
    assert train.labels.tolist() == [labels[index] for index in chosen]
    counts, there = (torch.bincount(torch.tensor(each), minlength=5) for each in (train.labels.tolist(), labels))
    for count, limit in zip(counts, there, strict=True):  # fewer than another class by two only if it has no more
        assert count == limit or count >= counts.max() - 1


@settings(deadline=None)
@given(LABELS, st.data())
def test_a_larger_subset_holds_the_smaller_one(labels: list[int], data: st.DataObject) -> None:
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, len(labels))] * 2)))
    subsets = [set(parts(numbered(labels), dataset(train_size=size))[0].images.tolist()) for size in (small, large)]
    assert subsets[0] <= subsets[1]


@settings(deadline=None)
@given(LABELS, st.floats(0.1, 0.9), st.integers(0, 99))
def test_validation_is_the_same_share_of_every_class(labels: list[int], share: float, seed: int) -> None:
    one = dataset(validation=share, seed=seed)
    train, held_out = parts(numbered(labels), one)
    assert held_out is not None and len(held_out) == round(share * len(labels))
    assert sorted(train.images.tolist() + held_out.images.tolist()) == list(range(len(labels)))
    counts, there = (torch.bincount(torch.tensor(each), minlength=5) for each in (held_out.labels.tolist(), labels))
    present = there > 0
    shares, half_an_image = counts[present] / there[present], 0.5 / there[present]
    # one share for all, up to the half image by which a count is rounded
    assert (shares - half_an_image).max() <= (shares + half_an_image).min() + 1e-6


def test_of_balanced_classes_the_held_out_images_are_balanced() -> None:
    train, held_out = parts(numbered(list(range(10)) * 60), dataset(train_size=300, validation=0.1))
    assert held_out is not None
    assert train.labels.bincount().tolist() == [27] * 10 and held_out.labels.bincount().tolist() == [3] * 10


def test_teacher_and_student_see_the_same_images_and_the_seed_moves_them(tmp_path: Path) -> None:
    first, again, other = (load(dataset(train_size=300, validation=0.1, seed=seed), tmp_path) for seed in (0, 0, 1))
    assert images_of(first.train) == images_of(again.train) != images_of(other.train)
    assert first.validation is not None and again.validation is not None and other.validation is not None
    assert images_of(first.validation) == images_of(again.validation) != images_of(other.validation)
    assert images_of(first.test) == images_of(other.test)


# A change here gives every run with these settings other data: raise RECIPE_VERSION with it.
def test_the_drawn_images_are_pinned(tmp_path: Path) -> None:
    data = load(dataset(train_size=300, validation=0.1), tmp_path)
    assert data.validation is not None
    found = [hashlib.sha256(b"".join(images_of(split))).hexdigest()[:12] for split in (data.train, data.validation)]
    assert found == ["ab0e9a901116", "aef4f0a8d529"]


# --- test sets from elsewhere


def test_labels_of_a_shifted_folder_follow_the_test_set(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "more", {"": {"ant": 1, "bee": 2, "cow": 3}})
    split = load_images(list_images(path, ("",)), "shift.more", ("cow", "ant", "bee"), tmp_path / "data")
    assert split.labels.tolist() == [1, 2, 2, 0, 0, 0]
    straight = load_images(list_images(path, ("",)), "shift.more", ("ant", "bee", "cow"), tmp_path / "data")
    assert straight.labels.tolist() == [0, 1, 1, 2, 2, 2] and torch.equal(straight.images, split.images)


def test_a_shifted_folder_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "more", {"": {"ant": 1, "bee": 1}})
    with pytest.raises(DataError, match=r"shift\.more: .* only one of them has bee, cow"):
        load_images(list_images(path, ("",)), "shift.more", ("ant", "cow"), tmp_path / "data")
