"""Labels drawn anew, every batch (`target`) or once (`labels`), and soft targets."""

from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor
from torch.nn import functional

from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, load
from kdtune.losses.ce import CE
from kdtune.noise.labels import Corruption
from kdtune.noise.noise import Noise
from kdtune.noise.target import Smoothing, Variability
from kdtune.randomness import draw
from kdtune.training.lesson import Lesson

CLASSES = 10


def labels(count: int, classes: int = CLASSES) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(count))


def varied(before: Tensor, rate: float, classes: int = CLASSES, epoch: int = 0, drawn: Any = "wrong") -> Tensor:
    return Variability(rate=rate, classes=drawn)(before, classes, draw(0, "alone.target.variability", epoch))


# target.variability


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), st.integers(1, 200), st.floats(0, 1), st.integers(0, 99))
def test_variability_never_returns_the_label_it_was_given(classes: int, count: int, rate: float, epoch: int) -> None:
    before = labels(count, classes)
    certain = varied(before, 1.0, classes, epoch)
    assert not (certain == before).any() and certain.min() >= 0 and certain.max() < classes
    changed = varied(before, rate, classes, epoch)
    assert torch.equal(changed, certain.where(changed != before, before)), "a label is kept, or drawn from the others"


def test_variability_is_uniform_over_the_wrong_classes() -> None:
    before = labels(90_000)
    steps = (varied(before, 1.0) - before) % CLASSES
    counts = torch.bincount(steps, minlength=CLASSES)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3
    for label in range(CLASSES):
        found = torch.bincount(varied(before, 1.0)[before == label], minlength=CLASSES).numpy()
        assert stats.chisquare(np.delete(found, label)).pvalue > 1e-4


def test_variability_draws_each_sample_for_itself() -> None:
    """Counts per batch are binomial, neighbours are uncorrelated, and every place of the batch is hit alike."""
    before, rate = labels(64), 0.2
    masks = torch.stack([varied(before, rate, epoch=epoch) != before for epoch in range(2000)])
    counts = masks.sum(1).double()
    assert float(counts.var()) == pytest.approx(64 * rate * (1 - rate), rel=0.15)
    assert stats.chisquare(masks.sum(0).numpy()).pvalue > 1e-3
    flat = masks.flatten().double().numpy()
    assert abs(stats.pearsonr(flat[:-1], flat[1:]).statistic) < 5 / math.sqrt(len(flat))


@pytest.mark.parametrize("drawn", ["wrong", "any"])
def test_variability_masks_are_nested_across_rates(drawn: str) -> None:
    """What is wrong at one rate is wrong at every higher one, and it is the same wrong class."""
    before = labels(5000)
    after = [varied(before, rate, drawn=drawn) for rate in (0.05, 0.1, 0.25, 0.5, 1.0)]
    for low, high in pairwise(after):
        assert torch.equal(low[low != before], high[low != before])
        assert (high != before).sum() > (low != before).sum()


def test_variability_over_any_class_is_right_in_one_case_of_k() -> None:
    before = labels(90_000)
    half, all_of_them = (Variability(rate=rate, classes="any")(before, CLASSES, draw(0, "x")) for rate in (0.5, 1.0))
    assert Variability(rate=0.5, classes="any").measure(before, half) == pytest.approx(0.45, abs=0.01)
    assert stats.chisquare(torch.bincount(all_of_them).numpy()).pvalue > 1e-3


def test_variability_is_redrawn_every_batch_and_every_epoch() -> None:
    before, knob, stream = labels(256), Variability(rate=0.5), draw(0, "alone.target.variability")
    first, second = knob(before, CLASSES, stream), knob(before, CLASSES, stream)
    assert not torch.equal(first, second)
    assert torch.equal(first, varied(before, 0.5)) and not torch.equal(first, varied(before, 0.5, epoch=1))


@pytest.mark.parametrize("knob", [Variability(rate=0.1), Corruption(rate=0.1), Smoothing(rate=0.1)])
def test_knobs_for_labels_refuse_soft_targets_and_a_single_class(knob: Any) -> None:
    with pytest.raises(ValueError, match="came soft targets"):
        knob(torch.eye(3), 3, draw(0, "x"))
    with pytest.raises(ValueError, match="labels of 1 class"):
        knob(torch.zeros(4, dtype=torch.int64), 1, draw(0, "x"))


# target.smoothing


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_smoothing_puts_its_rate_on_the_other_classes(classes: int) -> None:
    before = labels(50, classes)
    soft = Smoothing(rate=0.3)(before, classes, draw(0, "x"))
    expected = np.full((50, classes), 0.3 / (classes - 1))
    expected[np.arange(50), before] = 0.7
    np.testing.assert_allclose(soft.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1.0])
def test_smoothing_is_the_expectation_of_variability(rate: float) -> None:
    given, logits = labels(200), torch.randn(200, CLASSES, generator=torch.Generator().manual_seed(1)).double()
    soft = Smoothing(rate=rate)(given, CLASSES, draw(0, "x")).double()
    batches = torch.stack([functional.one_hot(varied(given, rate, epoch=n), CLASSES) for n in range(2000)]).double()
    assert ((batches.mean(0) - soft).abs() <= 5 * (soft * (1 - soft) / 2000).sqrt() + 1e-6).all()
    losses = [functional.cross_entropy(logits, varied(given, rate, epoch=n)) for n in range(500)]
    spread = torch.stack(losses).std() / 500**0.5
    assert abs(torch.stack(losses).mean() - functional.cross_entropy(logits, soft)) < 5 * spread + 1e-9


def test_smoothing_is_torchs_at_another_scale() -> None:
    """torch spreads epsilon over all K classes: rate = epsilon (K - 1) / K."""
    given, logits = labels(64), torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(1))
    ours = functional.cross_entropy(logits, Smoothing(rate=0.1 * 0.9)(given, CLASSES, draw(0, "x")))
    torch.testing.assert_close(ours, functional.cross_entropy(logits, given, label_smoothing=0.1))


def test_smoothing_follows_variability_in_a_lesson() -> None:
    written = {"target": {"variability": {"rate": 0.5}, "smoothing": {"rate": 0.2}}}
    lesson = Lesson(CLASSES, 3, Noise.model_validate(written), CE())
    lesson.begin(0)
    given, network = labels(64), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, CLASSES))
    images = torch.rand(64, 1, 2, 2)
    loss, _ = lesson(network, images, given)
    wrong = Variability(rate=0.5)(given, CLASSES, draw(3, "alone.target.variability"))
    soft = Smoothing(rate=0.2)(wrong, CLASSES, draw(0, "x"))
    torch.testing.assert_close(loss, -(soft * network(images).log_softmax(1)).sum(1).mean())
    logged = lesson.end()
    assert logged["noise/target.variability"] == pytest.approx(float((wrong != given).double().mean()))
    assert logged["noise/target.smoothing"] == pytest.approx(0.2)


def test_a_knob_for_labels_cannot_stand_after_smoothing() -> None:
    with pytest.raises(ValidationError, match=r"variability stands after smoothing.* write it before smoothing"):
        Noise.model_validate({"target": {"smoothing": {"rate": 0.2}, "variability": {"rate": 0.5}}})
    Noise.model_validate({"target": {"smoothing": {"rate": 0}, "variability": {"rate": 0.5}}})  # off: it is not there


# labels.corruption, in a dataset


def digits(data_dir: Path, rate: float = 0.0, **asked: Any) -> Data:
    options = asked.pop("options", {})
    noise = {"labels": {"corruption": {"rate": rate, **options}}} if rate else {}
    return load(Dataset.model_validate({"digits": {}, **noise, **asked}), data_dir)


def test_corruption_reaches_training_and_validation_labels_and_no_test_label(tmp_path: Path) -> None:
    clean, noisy = (digits(tmp_path, rate, validation=0.4) for rate in (0.0, 0.5))
    assert clean.validation is not None and noisy.validation is not None and noisy.corrupted is not None
    assert torch.equal(noisy.corrupted, noisy.train.labels != clean.train.labels)
    for before, after in ((clean.train, noisy.train), (clean.validation, noisy.validation)):
        assert torch.equal(before.images, after.images), "which images are held out hangs on clean labels"
        assert float((before.labels != after.labels).double().mean()) == pytest.approx(0.45, abs=0.09)
        assert after.labels.is_contiguous() and after.labels.dtype == torch.int64
    assert torch.equal(clean.test.labels, noisy.test.labels)
    assert torch.equal(clean.shifted["writers"].labels, noisy.shifted["writers"].labels)
    assert clean.corrupted is None and clean.noise == {}
    assert noisy.noise == {"labels.corruption": float(noisy.corrupted.double().mean())}


@pytest.mark.parametrize(("options", "expected"), [({}, 0.36), ({"classes": "any"}, 0.36), ({"classes": "wrong"}, 0.4)])
def test_corruption_draws_over_all_classes_unless_asked(
    tmp_path: Path, options: dict[str, str], expected: float
) -> None:
    shares = [digits(tmp_path, 0.4, seed=seed, options=options).noise["labels.corruption"] for seed in range(8)]
    assert np.mean(shares) == pytest.approx(expected, abs=4 * (0.24 / 934 / 8) ** 0.5)


def test_an_image_keeps_its_wrong_label_whatever_is_kept_and_held_out(tmp_path: Path) -> None:
    whole = digits(tmp_path, 0.3)
    label = dict(zip(map(bytes_of, whole.train.images), whole.train.labels.tolist(), strict=True))
    part = digits(tmp_path, 0.3, train_size=300, validation=0.2)
    assert part.validation is not None and part.corrupted is not None and len(part.corrupted) == len(part.train) == 240
    for split in (part.train, part.validation):
        assert split.labels.tolist() == [label[bytes_of(image)] for image in split.images]


def bytes_of(image: Tensor) -> bytes:
    return image.numpy().tobytes()


def test_corruption_is_nested_across_rates_and_moved_by_the_datasets_seed_alone(tmp_path: Path) -> None:
    few, many, other = digits(tmp_path, 0.1), digits(tmp_path, 0.5), digits(tmp_path, 0.5, seed=1)
    assert few.corrupted is not None and many.corrupted is not None and other.corrupted is not None
    assert (many.corrupted | ~few.corrupted).all() and few.corrupted.sum() < many.corrupted.sum()
    assert torch.equal(few.train.labels[few.corrupted], many.train.labels[few.corrupted])
    assert not torch.equal(many.corrupted, other.corrupted)


def test_teacher_and_student_share_wrong_labels_and_not_what_is_redrawn(tmp_path: Path) -> None:
    """One dataset seed, two run seeds: the corruption is one and the same, target variability is each run's own."""
    teacher, student = (digits(tmp_path, 0.25, validation=0.1) for _ in range(2))
    assert torch.equal(teacher.train.labels, student.train.labels)
    assert teacher.corrupted is not None and student.corrupted is not None
    assert torch.equal(teacher.corrupted, student.corrupted)
    noise = Noise.model_validate({"target": {"variability": {"rate": 0.25}}})
    redrawn = []
    for seed in (0, 1, 0):
        lesson = Lesson(CLASSES, seed, noise, CE())
        lesson.begin(0)
        stream = lesson.draws["target.variability"]
        redrawn.append(noise.knobs("target")["variability"](teacher.train.labels, CLASSES, stream))
    assert torch.equal(redrawn[0], redrawn[2]) and not torch.equal(redrawn[0], redrawn[1])
    assert not torch.equal(redrawn[0] != teacher.train.labels, redrawn[1] != teacher.train.labels)


def test_corruption_is_part_of_a_runs_id_only_where_it_is_on(tmp_path: Path) -> None:
    def described(labels: Any) -> dict[str, Any]:
        return Dataset.model_validate({"digits": {}, "labels": labels}).description(tmp_path)

    plain = Dataset.model_validate("digits").description(tmp_path)
    assert plain == {"name": "digits", "digest": "0b9464ec3276aea2", "seed": 0}
    for off in (None, {}, {"corruption": {"rate": 0}}, {"corruption": {"rate": 0.0, "classes": "wrong"}}):
        assert described(off) == plain
    assert described({"corruption": {"rate": 0.1}}) == plain | {"labels": {"corruption": {"rate": 0.1}}}
    assert described({"corruption": {"rate": 0.1, "classes": "wrong"}})["labels"]["corruption"]["classes"] == "wrong"


def test_corrupted_datasets_travel_to_other_processes(tmp_path: Path) -> None:
    asked = Dataset.model_validate({"digits": {}, "labels": {"corruption": {"rate": 0.1}}})
    for again in (Dataset.model_validate(json.loads(json.dumps(asked.dumped()))), pickle.loads(pickle.dumps(asked))):
        assert again == asked and hash(again) == hash(asked) and again.label_knobs == asked.label_knobs


def test_the_drawn_labels_are_pinned(tmp_path: Path) -> None:
    """A change here gives every run with corrupted labels other data: raise RECIPE_VERSION with it."""
    expected = [0, 5, 8, 4, 3, 2, 0, 0, 2, 5, 7, 6, 8, 9, 7, 2, 0, 0, 2, 8, 1, 9, 5, 6]
    assert digits(tmp_path, 0.5).train.labels[:24].tolist() == expected
