"""Every corruption family keeps one contract, and is held against a slow, plain reckoning or another library."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage
from torch import Tensor

from kdtune.evaluation import families
from kdtune.evaluation.families import (
    FAMILIES,
    SEVERITIES,
    USUAL,
    blur,
    corrupt,
    digital,
    noise,
    spatter,
    unsuited,
    weather,
)
from kdtune.evaluation.families.drawn import Drawn
from kdtune.evaluation.families.filters import Q16, cut, fitted, gaussian, motion, painted, zoomed

RANDOM = {
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
}
RANDOM |= {"fog", "elastic_transform", "spatter"}
# Where the published constants themselves do not rise: pairs (weaker, stronger) of severities that still do.
NOT_RISING = {
    "glass_blur": [(1, 4), (3, 4), (3, 5)],  # sigma back to 0.25 at severity 4, with twice as many rounds
    "motion_blur": [(1, 2), (2, 3), (2, 4), (3, 5), (4, 5)],  # 3 and 4: the same sigma, which decides
    "frost": [(1, 2), (2, 3)],  # from 4 on the image counts less, the ice no more
    "elastic_transform": [
        (5, 4),
        (4, 3),
        (3, 2),
        (2, 1),
    ],  # the affine part shrinks; its loss weighs more than the rest
    "spatter": [(1, 2), (2, 3), (4, 5)],  # water, then mud
    "saturate": [(1, 2), (3, 1), (3, 4), (4, 5)],  # less colour, then more
}

each_family = pytest.mark.parametrize("family", FAMILIES)


def natural(count: int, channels: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Random images whose amplitudes fall with frequency as those of photographs do, channels alike: uint8."""
    generator = np.random.default_rng(seed)
    white = generator.normal(size=(count, 4, height, width))
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    fields = np.fft.ifft2(np.fft.fft2(white) / np.maximum(np.hypot(x, y), 1 / max(height, width))).real
    fields /= fields.std((2, 3), keepdims=True)
    mixed = 0.5 + 0.2 * (0.9 * fields[:, :1] + 0.4 * fields[:, 1 : 1 + channels])
    return torch.from_numpy((255 * mixed.clip(0, 1)).astype(np.uint8))


def drawn(count: int = 0) -> Drawn:
    return Drawn(0, f"test {count}")


def levels(result: np.ndarray) -> np.ndarray:
    """What CIFAR-10-C's recipe does with a result in [0, 1], up to a thousandth of a level."""
    return np.floor(255 * result.clip(0, 1) + 1e-3)


def assert_same(made: Tensor, expected: np.ndarray, differing: float = 0.01) -> None:
    """Equal levels; where a value falls on the edge of two, one apart."""
    apart = np.abs(made.numpy().astype(float) - expected)
    assert apart.max() <= 1 and (apart > 0).mean() <= differing, (apart.max(), (apart > 0).mean())


# What every family promises


def test_there_are_nineteen_and_fifteen_of_them_are_usual():
    assert len(FAMILIES) == 19 and len(USUAL) == 15
    assert set(FAMILIES) - set(USUAL) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


@each_family
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (3, 20, 36), (1, 6, 6), (3, 64, 64)])
def test_shape_type_and_arguments_are_kept(family, shape):
    images = natural(3, *shape)
    before, state = images.clone(), torch.get_rng_state()
    if family in unsuited(shape[0]):
        return
    for severity in SEVERITIES:
        made = corrupt(images, family, severity, seed=0)
        assert made.dtype == torch.uint8 and made.shape == images.shape and made.device == images.device
        assert torch.equal(made, corrupt(images, family, severity, seed=0))
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


@each_family
def test_numbers_are_the_seeds_and_the_severitys(family):
    images = natural(8)
    made = [corrupt(images, family, 3, seed) for seed in (0, 1)]
    assert torch.equal(*made) == (family not in RANDOM)
    assert not torch.equal(made[0], images)
    twice = corrupt(torch.cat([images[:1], images[:1]]), family, 3, seed=0)
    assert torch.equal(twice[0], twice[1]) == (family not in RANDOM)  # every image has its own


@each_family
def test_an_image_does_not_feel_the_others(family, monkeypatch):
    monkeypatch.setattr(families, "BLOCK", 4)
    images = natural(10)
    made = corrupt(images, family, 2, seed=0)
    assert torch.equal(corrupt(images[:8], family, 2, seed=0), made[:8])
    others = torch.cat([images[:4], natural(6, seed=9)])
    assert torch.equal(corrupt(others, family, 2, seed=0)[:4], made[:4])


@each_family
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_images_stand_it(family, level):
    images = torch.full((4, 3, 32, 32), level, dtype=torch.uint8)
    for severity in SEVERITIES:
        assert corrupt(images, family, severity, seed=0).shape == images.shape


@each_family
def test_distance_from_clean_rises_with_severity(family):
    images = natural(150)
    apart = {
        severity: float((corrupt(images, family, severity, seed=0).float() - images.float()).abs().mean())
        for severity in SEVERITIES
    }
    for weaker, stronger in NOT_RISING.get(family, pairwise(SEVERITIES)):
        assert 0 < apart[weaker] < apart[stronger], (weaker, stronger, apart)


@pytest.mark.parametrize(
    "family", sorted(set(FAMILIES) - set(NOT_RISING) - {"defocus_blur", "gaussian_blur", "pixelate"})
)
def test_distance_rises_at_eight_pixels_too(family):
    images = natural(300, 1, 8, 8)
    apart = [float((corrupt(images, family, s, seed=0).float() - images.float()).abs().mean()) for s in SEVERITIES]
    assert all(weaker < stronger for weaker, stronger in pairwise(apart)), apart


def test_grey_images_are_what_equal_channels_give():
    """Up to the colour of ice, water and mud, whose luminance is taken, and up to jpeg's way of storing colours."""
    grey = natural(4, 1)
    colour = grey.expand(-1, 3, -1, -1).contiguous()
    for family in ("defocus_blur", "zoom_blur", "motion_blur", "snow", "fog", "brightness", "contrast", "pixelate"):
        for severity in SEVERITIES:
            made = corrupt(colour, family, severity, seed=0).int() - corrupt(grey, family, severity, seed=0).int()
            assert made.abs().max() <= 1, family


# Noise


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_its_size(severity):
    images = torch.full((100, 3, 32, 32), 0.4)
    assert float(noise.gaussian_noise(images, severity, drawn()).sub(0.4).std()) == pytest.approx(
        (0.04, 0.06, 0.08, 0.09, 0.1)[severity - 1], rel=0.01
    )
    photons = (500, 250, 100, 75, 50)[severity - 1]
    shot = noise.shot_noise(images, severity, drawn())
    assert float(shot.mean()) == pytest.approx(0.4, rel=0.01)
    assert float(shot.var()) == pytest.approx(0.4 / photons, rel=0.02)
    assert torch.equal((shot * photons).round(), shot.mul(photons).round()) and (shot >= 0).all()
    struck = noise.impulse_noise(images, severity, drawn())
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    assert float((struck == 1).float().mean()) == pytest.approx(share / 2, rel=0.05)
    assert float((struck == 0).float().mean()) == pytest.approx(share / 2, rel=0.05)
    assert set(struck.unique().tolist()) == {0, 1, images[0, 0, 0, 0].item()}
    speckle = noise.speckle_noise(images, severity, drawn()).sub(0.4).std() / 0.4
    assert float(speckle) == pytest.approx((0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1], rel=0.01)


# Blur


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_is_scipys(severity):
    images = natural(5)
    sigma = (0.4, 0.6, 0.7, 0.8, 1)[severity - 1]
    expected = ndimage.gaussian_filter(images.numpy() / 255, (0, 0, sigma, sigma), mode="nearest", truncate=4)
    assert_same(corrupt(images, "gaussian_blur", severity, 0), levels(expected))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_a_disk_with_a_soft_rim(severity):
    images = natural(5)
    radius, rim = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    y, x = np.mgrid[-8:9, -8:9]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    soft = np.exp(-np.array([1, 0, 1]) / (2 * rim**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(soft, soft) / soft.sum() ** 2, mode="constant")
    expected = ndimage.correlate(images.numpy() / 255, kernel[None, None], mode="mirror")
    assert_same(corrupt(images, "defocus_blur", severity, 0), levels(expected))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_is_the_loop_that_made_cifar_10_c(severity):
    """One pixel after the other, with the exchange of views that copies instead of swapping."""
    images = natural(4)
    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    made = (255 * cut(blur.glass_blur(images / 255, severity, drawn()))).round().to(torch.uint8)
    numbers, moves = drawn(), []
    for _ in range(rounds):
        moves.append(numbers.integers(-reach, reach, 2, 4, 32, 32).numpy())
    for i, image in enumerate(images.numpy().transpose(0, 2, 3, 1)):
        smooth = {"sigma": (sigma, sigma, 0), "mode": "nearest", "truncate": 4}
        pixels = levels(ndimage.gaussian_filter(image / 255, **smooth)).astype(np.uint8)
        for right, down in moves:
            for h in range(32 - reach, reach, -1):
                for w in range(32 - reach, reach, -1):
                    there = h + down[i, h, w], w + right[i, h, w]
                    pixels[h, w], pixels[there] = pixels[there], pixels[h, w]
        expected = levels(ndimage.gaussian_filter(pixels / 255, **smooth))
        assert_same(made[i], expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("radius", "sigma"), [(6, 1), (14, 12)])
def test_motion_blur_is_imagemagicks_trail(radius, sigma):
    images, degrees = natural(3) / 255, torch.tensor([-40.0, 12.5, -120.0])
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = np.zeros((3, 3, 32, 32))
    for i, angle in enumerate(np.deg2rad(degrees.numpy().astype(float))):
        for y in range(32):
            for x in range(32):
                for step, weight in enumerate(weights):
                    down, right = (int(np.ceil(step * part - 0.5)) for part in (np.sin(angle), np.cos(angle)))
                    place = min(max(y + down, 0), 31), min(max(x + right, 0), 31)
                    expected[i, :, y, x] += weight * images[i, :, place[0], place[1]].numpy()
    np.testing.assert_allclose(motion(images, radius, sigma, degrees).numpy(), expected, atol=1e-5)


# `convert IN -motion-blur 6x1.5+30 OUT` of ImageMagick 6.9.11-60 Q16 on an image of 6 x 6, 8 bits in and out.
BEFORE = """  3  50  11  90 200 120
 10  57  18  97 207 127
 31  78  39 118 228 148
 66 113  74 153   7 183
115 162 123 202  56 232
178 225 186   9 119  39"""
BLURRED = """ 28  56  79 136 155 122
 38  63  90 146 166 132
 63  73  70 171 190 157
 98 111 105 120 118 192
135 119 142 113 111 185
183 166 104  53  72  39"""


def test_motion_blur_is_imagemagicks_to_the_grey_level():
    """It rounds to 16 bits and cuts them to 8; rounding alone makes half of the pixels a level too bright (row D12)."""
    before, blurred = (np.array(text.split(), dtype=int).reshape(6, 6) for text in (BEFORE, BLURRED))
    made = cut(motion(torch.from_numpy(before)[None, None] / 255, 6, 1.5, torch.tensor([30.0])), Q16)
    assert np.array_equal((255 * made).round().int().numpy()[0, 0], blurred)


def test_motion_blur_cuts():
    images = natural(3)
    degrees = drawn().uniform(3, low=-45, high=45)
    expected = np.floor(255 * motion(images / 255, 6, 2, degrees).numpy() + Q16)
    made = (255 * cut(blur.motion_blur(images / 255, 3, drawn()))).round()
    assert_same(made, expected)


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.13, 1.25, 1.75, 2.25])
@pytest.mark.parametrize("side", [32, 28, 8])
def test_zoom_is_scipys(factor, side):
    images = natural(2, 3, side, side) / 255
    kept = int(np.ceil(side / factor))
    first = (side - kept) // 2
    large = ndimage.zoom(
        images.numpy()[:, :, first : first + kept, first : first + kept], (1, 1, factor, factor), order=1
    )
    trim = (large.shape[2] - side) // 2
    expected = large[:, :, trim : trim + side, trim : trim + side]
    np.testing.assert_allclose(zoomed(images, factor).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("severity", "factors"), list(zip(SEVERITIES, (7, 12, 16, 21, 26), strict=True)))
def test_zoom_blur_is_the_mean_of_its_factors(severity, factors):
    images = natural(2)
    parts = [zoomed(images / 255, 1 + percent / 100) for percent in range(factors - (severity == 5))]
    if severity == 5:
        parts.append(zoomed(images / 255, 1.2500000000000002))  # as numpy.arange has it: crops of 26 pixels become 33
    assert len(parts) == factors
    expected = (torch.stack(parts).sum(0) + images / 255) / (factors + 1)
    assert_same(corrupt(images, "zoom_blur", severity, 0), levels(expected.double().numpy()))


# Weather


def diamond_square(side: int, decay: float, numbers: Drawn) -> np.ndarray:
    """Point by point on a torus, drawing in the order of the code."""
    height, wobble, step = np.zeros((side, side)), 100.0, side
    while step >= 2:
        half = step // 2
        for rows, columns, around in (
            (half, half, [(-half, -half), (-half, half), (half, -half), (half, half)]),
            (0, half, [(-half, 0), (half, 0), (0, -half), (0, half)]),
            (half, 0, [(-half, 0), (half, 0), (0, -half), (0, half)]),
        ):
            places = [(y, x) for y in range(rows, side, step) for x in range(columns, side, step)]
            moves = numbers.uniform(1, side // step, side // step, low=-1, high=1).flatten()
            values = [np.mean([height[(y + i) % side, (x + j) % side] for i, j in around]) for y, x in places]
            for place, value, move in zip(places, values, moves, strict=True):
                height[place] = value + float(move) * wobble**2
        step, wobble = half, wobble / decay
    return (height - height.min()) / (height.max() - height.min())


@pytest.mark.parametrize("decay", [3, 1.75])
def test_plasma_is_diamond_square(decay):
    made = weather.plasma(1, decay, drawn())[0, 0].numpy()
    np.testing.assert_allclose(made, diamond_square(32, decay, drawn()), atol=1e-5)
    assert made.min() == 0 and made.max() == 1


@pytest.mark.parametrize(("severity", "constants"), list(zip(SEVERITIES, weather.FOG, strict=True)))
def test_fog(severity, constants):
    images, (thickness, decay) = natural(2) / 255, constants
    clouds = weather.plasma(2, decay, drawn()).numpy()
    brightest = images.numpy().max((1, 2, 3), keepdims=True)
    expected = (images.numpy() + thickness * clouds) * brightest / (brightest + thickness)
    np.testing.assert_allclose(weather.fog(images, severity, drawn()).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("severity", "constants"), list(zip(SEVERITIES, weather.SNOW, strict=True)))
def test_snow(severity, constants):
    images, (mean, deviation, size, shown, radius, sigma, clear) = natural(2) / 255, constants
    numbers = drawn()
    layer = zoomed(mean + deviation * numbers.normal(2, 1, 32, 32), size).double().numpy()
    layer = levels(np.where(layer < shown, 0, layer)) / 255
    fallen = motion(torch.from_numpy(layer), radius, sigma, numbers.uniform(2, low=-135, high=-45)).numpy()
    fallen = np.floor(255 * fallen + Q16) / 255
    x = images.double().numpy()
    grey = np.einsum("nchw,c->nhw", x, (0.299, 0.587, 0.114))[:, None]
    x = clear * x + (1 - clear) * np.maximum(x, 1.5 * grey + 0.5)
    expected = x + fallen + fallen[:, :, ::-1, ::-1]
    made = weather.snow(images, severity, drawn()).numpy()
    apart = np.abs(made - expected)
    assert np.median(apart) < 1e-6 and (apart > 1e-5).mean() < 0.01  # single flakes on the edge of two levels


def test_ice_has_colours_contrast_and_grain_of_the_photographs():
    images = torch.zeros(600, 3, 32, 32)
    ice = weather.ice(images, drawn())
    kind = drawn().integers(0, 5, 600)
    for k, (*colour, deviation) in enumerate(weather.ICE):
        one = ice[kind == k]
        assert len(one) > 80
        np.testing.assert_allclose(one.mean((0, 2, 3)).numpy(), colour, atol=0.01)
        assert float(one.std((0, 2, 3)).mean()) == pytest.approx(deviation, rel=0.1)
    grain = (ice - ice.mean((2, 3), keepdim=True))[:, 1].numpy()
    near = [np.mean(grain[:, :, lag:] * grain[:, :, :-lag]) / np.mean(grain**2) for lag in (1, 2, 4, 8)]
    np.testing.assert_allclose(near, (0.36, 0.27, 0.19, 0.12), atol=0.08)
    images = natural(600).float() / 255
    np.testing.assert_allclose(weather.frost(images, 4, drawn()).numpy(), 0.85 * images + 0.4 * ice, atol=1e-6)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_saturate_are_those_of_hsv(severity):
    images = natural(20)
    images[0] = images[0, :1]  # grey, where hue is 0
    images[1, :, :4] = 0
    hsv = rgb_to_hsv(images.permute(0, 2, 3, 1).numpy() / 255)
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]).clip(0, 1)
    expected = hsv_to_rgb(np.stack([hue, saturation, raised], -1)).transpose(0, 3, 1, 2)
    assert_same(corrupt(images, "brightness", severity, 0), levels(expected), 0.05)
    factor, added = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    stronger = (factor * saturation + added).clip(0, 1)
    expected = hsv_to_rgb(np.stack([hue, stronger, value], -1)).transpose(0, 3, 1, 2)
    assert_same(corrupt(images, "saturate", severity, 0), levels(expected), 0.1)


# Digital


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_is_towards_each_channels_mean(severity):
    images = natural(4)
    factor, x = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1], images.double().numpy() / 255
    means = x.mean((2, 3), keepdims=True)
    assert_same(corrupt(images, "contrast", severity, 0), levels(means + factor * (x - means)))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_two_interpolations(severity):
    images, numbers = natural(3) / 255, drawn()
    share = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    far, smooth, corner = (32 * each for each in share[severity - 1])
    moves = numbers.uniform(3, 3, 2, low=-corner, high=corner).double().numpy()
    fields = numbers.uniform(2, 3, 32, 32, low=-1, high=1).double().numpy()
    if smooth:
        fields = ndimage.gaussian_filter(fields, (0, 0, smooth, smooth), mode="reflect", truncate=3)
    y, x = np.mgrid[:32, :32].astype(float)
    corners = np.array([[26.0, 26], [26, 6], [6, 6]])
    made = digital.elastic_transform(images, severity, drawn()).numpy()
    for i in range(3):
        moved = np.column_stack([corners + moves[i], np.ones(3)])
        across, down = (np.linalg.inv(moved) @ corners).T
        source = (down[0] * x + down[1] * y + down[2], across[0] * x + across[1] * y + across[2])
        for channel, image in enumerate(images[i].double().numpy()):
            turned = ndimage.map_coordinates(image, source, order=1, mode="mirror")
            shifted = (y + far * fields[1, i], x + far * fields[0, i])
            expected = ndimage.map_coordinates(turned, shifted, order=1, mode="reflect")
            np.testing.assert_allclose(made[i, channel], expected, atol=2e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 36)])
def test_pixelate_and_jpeg_are_pillows(severity, shape):
    images = natural(20, *shape)
    _, height, width = shape
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    pixelated, compressed = (corrupt(images, family, severity, 0) for family in ("pixelate", "jpeg_compression"))
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(image.squeeze())
        fewer = picture.resize((int(width * share), int(height * share)), Image.Resampling.BOX)
        again = np.array(fewer.resize((width, height), Image.Resampling.BOX)).reshape(image.shape)
        assert np.array_equal(pixelated[i].permute(1, 2, 0).numpy(), again)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
        assert np.array_equal(compressed[i].permute(1, 2, 0).numpy(), np.array(Image.open(file)).reshape(image.shape))


# Spatter


def liquids(count: int, severity: int) -> Tensor:
    mean, deviation, sigma, shown, _ = spatter.WATER[severity]
    liquid = gaussian(mean + deviation * drawn(severity).normal(count, 1, 32, 32), sigma)
    return torch.where(liquid < shown, 0, 255 * cut(liquid)).round()


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_is_lit_as_by_opencv(severity):
    import cv2

    liquid = liquids(60, severity)
    edges, lit = spatter.canny(liquid), spatter.relief(liquid)
    for i, layer in enumerate(liquid[:, 0].numpy().astype(np.uint8)):
        found = cv2.Canny(layer, 50, 150)
        assert np.array_equal(edges[i, 0].numpy(), found > 0)
        away = np.minimum(cv2.distanceTransform(255 - found, cv2.DIST_L2, 5), 20)
        np.testing.assert_allclose(spatter.distance(edges[i : i + 1], 20.0)[0, 0], away, atol=1e-4)
        away = cv2.equalizeHist(cv2.blur(away, (3, 3)).astype(np.uint8))
        relief = cv2.filter2D(away, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32))
        expected = layer * cv2.blur(relief, (3, 3)).astype(np.float32)
        np.testing.assert_allclose(lit[i, 0].numpy(), expected / expected.max(), atol=1e-5)


def test_edges_of_a_disk_lie_on_its_rim():
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    radius = ((y - 16) ** 2 + (x - 16) ** 2).float().sqrt()
    edges = spatter.canny(torch.where(radius < 9, 200.0, 0)[None, None])[0, 0]
    assert 40 < edges.sum() < 80
    assert (radius[edges] - 8.5).abs().max() < 1.5
    assert not spatter.canny(torch.full((1, 1, 32, 32), 90.0)).any()


def test_weak_edges_count_where_they_touch_strong_ones():
    step = torch.zeros(1, 1, 16, 16)
    step[..., 8:] = torch.linspace(5, 65, 16)[:, None]  # gradients of 20 to 260: none, weak, strong
    rows = spatter.canny(step)[0, 0].any(1)
    assert rows[4:].all() and not rows[0]
    assert not spatter.canny(step * 0.5).any()  # none is strong


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_distances_are_euclids_to_a_few_percent(severity):
    edges = spatter.canny(liquids(20, severity))
    made = spatter.distance(edges, 20.0)[:, 0].numpy()
    for each, edge in zip(made, edges[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(each, np.minimum(ndimage.distance_transform_edt(~edge), 20), rtol=0.03)
    assert (spatter.distance(torch.zeros(1, 1, 32, 32, dtype=torch.bool), 20.0) == 20).all()


def test_equalised_histograms_are_even():
    some = torch.from_numpy(np.random.default_rng(0).integers(0, 40, (3, 1, 32, 32))).float() + 7
    some[1] = 12  # one level stays as it is
    made = spatter.equalised(some)
    assert torch.equal(made[1], some[1])
    for before, after in ((some[0], made[0]), (some[2], made[2])):
        order = np.unique(before.numpy(), return_counts=True)
        below = np.cumsum(order[1]) - order[1][0]
        expected = dict(zip(order[0], np.rint(255 * below / below[-1]), strict=True))
        assert np.array_equal(after.numpy(), np.vectorize(expected.get)(before.numpy()))
        assert after.min() == 0 and after.max() == 255


@pytest.mark.parametrize("severity", SEVERITIES)
def test_spatter_is_liquid_over_the_image(severity):
    images = natural(5) / 255
    made, numbers = spatter.spatter(images, severity, drawn()), drawn()
    mean, deviation, sigma, shown, last = (spatter.WATER | spatter.MUD)[severity]
    field = mean + deviation * numbers.normal(5, 1, 32, 32).double().numpy()
    field = ndimage.gaussian_filter(field, (0, 0, sigma, sigma), mode="nearest", truncate=4)
    changed = (made != images).any(1).numpy()
    if severity <= 3:
        assert (made >= images).all() and not (changed & (field[:, 0] < shown - 1e-5)).any()
        assert float((made - images)[:, 1].max()) == pytest.approx(last * 238 / 255, abs=1e-5)
        assert torch.allclose((made - images)[:, 0] * 238, (made - images)[:, 1] * 175, atol=1e-3)  # turquoise
        return
    mud = ndimage.gaussian_filter((field > shown).astype(float), (0, 0, last, last), mode="nearest", truncate=4)
    mud[mud < 0.8] = 0
    brown = np.array([63, 42, 20]).reshape(3, 1, 1) / 255
    np.testing.assert_allclose(made.numpy(), images.numpy() * (1 - mud) + mud * brown, atol=1e-5)
    assert 0.005 < (mud > 0).mean() < 0.2


def test_patterns_keep_their_share_of_an_image_of_another_size():
    layer = (gaussian(drawn().normal(50, 1, 32, 32), 1) > 0.2).float()
    for side in (8, 28, 64):
        fit = fitted(layer, torch.zeros(50, 3, side, side))
        assert fit.shape == (50, 1, side, side)
        assert float(fit.mean()) == pytest.approx(float(layer.mean()), rel=0.05)
    assert painted((1.0, 0.5, 0.0), torch.zeros(1, 1, 2, 2)).item() == pytest.approx(0.299 + 0.587 / 2)


# Another library, at its own constants (those of ImageNet-C)

IMAGENET = {
    "gaussian_noise": (noise, "GAUSSIAN", 0.08),
    "shot_noise": (noise, "SHOT", 60),
    "impulse_noise": (noise, "IMPULSE", 0.03),
    "speckle_noise": (noise, "SPECKLE", 0.15),
    "gaussian_blur": (blur, "GAUSSIAN", 1),
    "glass_blur": (blur, "GLASS", (0.7, 1, 2)),
    "defocus_blur": (blur, "DEFOCUS", (3, 0.1)),
    "motion_blur": (blur, "MOTION", (10, 3)),
    "snow": (weather, "SNOW", (0.1, 0.3, 3, 0.5, 10, 4, 0.8)),
    "fog": (weather, "FOG", (1.5, 2)),
    "brightness": (weather, "BRIGHTNESS", 0.1),
    "contrast": (digital, "CONTRAST", 0.4),
    "saturate": (digital, "SATURATE", (0.3, 0)),
    "jpeg_compression": (digital, "JPEG", 25),
}


@pytest.fixture(scope="module")
def reference():
    """What imagecorruptions 1.1.2 made of the same images: see make_imagecorruptions.py."""
    with np.load(Path(__file__).with_name("imagecorruptions.npz")) as kept:
        return dict(kept)


@pytest.mark.parametrize("family", IMAGENET)
def test_distances_are_those_of_imagecorruptions(family, reference, monkeypatch):
    monkeypatch.setattr(*IMAGENET[family][:2], (IMAGENET[family][2],) * 5)
    images = natural(150)
    made = corrupt(images, family, 1, seed=0)
    if family not in RANDOM:
        theirs = reference[family].astype(float)
        return assert_same(made[: len(theirs)], theirs, 0.1)
    levels = made.numpy().astype(float)
    moved = np.abs(levels - images.numpy()).mean((1, 2, 3))
    for ours, theirs in ((moved, "moved"), (levels.std((1, 2, 3)), "spread")):
        per_image = ours - reference[f"{family}/{theirs}"]
        assert abs(per_image.mean()) < 4 * per_image.std() / len(images) ** 0.5
