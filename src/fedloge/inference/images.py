"""Image files of the user, in the form that a trained model takes."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from fedloge.checks import check_paths, check_text
from fedloge.data.files import FolderFiles, walk
from fedloge.data.images import FileImages, refuse
from fedloge.data.record import DataRecord
from fedloge.errors import DataError

MODES = {1: ("L", "1"), 3: ("RGB",)}
"""Pillow modes that an image may have, by the number of channels that the model takes."""


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files in ``paths``, and all images in the folders in ``paths``, sorted by folder; each file once.

    Raises:
        DataError: If a path does not exist, a folder holds no image, or a name is not UTF-8.
    """
    check_text(map(str, paths), "of images")
    check_paths(paths)
    found: dict[Hashable, Path] = {}
    for path in map(Path, paths):
        for file in _files_at(path):
            found.setdefault(_identity(file), file)
    return list(found.values())


def open_images(paths: Sequence[Path], record: DataRecord, convert: bool = False) -> FileImages:
    """Open images in the form that the model takes.

    For a run on image files they are scaled, cropped and converted as its training images were. For other runs they
    must have the right size and mode, unless ``convert`` is on.

    Args:
        paths: Image files.
        record: Record of the data that the model was trained on.
        convert: Scale, crop and convert images that do not fit.

    Raises:
        DataError: If images cannot be read or do not fit; counts them and names the first five.
    """
    names, side = [str(path) for path in paths], record.stored_size
    images = FileImages(
        FolderFiles(Path()), names, record.image_size, record.channels, num_workers=4, shorter_side=side
    )
    refuse(list(images.check().values()), len(images))
    if not convert and not record.fitted:
        for path in paths:
            _check(path, record)
    return images


def _files_at(path: Path) -> list[Path]:
    """A file, or the images in a folder."""
    if not os.path.isdir(path):
        return [path]
    inside = [file for file in walk(FolderFiles(path)) if Path(file).suffix.lower() in _suffixes()]
    if not inside:
        raise DataError(f"folder {str(path)!r} holds no image. Give images, or a folder of them.")
    return sorted(path / file for file in inside)


@cache
def _suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow can open."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, format in known.items() if format in Image.OPEN)


def _identity(path: Path) -> Hashable:
    try:
        return FolderFiles(Path()).facts(str(path))
    except OSError:  # refused when it is opened
        return path


def _check(path: Path, record: DataRecord) -> None:
    with Image.open(path) as image:
        size, mode = image.size, image.mode
    remedy = "Pass --convert to scale, crop and convert images."
    if size != (record.image_size,) * 2:
        wanted = f"{record.image_size}x{record.image_size}"
        raise DataError(f"{str(path)!r} has {size[0]}x{size[1]} pixels, but the model takes {wanted}. {remedy}")
    if mode not in MODES[record.channels]:
        wanted = f"{MODES[record.channels][0]} ({'grey' if record.channels == 1 else 'colour'})"
        raise DataError(f"{str(path)!r} has mode {mode}, but the model takes {wanted}. {remedy}")
