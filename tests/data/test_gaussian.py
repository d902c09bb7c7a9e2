"""The set `gaussian`: points of a subspace, whose labels are the teacher's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import NOWHERE

from kdtune.data.dataset import Dataset
from kdtune.data.loading import inputs, load
from kdtune.data.moments import moved_to
from kdtune.data.sets.generated import Gaussian


def gaussian(**said: Any) -> Gaussian:
    told = {"dimension": 12, "rank": 4, "std": 1.5, "classes": 3, "count": 400}
    return Gaussian.model_validate(told | said)


def drawn(part: str, **said: Any) -> np.ndarray:
    """Points [N, D], float64."""
    points, _ = gaussian(**said).read(NOWHERE).splits[part]
    return points[:, :, 0, 0].astype(np.float64)


def by_the_first(images: torch.Tensor) -> torch.Tensor:
    """A teacher of points: three classes, by the first coordinate."""
    return torch.bucketize(inputs(images)[:, 0, 0, 0].contiguous(), torch.tensor([-0.5, 0.5]))


def test_points_lie_in_the_subspace_whose_columns_are_orthonormal() -> None:
    columns = gaussian().subspace()
    assert columns is not None and columns.shape == (12, 4)
    assert np.allclose(columns.T @ columns, np.eye(4), atol=1e-14)
    for part in ("train", "test"):
        points = drawn(part)
        assert np.abs(points - points @ columns @ columns.T).max() < 1e-6 * np.abs(points).max()
        assert np.linalg.matrix_rank(points, tol=1e-4) == 4, "they fill it"


def test_coordinates_are_normal_with_the_deviation_that_is_asked_for() -> None:
    """10,000 x 4 numbers: the standard error of the deviation is 0.0053, of moments as stated."""
    for part in ("train", "test"):
        coordinates = drawn(part, count=10000) @ gaussian().subspace()
        assert abs(coordinates.mean()) < 4 * 1.5 / 200
        assert abs(coordinates.std() - 1.5) < 4 * 0.0053
        assert np.abs(np.cov(coordinates.T) - 2.25 * np.eye(4)).max() < 4 * 2.25 * np.sqrt(2 / 10000)
        kurtosis = ((coordinates / 1.5) ** 4).mean()
        assert abs(kurtosis - 3) < 4 * np.sqrt(96 / 40000)


def test_train_and_test_differ_and_share_the_subspace() -> None:
    train, test = drawn("train"), drawn("test")
    assert not set(train[:, 0]) & set(test[:, 0])
    assert np.linalg.matrix_rank(np.concatenate([train, test]), tol=1e-4) == 4
    assert abs(np.corrcoef(train.ravel(), test.ravel())[0, 1]) < 4 / np.sqrt(train.size)


def test_fewer_points_are_the_first_of_more() -> None:
    assert (drawn("train", count=50) == drawn("train")[:50]).all()
    assert (drawn("test", count=50) == drawn("test")[:50]).all()


def test_std_and_classes_change_neither_subspace_nor_directions() -> None:
    assert np.allclose(2 * drawn("train"), drawn("train", std=3.0), rtol=1e-6)
    assert (drawn("train", classes=7) == drawn("train")).all()


def test_another_seed_is_another_subspace_and_other_points() -> None:
    one, other = gaussian().subspace(), gaussian(seed=1).subspace()
    cosines = np.linalg.svd(one.T @ other, compute_uv=False)
    assert cosines.min() < 0.9
    assert not np.isclose(drawn("train") @ one, drawn("train", seed=1) @ other).any(0).all()


def test_the_whole_space_is_written_in_two_ways_and_is_one_set() -> None:
    whole, stated = gaussian(rank=None), gaussian(rank=12)
    assert (drawn("train", rank=None) == drawn("train", rank=12)).all()
    assert (whole.subspace() == np.eye(12)).all() and (stated.subspace() == np.eye(12)).all()
    assert whole.description(NOWHERE) == stated.description(NOWHERE)
    assert not whole.low_rank and not stated.low_rank and gaussian().low_rank


def test_its_digest_needs_no_files_and_stands_still() -> None:
    """Frozen: what every set has (`train_size`, `labels`, ...) is no part of it, nor is what sets may have later."""
    assert gaussian().digest(NOWHERE) == "a3ca23bb1106c1a1"
    more = {"train_size": 100, "validation": 0.2, "labels": {"corruption": {"rate": 0.1}}, "repeat": 2, "only": "clean"}
    assert gaussian(**more).digest(NOWHERE) == "a3ca23bb1106c1a1"


@pytest.mark.parametrize(
    "said", [{"std": 1.6}, {"rank": 5}, {"rank": None}, {"dimension": 13}, {"classes": 4}, {"count": 401}, {"seed": 1}]
)
def test_whatever_changes_the_set_changes_its_digest(said: dict[str, Any]) -> None:
    assert gaussian(**said).digest(NOWHERE) != gaussian().digest(NOWHERE)


def test_every_label_is_the_answer_of_the_teacher() -> None:
    """Those of training, held-out and test points; which are held out does not hang on the teacher."""
    data = load(gaussian(validation=0.25), NOWHERE, answer=by_the_first)
    assert data.validation is not None and len(data.train) + len(data.validation) == 400
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.labels, by_the_first(split.images)) and set(split.labels.tolist()) == {0, 1, 2}
    other = load(gaussian(validation=0.25), NOWHERE, answer=lambda images: 2 - by_the_first(images))
    assert torch.equal(other.train.images, data.train.images) and torch.equal(other.train.labels, 2 - data.train.labels)
    assert data.corrupted is None and data.noise == {}


def test_wrong_labels_are_wrong_by_the_teacher() -> None:
    data = load(gaussian(labels={"corruption": {"rate": 0.3}}), NOWHERE, answer=by_the_first)
    wrong = data.train.labels != by_the_first(data.train.images)
    assert data.corrupted is not None and torch.equal(wrong, data.corrupted)
    assert 0.2 < data.noise["labels.corruption"] == wrong.double().mean().item() < 0.4
    assert torch.equal(data.test.labels, by_the_first(data.test.images)), "test labels stay right"


def test_points_that_are_moved_to_moments_are_labelled_where_they_are() -> None:
    moments = {"mean": [0.5] * 12, "std": [1.0] * 12}
    data = load(gaussian(moments=moments), NOWHERE, answer=by_the_first)
    plain = load(gaussian(), NOWHERE, answer=by_the_first)
    assert torch.equal(data.train.images, moved_to(gaussian(moments=moments).moments, plain.train.images))
    assert torch.equal(data.train.labels, by_the_first(data.train.images))
    assert (data.train.labels != plain.train.labels).any()
    assert torch.equal(data.test.images, plain.test.images) and torch.equal(data.test.labels, plain.test.labels)
    assert data.subspace is None, "nobody says where to it is moved"


def test_points_beside_images_of_another_set_are_labelled_alone() -> None:
    """Points of the set `points` have labels of their own; tested on Gaussian ones, these ask the teacher."""
    mixed = Dataset.model_validate(
        {"points": {"classes": 3, "dimension": 12, "count": 30}}
        | {"test": {"gaussian": {"dimension": 12, "rank": None, "std": 1.0, "classes": 3, "count": 20}}}
    )
    assert mixed.asking == "labels"
    data = load(mixed, NOWHERE, answer=by_the_first)
    assert torch.equal(data.test.labels, by_the_first(data.test.images))
    assert torch.equal(data.train.labels, torch.from_numpy(mixed.bare.read(Path()).splits["train"][1]))


def test_the_subspace_of_the_data_is_float32_where_the_images_are() -> None:
    data = load(gaussian(), NOWHERE, answer=by_the_first)
    assert data.subspace is not None and data.subspace.dtype == torch.float32
    inside = data.space.part(data.test.images, "subspace")
    assert torch.allclose(inside, data.test.images, atol=1e-5)
    assert data.space.part(data.test.images, "complement").abs().max() < 1e-5 and data.space.bounds is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"rank": 13}, "rank: 13 of 12 dimensions; a subspace has no more than the space"),
        ({"std": 0.0}, "greater than 0"),
        ({"count": 10**8}, "1,200,000,000 numbers would be drawn; 1,000,000,000 at most"),
        ({"classes": 1}, "greater than or equal to 2"),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_what_it_cannot_be_is_told(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        gaussian(**said)
