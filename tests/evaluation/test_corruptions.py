"""Accuracy under corruption: numbers held against a separate count, CIFAR-10-C's files, what is left out and why."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from stand_ins import cifar10c_folder, subject
from stored import unpack
from torch import nn

from kdtune.data.error import DataError
from kdtune.data.loading import Data, Split
from kdtune.evaluation import corruptions, evaluator
from kdtune.evaluation.corruptions import Corruptions
from kdtune.evaluation.families import FAMILIES, SEVERITIES, USUAL, corrupt
from kdtune.evaluation.pgd import balanced

SOME = ("gaussian_noise", "contrast", "fog")


def data_of(images: torch.Tensor, labels: torch.Tensor, title: str = "Blots") -> Data:
    test = Split(images, labels)
    names = tuple(map(str, range(10)))
    return Data(title, names, tuple(images.shape[1:]), train=test, validation=None, test=test, shifted={})


def digits(count: int = 150) -> Data:
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images[:count] * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return data_of(torch.from_numpy(images), torch.from_numpy(labels[:count]).long())


def coloured(count: int = 40, side: int = 16) -> Data:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 5, 5, generator=generator)
    images = (255 * nn.functional.interpolate(small, (side, side), mode="bilinear")).to(torch.uint8)
    return data_of(images, torch.randint(10, (count,), generator=generator))


def trained(data: Data, share: float = 0.8) -> nn.Module:
    """A linear network that is right on about `share` of the test images."""
    labels = data.test.labels.clone()
    wrong = int(len(labels) * (1 - share))
    labels[:wrong] = (labels[:wrong] + 1) % 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(data.test.images[0].numel(), 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.test.images / 255), labels).backward()
        optimizer.step()
    return network


def right(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return (network(images / 255).argmax(1) == labels).numpy()


@pytest.mark.parametrize("images", [None, 70])
@pytest.mark.parametrize("severities", [SEVERITIES, (4, 2)])
def test_rates_are_a_separate_count(images, severities):
    data = digits()
    network = trained(data)
    measured = Corruptions(families=SOME, severities=severities, images=images).measure(subject(network, data))
    chosen = balanced(data.test.labels.numpy(), images, 0)
    part, labels = data.test.images[chosen], data.test.labels[chosen]
    clean = right(network, part, labels)
    expected = {"corruption/clean": 100 * clean.mean(), "corruption/families": 3, "corruption/published": 0}
    for family in SOME:
        rows = [right(network, corrupt(part, family, severity, 0), labels) for severity in severities]
        assert np.array_equal(unpack(measured.arrays[f"corruption/{family}"], len(chosen)), rows)
        expected[f"corruption/{family}"] = np.mean([100 * (row & clean).sum() / clean.sum() for row in rows])
        expected[f"corruption/{family}/unconditional"] = np.mean([100 * row.mean() for row in rows])
    for tail in ("", "/unconditional"):
        expected[f"corruption/mca{tail}"] = np.mean([expected[f"corruption/{family}{tail}"] for family in SOME])
    assert measured.metrics == pytest.approx(expected)
    assert np.array_equal(unpack(measured.arrays["corruption/clean"], len(chosen)), clean)
    assert np.array_equal(measured.arrays["corruption/images"], chosen)
    assert measured.arrays["corruption/severities"].tolist() == list(severities)
    assert "computed" in str(measured.arrays["corruption/source"]) and "frost" in str(
        measured.arrays["corruption/source"]
    )
    headline = measured.metrics["corruption/mca"]
    assert 20 < headline < 100 and headline != measured.metrics["corruption/mca/unconditional"]


def test_means_are_over_nineteen_and_over_the_usual_fifteen():
    data = coloured(side=32)
    metrics = Corruptions(severities=(5,)).measure(subject(trained(data), data)).metrics
    assert metrics["corruption/families"] == 19
    for tail in ("", "/unconditional"):
        each = {family: metrics[f"corruption/{family}{tail}"] for family in FAMILIES}
        assert metrics[f"corruption/mca{tail}"] == pytest.approx(np.mean(list(each.values())))
        assert metrics[f"corruption/mca15{tail}"] == pytest.approx(np.mean([each[family] for family in USUAL]))
        assert metrics[f"corruption/mca{tail}"] != metrics[f"corruption/mca15{tail}"]


def test_families_that_make_nothing_of_the_images_are_left_out_with_the_reason(caplog):
    caplog.set_level("INFO")
    data = digits(60)
    measured = Corruptions(severities=(1, 2)).measure(subject(trained(data), data))
    left_out = dict(line.split(": ", 1) for line in measured.arrays["corruption/left_out"].tolist())
    assert left_out["saturate"] == "grey images have no saturation"
    assert left_out["defocus_blur"] == "changes images of 8 x 8 by less than 0.5 grey levels"
    assert set(left_out) == {"saturate", "defocus_blur", "gaussian_blur"}
    assert measured.metrics["corruption/families"] == 16
    assert not any(name in f"{metric}/" for name in left_out for metric in measured.metrics)
    assert "corruption/mca15" not in measured.metrics and "corruption/mca" in measured.metrics
    assert "saturate: grey images" in caplog.text
    alone = Corruptions(families=("saturate",)).measure(subject(trained(data), data))
    assert set(alone.metrics) == {"corruption/clean", "corruption/families", "corruption/published"}
    assert "nothing is measured" in caplog.text


def test_where_nothing_is_right_conditional_metrics_are_absent():
    data = digits(40)
    network = trained(data)
    with torch.no_grad():
        wrong = (network(data.test.images / 255).argmax(1) + 1) % 10
    data = dataclasses.replace(data, test=Split(data.test.images, wrong))
    metrics = Corruptions(families=SOME).measure(subject(network, data)).metrics
    assert metrics["corruption/clean"] == 0
    conditional = {
        name for name in metrics if not name.endswith(("/unconditional", "/clean", "/families", "/published"))
    }
    assert not conditional and "corruption/mca/unconditional" in metrics


@pytest.mark.parametrize("small", [0, corruptions.SMALL])
def test_neither_the_size_of_batches_nor_what_was_kept_matters(small, monkeypatch):
    data = digits(120)
    network = trained(data)
    reference = Corruptions(families=SOME).measure(subject(network, data))
    monkeypatch.setattr(evaluator, "BATCH", 7)
    monkeypatch.setattr(corruptions, "SMALL", small)
    again = Corruptions(families=SOME).measure(subject(network, data))
    assert again.metrics == reference.metrics
    assert all(np.array_equal(again.arrays[name], array) for name, array in reference.arrays.items())


def test_what_is_kept_is_kept_by_the_images_content():
    data = digits(80)
    other = dataclasses.replace(data, test=Split(data.test.images.flip(3).contiguous(), data.test.labels))
    network = trained(data)
    measured = [Corruptions(families=SOME).measure(subject(network, each)) for each in (data, other)]
    corruptions._kept.cache_clear()
    again = [Corruptions(families=SOME).measure(subject(network, each)) for each in (other, data)]
    assert [each.metrics for each in measured] == [each.metrics for each in again[::-1]]
    assert measured[0].metrics != measured[1].metrics
    shifted = Corruptions(families=SOME).measure(subject(network, data, seed=1))
    assert shifted.metrics["corruption/contrast"] == measured[0].metrics["corruption/contrast"]
    assert not np.array_equal(shifted.arrays["corruption/fog"], measured[0].arrays["corruption/fog"])


def test_a_severity_alone_is_the_same_as_among_others():
    data = digits(60)
    network = trained(data)
    together, alone = (
        Corruptions(families=SOME, severities=severities).measure(subject(network, data)).arrays
        for severities in (SEVERITIES, (3,))
    )
    for family in SOME:
        assert np.array_equal(together[f"corruption/{family}"][2:3], alone[f"corruption/{family}"])


# Keys


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"families": ["gausian_noise"]}, "unknown corruption family 'gausian_noise'; did you mean '?gaussian_noise"),
        ({"families": ["zzz"]}, "(there is|known here:) gaussian_noise, .*saturate"),
        ({"families": []}, "at least 1"),
        ({"families": ["fog", "fog"]}, "the same value twice"),
        ({"severities": [1, 1]}, "the same value twice"),
        ({"severities": [6]}, "less than or equal to 5"),
        ({"severities": [0]}, "greater than or equal to 1"),
        ({"images": 0}, "greater than or equal to 1"),
        ({"files": "CIFAR-10-C"}, "dictionary"),
        ({"famlies": ["fog"]}, "unknown key 'famlies'; did you mean families?"),
    ],
)
def test_what_keys_may_say(keys, message):
    with pytest.raises(ValidationError, match=message):
        Corruptions(**keys)


def test_hash_is_the_same_on_every_day():
    """Finished results lie under these. A change here needs a new `version`, and gives up the results."""
    assert Corruptions().hash == "9d60cf68360f"
    assert Corruptions().writes == "corruption"
    assert Corruptions(families=SOME, severities=(1, 2)).per_image == 6 and Corruptions().per_image == 95


# CIFAR-10-C's files


def test_the_files_are_measured_as_they_are(tmp_path, monkeypatch):
    data = coloured()
    network, families = trained(data), ("fog", "saturate")
    files, published = cifar10c_folder(tmp_path, data, monkeypatch, families)
    keys = {"families": families, "severities": (2, 5), "images": 25, "files": {"path": str(files)}}
    measured = Corruptions(**keys).measure(subject(network, data))
    assert measured.metrics["corruption/published"] == 1
    assert str(measured.arrays["corruption/source"]) == "CIFAR-10-C"
    chosen = measured.arrays["corruption/images"]
    for family in families:
        rows = unpack(measured.arrays[f"corruption/{family}"], 25)
        for severity, row in zip((2, 5), rows, strict=True):
            images = torch.from_numpy(published[family][severity - 1, chosen]).permute(0, 3, 1, 2)
            assert np.array_equal(row, right(network, images, data.test.labels[chosen]))
    computed = Corruptions(**keys | {"files": None})
    assert computed.hash != Corruptions(**keys).hash
    assert computed.measure(subject(network, data)).metrics["corruption/fog"] != measured.metrics["corruption/fog"]


def test_files_are_their_content_not_their_path(tmp_path, monkeypatch):
    data = coloured()
    files, _ = cifar10c_folder(tmp_path / "here", data, monkeypatch, ("fog",))
    here = Corruptions(files={"path": str(files)}).hash
    assert re.fullmatch("[0-9a-f]{12}", here)
    files.rename(tmp_path / "there")
    assert Corruptions(files={"path": str(tmp_path / "there")}).hash == here
    (tmp_path / "there" / "snow.npy").unlink()
    with pytest.raises(DataError, match=r"there: snow\.npy missing of CIFAR-10-C"):
        _ = Corruptions(files={"path": str(tmp_path / "there")}).hash


def test_files_of_another_test_set_are_refused(tmp_path, monkeypatch):
    data = coloured()
    files, _ = cifar10c_folder(tmp_path, data, monkeypatch, ("fog",))
    other = dataclasses.replace(data, title="CIFAR-10 (JPEG q75)", test=data.test[torch.arange(40).flip(0)])
    with pytest.raises(
        DataError, match=r"not made from CIFAR-10 \(JPEG q75\).*without `files` corruptions are computed"
    ):
        Corruptions(families=("fog",), files={"path": str(files)}).measure(subject(trained(data), other))
