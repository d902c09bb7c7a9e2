"""One image file as pixels: whatever Pillow reads, scaled by its own range, or refused in words.

Nothing here loads torch.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from PIL import Image

# Formats that Pillow opens and that hold no pixels of one image: drawings, which it would have another program draw,
# films, and arrays whose reading somebody else must add.
NO_PIXELS = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5"})
WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's modes of more than 8 bits; all are grey
BLACK_IS_ZERO = 1  # what TIFF says where 0 is black
BITS, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # tags of TIFF and EXIF


@cache
def suffixes() -> frozenset[str]:
    """How the names of image files end, in small letters: of all formats that this Pillow reads."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in Image.OPEN and kind not in NO_PIXELS)


def read_pixels(encoded: bytes) -> numpy.ndarray:
    """uint8 [3, height, width], held upright where a camera noted how; grey images have three equal channels.

    16 bits become 8 by their range, 65535 being 255, and are rounded (of coloured ones Pillow keeps the upper 8 bits,
    which is at most one level less). Errors: ValueError, with what would do, for what is no image or a damaged one,
    for several in one file, for transparent pixels, and for numbers of which no range is known.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=_formats()) as image:
            _refuse_several(image)
            image.load()
            _refuse_transparent(image)
            upright = _upright(image)
            if image.mode in WIDE:
                return numpy.repeat(_narrow(upright, _top(image))[None], 3, axis=0)
            return numpy.asarray(upright.convert("RGB")).transpose(2, 0, 1)
    except (_Refused, MemoryError):
        raise
    except Exception as error:  # readers stumble over damage in many ways, struct.error among them
        raise ValueError(f"not a readable image ({error}); replace or remove it") from error


def _upright(image: Image.Image) -> Image.Image:
    """As a camera noted. Where that note cannot be read the picture can: it is shown as it lies, as viewers do."""
    from PIL.Image import Transpose as To

    turned = {2: To.FLIP_LEFT_RIGHT, 3: To.ROTATE_180, 4: To.FLIP_TOP_BOTTOM, 5: To.TRANSPOSE,
              6: To.ROTATE_270, 7: To.TRANSVERSE, 8: To.ROTATE_90}  # fmt: skip
    try:  # not ImageOps.exif_transpose, which writes all other notes anew and stumbles over a broken one
        how = turned.get(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return image
    return image if how is None else image.transpose(how)


class _Refused(ValueError):
    """An image that Pillow reads and that has no pixels one could train on."""


@cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [kind for kind in Image.OPEN if kind not in NO_PIXELS]


def _refuse_several(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG; behind the picture lie previews of it
        raise _Refused(f"holds {frames} images; save the one that is meant as a file of its own")


def _refuse_transparent(image: Image.Image) -> None:
    """An alpha channel that hides nothing is no harm. What would be seen through another one, the file does not say."""
    if not image.has_transparency_data:
        return
    if image.mode in WIDE:  # of these Pillow drops it
        seen_through = bool((numpy.asarray(image) == image.info["transparency"]).any())
    else:
        seen_through = bool((numpy.asarray(image.convert("RGBA"))[..., 3] < 255).any())
    if seen_through:
        raise _Refused("has transparent pixels, and no file says what lies behind them; save it on a background")


def _top(image: Image.Image) -> int:
    """The value that is white. Known of 16-bit grey in PNG and TIFF, and of PPM, which Pillow scales to 16 bits."""
    sixteen = image.mode.startswith("I;16")
    if image.format == "PNG" and (sixteen or image.mode == "I"):
        return 65535
    if image.format == "PPM" and image.mode == "I":
        return 65535
    if image.format == "TIFF" and sixteen:
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(BITS) == (16,) and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO:
            return 65535
    what = f"{image.format} of Pillow's mode {image.mode}"
    raise _Refused(f"is {what}, whose range from black to white is not known; save it with 8 bits, or as 16-bit PNG")


def _narrow(image: Image.Image, top: int) -> numpy.ndarray:
    """Grey levels from 0 to `top` as uint8, rounded."""
    return numpy.rint(numpy.asarray(image, dtype=numpy.float64) * 255 / top).astype(numpy.uint8)
