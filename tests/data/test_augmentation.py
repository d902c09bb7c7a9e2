from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from kdtune.data.augmentation import drawn_views, viewed
from kdtune.randomness import Draw, draw

FLIP = SimpleNamespace()


def asked(padding: int = 0, mode: str = "reflect", flip: bool = False) -> Any:
    crop = SimpleNamespace(padding=padding, mode=mode) if padding else None
    return SimpleNamespace(crop=crop, flip=FLIP if flip else None)


def augment(images: Tensor, augmentation: Any, stream: Any) -> Tensor:
    """As a step of training does it: a view drawn for each image, and the image in it."""
    return viewed(images, augmentation, drawn_views(len(images), augmentation, stream, images.device))


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Given(Draw):
    """Hands out fixed offsets and flips instead of random ones."""

    def __init__(self, down: list[int], right: list[int], flips: list[bool]) -> None:
        self.offsets, self.flips = [down, right], flips

    def integers(self, high: int, like: Tensor) -> Tensor:
        return torch.tensor(self.offsets.pop(0)).view(like.shape)

    def uniform(self, like: Tensor) -> Tensor:
        return torch.where(torch.tensor(self.flips), 0.2, 0.7).view(like.shape)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_each_image_is_a_window_of_the_padded_image(data: st.DataObject) -> None:
    count, channels = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1, 3]))
    height, width = data.draw(st.integers(3, 9)), data.draw(st.integers(3, 9))
    mode = data.draw(st.sampled_from(["reflect", "zero"]))
    padding = data.draw(st.integers(1, min(height, width) - 1 if mode == "reflect" else 12))
    offsets = st.lists(st.integers(0, 2 * padding), min_size=count, max_size=count)
    down, right = data.draw(offsets), data.draw(offsets)
    flips = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    images = random_images(count, channels, height, width)

    result = augment(images, asked(padding, mode, flip=True), Given(down, right, flips))

    assert result.dtype == torch.uint8 and result.shape == images.shape
    for image, y, x, flipped, got in zip(images, down, right, flips, result, strict=True):
        padded = pad(image[None].float(), [padding] * 4, mode="reflect" if mode == "reflect" else "constant")[0]
        window = padded[:, y : y + height, x : x + width].byte()
        assert torch.equal(got, window.flip(2) if flipped else window)


def test_flip_alone_mirrors_about_half() -> None:
    images = random_images(2000, 1, 4, 5)
    result = augment(images, asked(flip=True), draw(0, "augmentation"))
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert ((result == images).flatten(1).all(1) ^ mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55


def test_padding_4_and_flip_show_all_162_views_and_no_other() -> None:
    image = random_images(1, 3, 32, 32)
    views = augment(image.expand(4000, -1, -1, -1), asked(4, flip=True), draw(0, "augmentation"))
    padded = pad(image.float(), [4] * 4, mode="reflect").byte()
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)[0].permute(1, 2, 0, 3, 4).reshape(81, 3, 32, 32)
    expected = {bytes(view.flatten().tolist()) for view in torch.cat([windows, windows.flip(3)])}
    assert {bytes(view.flatten().tolist()) for view in views} == expected and len(expected) == 9 * 9 * 2


def test_nothing_asked_nothing_changed_nothing_drawn() -> None:
    images, stream = random_images(5, 3, 8, 8), draw(0, "augmentation")
    before = stream.generator.get_state()
    assert torch.equal(augment(images, asked(), stream), images)
    assert torch.equal(stream.generator.get_state(), before)


@pytest.mark.parametrize("augmentation", [asked(2), asked(2, "zero"), asked(flip=True), asked(3, flip=True)])
def test_repeatable_and_leaves_its_input_alone(augmentation: Any) -> None:
    images = random_images(64, 3, 8, 8)
    copy = images.clone()
    first = augment(images, augmentation, draw(4, "augmentation", 2))
    assert torch.equal(images, copy)
    assert torch.equal(augment(images, augmentation, draw(4, "augmentation", 2)), first)
    assert not torch.equal(augment(images, augmentation, draw(4, "augmentation", 3)), first)


def test_offsets_of_two_axes_are_independent() -> None:
    marked = torch.zeros(4000, 1, 7, 7, dtype=torch.uint8)
    marked[:, :, 3, 3] = 1
    _, _, row, column = augment(marked, asked(1, "zero"), draw(0, "augmentation")).nonzero(as_tuple=True)
    places = torch.bincount((row - 2) * 3 + column - 2, minlength=9)
    assert (places / 4000 - 1 / 9).abs().max() < 0.02


def test_images_not_contiguous_in_memory() -> None:
    images = random_images(6, 8, 8, 3).permute(0, 3, 1, 2)
    results = [augment(each, asked(2, flip=True), draw(0, "a")) for each in (images, images.contiguous())]
    assert torch.equal(*results)


def test_reflection_wider_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="8 x 8 pixels cannot be reflected by 8"):
        augment(random_images(1, 1, 8, 8), asked(8), draw(0, "augmentation"))
