"""Test images that were trained on are told; how they are labelled, or how many there are by chance, is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdtune.cli.options import Options
from kdtune.cli.sweep import run
from kdtune.data.loading import Data, Split
from kdtune.data.overlap import told


def split(first: int, count: int, size: tuple[int, int] = (4, 4)) -> Split:
    """Images of one number each, their place in a row of all."""
    images = torch.arange(first, first + count)[:, None, None, None].expand(-1, 1, *size).to(torch.int16)
    return Split(images.contiguous().view(torch.uint8).reshape(count, 1, size[0], -1), torch.zeros(count, dtype=int))


def data(train: Split, test: Split, validation: Split | None = None, **shifted: Split) -> Data:
    return Data("set", ("a", "b"), (1, 4, 8), train, validation, test, shifted)


def test_what_is_common_is_counted_from_a_hundredth_on() -> None:
    assert told(data(split(0, 1000), split(1000, 200))) == []
    assert told(data(split(0, 1000), split(999, 200))) == [], "one of 200"
    assert told(data(split(0, 1000), split(0, 5)[torch.arange(0)])) == [], "none of none"
    (sentence,) = told(data(split(0, 1000), split(998, 200)))
    assert sentence.startswith("set: 2 of 200 test images are among its training images, pixel for pixel")


def test_held_out_images_and_shifted_sets_too() -> None:
    found = told(data(split(0, 50), split(400, 10), split(50, 50), writers=split(90, 20), far=split(500, 20)))
    assert [each.split(" are ")[0] for each in found] == ["set: 10 of 20 images of writers"]


def test_equal_bytes_of_another_size_or_type_are_other_images() -> None:
    train = split(0, 50)
    wide, floats = split(0, 50, (2, 8)), replace(train, images=train.images.float())
    assert told(data(train, wide)) == [] and told(data(train, floats)) == []
    assert told(data(floats, floats))


def test_a_sweep_says_so_before_it_starts(
    write_sweep: Callable[..., Path],
    small_sweep: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    noise = np.random.default_rng(0)
    for name in ("a", "b"):
        for number in range(20):
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            for part in ("train", "test") if number < 5 else ("train",):
                (tmp_path / "set" / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{number}.png")
    wrong = "labels: {corruption: {rate: $wrong}},"  # two data sets of the same images
    text = small_sweep.replace(
        "{digits: {}, train_size: 100,", f"{{folder: {{path: {tmp_path / 'set'}, name: own}}, {wrong}"
    ).replace("grid: {", "grid: {wrong: [0.0, 0.2], ")
    for here in (True, False):  # by this process, and by one of its own
        file, results = write_sweep(text.replace("seeds: 3", "seeds: 1")), str(tmp_path / f"results-{here}")
        options = Options(file, results=results, data=str(tmp_path), seeds=1, here=here, verbosity=-1)
        assert run(options) == 0
        said = caplog.messages if here else capfd.readouterr().err.splitlines()
        warnings = [line for line in said if "pixel for pixel" in line]
        assert len(warnings) == 1 and warnings[0].startswith("warning: own: 10 of 10 test images")
        (page,) = Path(results).glob("small/*/report.html")
        assert page.read_text().count("own: 10 of 10 test images are among its training images") == 1, "and on the page"
