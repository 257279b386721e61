"""Every mode that Pillow opens gives the values of the picture, or is refused by its name."""

import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from fedloge.data.decode import ModeError, check_header, decode
from fedloge.data.decode import _eight_bits as eight_bits

GREY = np.array([[0, 8, 60], [130, 200, 255]], dtype=np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)


def stored(image, format="TIFF", **options):
    file = BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def decoded(file, channels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(file, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image)


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.fromarray(GREY), "PNG"),
        (Image.fromarray(GREY.astype(np.uint16) << 8 | 77), "PNG"),
        (Image.fromarray(GREY.astype(np.uint16) << 8 | 77), "TIFF"),
        (Image.fromarray(GREY.astype(">u2") << 8 | 77), "TIFF"),
        (Image.fromarray(GREY.astype(np.uint16) << 8 | 77), "PPM"),
        (Image.fromarray(GREY.astype(np.uint16) << 8 | 77), "JPEG2000"),
        (Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY)]), "PNG"),
        (Image.fromarray(GREY).convert("RGBA"), "PNG"),
        (Image.fromarray(GREY).quantize(6), "PNG"),
        (Image.fromarray(GREY).convert("RGB"), "BMP"),
    ],
    ids=["8", "16 png", "16 tiff", "16 tiff, big-endian", "16 ppm", "16 jpeg 2000", "LA", "RGBA", "palette", "RGB"],
)
def test_grey_of_any_depth(image, format):
    options = {"irreversible": False} if format == "JPEG2000" else {}
    assert decoded(stored(image, format, **options), 1).tolist() == GREY.tolist()
    assert decoded(stored(image, format, **options), 3).tolist() == np.stack([GREY] * 3, axis=2).tolist()


def test_values_of_a_16_bit_image_do_not_depend_on_the_others_in_it():
    dark = Image.fromarray(np.full((2, 2), 2141, dtype=np.uint16))
    assert decoded(stored(dark, "PNG"), 1).tolist() == [[8, 8], [8, 8]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "P", "HSV", "LAB", "YCbCr", "CMYK", "RGBa", "PA"])
def test_colours(mode):
    """Close to the picture, as far as the mode can hold its colours."""
    image = Image.fromarray(COLOUR)
    for step in {"RGBa": ("RGBA", "RGBa")}.get(mode, (mode,)):
        image = image.quantize(6).convert(step) if step in ("P", "PA") else image.convert(step)
    assert image.mode == mode
    found = np.asarray(eight_bits(image).convert("RGB"), dtype=int)
    tolerance = {"LAB": 20, "HSV": 6, "YCbCr": 3}.get(mode, 0)
    assert np.abs(found - COLOUR).max() <= tolerance
    grey = np.asarray(eight_bits(image).convert("L"), dtype=int)
    assert np.abs(grey - np.asarray(Image.fromarray(found.astype(np.uint8)).convert("L"), dtype=int)).max() <= 1


def test_a_premultiplied_colour_is_the_colour():
    half = Image.new("RGBA", (1, 1), (200, 100, 50, 128))
    assert np.abs(np.asarray(eight_bits(half.convert("RGBa")).convert("RGB"), int)[0, 0] - [200, 100, 50]).max() <= 1


def test_two_values_are_black_and_white():
    assert decoded(stored(Image.fromarray(GREY > 100), "PNG"), 1).tolist() == (255 * (GREY > 100)).tolist()


def test_transparency_is_dropped_without_a_warning():
    palette = Image.fromarray(COLOUR).quantize(6)
    expected = np.asarray(palette.convert("RGB")).tolist()
    assert decoded(stored(palette, "PNG", transparency=bytes([0, 50, 100, 150, 200, 250])), 3).tolist() == expected
    assert decoded(stored(palette, "GIF", transparency=2), 3).shape == COLOUR.shape
    assert decoded(stored(Image.fromarray(COLOUR), "PNG", transparency=(0, 130, 255)), 3).tolist() == COLOUR.tolist()


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.fromarray(GREY.astype(np.int32) * 256), "I"),
        (Image.fromarray(GREY.astype(np.float32) / 255), "F"),
    ],
)
def test_values_without_a_range_are_refused_by_mode(image, mode):
    for read in (check_header, lambda file: decode(file, 1)):
        with pytest.raises(ModeError, match=f"has mode {mode}, whose values have no fixed range"):
            read(stored(image))


@pytest.mark.parametrize(("tag", "value"), [(258, 12), (262, 0)], ids=["12 bits", "white is 0"])
def test_a_tiff_of_16_bits_that_mean_something_else_is_refused(tag, value, monkeypatch):
    file = stored(Image.fromarray(GREY.astype(np.uint16) << 8))
    with Image.open(file) as image:
        image.tag_v2[tag] = value
        monkeypatch.setattr(Image, "open", lambda _: image)
        with pytest.raises(ModeError, match="has mode I;16"):
            decode(file, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_stand_upright(orientation, format):
    upright = Image.fromarray(np.kron(COLOUR, np.ones((16, 16, 1), dtype=np.uint8)))
    back = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    turn = Image.Exif()
    turn[0x0112] = back
    turned = ImageOps.exif_transpose(_with(upright, turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    found = decoded(stored(turned, format, exif=exif, **options), 3)
    assert found.shape == np.asarray(upright).shape
    assert np.abs(found.astype(int) - np.asarray(upright)).mean() < 3


def _with(image, exif):
    return Image.open(stored(image, "PNG", exif=exif))


def test_a_damaged_exif_block_does_not_matter():
    file = stored(Image.fromarray(COLOUR), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03garbage")
    assert decoded(file, 3).tolist() == COLOUR.tolist()


def test_the_first_of_several_frames():
    frames = [Image.new("RGB", (2, 2), (value, 0, 0)) for value in (10, 200)]
    assert decoded(stored(frames[0], save_all=True, append_images=frames[1:]), 3)[0, 0].tolist() == [10, 0, 0]
