"""Row A7: what Pillow reads is read and scaled by its range, the rest refused in words; nothing is changed unsaid."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy
import pytest
from PIL import Image

from kdtune.data.pixels import read_pixels, suffixes

HEIGHT, WIDTH = 6, 8


def colours(seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=numpy.uint8)


def grey16(seed: int = 0) -> numpy.ndarray:
    grey = numpy.random.default_rng(seed).integers(0, 65536, (HEIGHT, WIDTH), dtype=numpy.uint16)
    grey[0, :4] = 0, 128, 129, 65535  # 128 is below half a level of 257, 129 above
    return grey


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(depth: int, colour: int, rows: list[bytes], width: int, between: tuple[bytes, bytes] | None = None) -> bytes:
    """A PNG by its specification, without Pillow."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(*between) if between else b"") + data + chunk(b"IEND", b"")


def alike(read: numpy.ndarray, expected: numpy.ndarray) -> bool:
    """`expected`: [H, W] of a grey image or [H, W, 3]."""
    if expected.ndim == 2:
        expected = numpy.stack([expected] * 3, axis=2)
    return read.dtype == numpy.uint8 and numpy.array_equal(read.transpose(1, 2, 0), expected)


# What is read


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_eight_bits_are_the_pixels_themselves(kind: str, mode: str) -> None:
    image = Image.fromarray(colours()).convert(mode)
    assert alike(read_pixels(saved(image, kind)), numpy.asarray(image))


def test_lossless_webp_and_jpeg_as_pillow_decodes_them() -> None:
    assert alike(read_pixels(saved(Image.fromarray(colours()), "WEBP", lossless=True)), colours())
    for mode in ("RGB", "L", "CMYK"):
        encoded = saved(Image.fromarray(colours()).convert(mode), "JPEG")
        assert alike(read_pixels(encoded), numpy.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_are_scaled_by_their_range_and_rounded(kind: str) -> None:
    grey = grey16()
    expected = numpy.array([[round(int(value) / 257) for value in row] for row in grey], numpy.uint8)
    read = read_pixels(saved(Image.fromarray(grey), kind))
    assert alike(read, expected)
    assert expected[0, :4].tolist() == [0, 0, 1, 255] and len(set(expected.ravel().tolist())) > 20


def test_sixteen_bits_of_colour_lose_a_level_at_most() -> None:
    values = numpy.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=numpy.uint16)
    read = read_pixels(png(16, 2, [row.astype(">u2").tobytes() for row in values], WIDTH))
    assert numpy.abs(read.transpose(1, 2, 0) - values / 257).max() <= 1


@pytest.mark.parametrize(("depth", "row", "levels"), [(1, b"\x50", [0, 255, 0, 255]), (2, b"\x1b", [0, 85, 170, 255])])
def test_fewer_than_eight_bits_reach_from_black_to_white(depth: int, row: bytes, levels: list[int]) -> None:
    assert alike(read_pixels(png(depth, 0, [row], 4)), numpy.array([levels], numpy.uint8))


def test_a_palette_becomes_its_colours() -> None:
    image = Image.fromarray(colours()).convert("P", palette=Image.Palette.ADAPTIVE)
    for kind in ("PNG", "GIF"):
        assert alike(read_pixels(saved(image, kind)), numpy.asarray(image.convert("RGB")))


def test_an_alpha_channel_that_hides_nothing_is_no_harm() -> None:
    image = Image.fromarray(colours())
    for opaque in (image.convert("RGBA"), image.convert("L").convert("LA")):
        assert alike(read_pixels(saved(opaque, "PNG")), numpy.asarray(opaque.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_held_as_its_camera_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = colours()
    turned = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.swapaxes(0, 1)}
    turned |= {6: numpy.rot90(stored, -1), 7: stored[::-1, ::-1].swapaxes(0, 1), 8: numpy.rot90(stored)}
    assert alike(read_pixels(saved(Image.fromarray(stored), "PNG", exif=exif)), turned[orientation])


def test_the_picture_of_a_camera_that_stores_previews_behind_it() -> None:
    image = Image.fromarray(colours())
    encoded = saved(image, "MPO", save_all=True, append_images=[image.resize((4, 3))])
    assert read_pixels(encoded).shape == (3, HEIGHT, WIDTH)


# What is refused


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_images_in_a_file(kind: str) -> None:
    first, second = (Image.fromarray(colours(seed)) for seed in (0, 1))
    with pytest.raises(ValueError, match="holds 2 images; save the one that is meant"):
        read_pixels(saved(first, kind, save_all=True, append_images=[second]))


def seen_through() -> dict[str, bytes]:
    """Images of which a pixel is transparent, in all ways that PNG has, and a GIF."""
    image = Image.fromarray(colours())
    alpha = Image.fromarray(numpy.full((HEIGHT, WIDTH), 255, numpy.uint8))
    alpha.putpixel((2, 3), 254)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    rgba, la = image.convert("RGBA"), image.convert("LA")
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    return {
        "RGBA": saved(rgba, "PNG"),
        "LA": saved(la, "PNG"),
        "palette": saved(palette, "PNG", transparency=palette.getpixel((0, 0))),
        "gif": saved(palette, "GIF", transparency=palette.getpixel((0, 0))),
        "a colour": png(8, 2, [bytes([1, 2, 3, 4, 5, 6])], 2, (b"tRNS", struct.pack(">3H", 1, 2, 3))),
        "a grey level of 16 bits": png(16, 0, [struct.pack(">2H", 999, 7)], 2, (b"tRNS", struct.pack(">H", 999))),
    }


@pytest.mark.parametrize("how", list(seen_through()))
def test_what_is_seen_through(how: str) -> None:
    with pytest.raises(ValueError, match="has transparent pixels"):
        read_pixels(seen_through()[how])


def test_a_transparent_colour_that_no_pixel_has_is_no_harm() -> None:
    sixteen = png(16, 0, [struct.pack(">2H", 998, 65535)], 2, (b"tRNS", struct.pack(">H", 999)))
    assert read_pixels(sixteen)[0].tolist() == [[4, 255]]


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_numbers_of_which_no_range_is_known(kind: str) -> None:
    mode = {"int32": "I", "float32": "F"}[kind]
    with pytest.raises(ValueError, match=rf"TIFF of Pillow's mode {mode}, whose range .* not known; save"):
        read_pixels(saved(Image.fromarray(grey16().astype(kind)), "TIFF"))


def test_sixteen_bits_of_which_white_is_zero() -> None:
    with pytest.raises(ValueError, match="range from black to white is not known"):
        read_pixels(saved(Image.fromarray(grey16()), "TIFF", tiffinfo={262: 0}))


@pytest.mark.parametrize(
    "content", [b"", b"no image", saved(Image.fromarray(colours()), "PNG")[:-40], b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_image_or_a_damaged_one(content: bytes) -> None:
    """A drawing is not read either: Pillow would have another program run it."""
    with pytest.raises(ValueError, match="not a readable image"):
        read_pixels(content)


def test_which_files_are_images_by_their_name() -> None:
    assert {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"} <= suffixes()
    assert not {".txt", ".db", "", ".npy", ".eps", ".h5", ".mpg"} & suffixes()
