"""Decoding of one image: upright, and as 8-bit grey or colour whatever mode Pillow opens it in."""

from __future__ import annotations

import contextlib
from typing import IO

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
STEPS = {"LAB": "RGB", "La": "LA", "RGBa": "RGBA"}
"""Modes that Pillow converts only by way of another one."""
DIRECT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of a TIFF."""


class ModeError(ValueError):
    """The mode of an image has no range that 8 bits stand for."""


def decode(file: IO[bytes], channels: int) -> Image.Image:
    """The first frame of an image, turned as its EXIF orientation says, in mode ``L`` or ``RGB``.

    Colours are converted by value, transparency is dropped, and of 16 bits the upper 8 are kept, so that equal values
    give equal pixels in every image.

    Args:
        file: The file, open for reading.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        ModeError: If the mode has no range, as 32-bit integers and floats.
        Exception: Of almost any type, from Pillow's decoders, if the file is damaged.
    """
    with Image.open(file) as image:
        check_mode(image)
        image.load()
        with contextlib.suppress(Exception):  # a damaged EXIF block says nothing about the pixels
            ImageOps.exif_transpose(image, in_place=True)
        return _eight_bits(image).convert("L" if channels == 1 else "RGB")


def check_header(file: IO[bytes]) -> None:
    """Check without decoding that an image can be decoded; one that is cut short passes.

    Raises:
        ModeError: If the mode has no range.
        Exception: Of almost any type, if Pillow does not know the format.
    """
    with Image.open(file) as image:
        check_mode(image)


def check_mode(image: Image.Image) -> None:
    """Require a mode that can be converted by value.

    Raises:
        ModeError: If it cannot; names the mode.
    """
    if image.mode in DIRECT or image.mode in STEPS:
        return
    if image.mode in SIXTEEN_BITS and image.format != "TIFF":
        return
    if image.mode in SIXTEEN_BITS and _whole_range(image):
        return
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow's mode for 16 bits in these formats
        return
    raise ModeError(f"has mode {image.mode}, whose values have no fixed range. Save it with 8 or 16 bits")


def _whole_range(image: Image.Image) -> bool:
    """Whether a 16-bit TIFF uses all 16 bits, with 0 for black."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(BITS_PER_SAMPLE, (16,)) == (16,) and tags.get(PHOTOMETRIC, 1) == 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    image.info.pop("transparency", None)  # Pillow would warn that it is lost
    if image.mode in (*SIXTEEN_BITS, "I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(STEPS[image.mode]) if image.mode in STEPS else image
