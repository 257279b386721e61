"""Image files of the user, in the form that a trained model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fedloge.data.files import FolderFiles
from fedloge.data.images import FileImages
from fedloge.data.sources import ImageFolder, ImageLists
from fedloge.data.sources.base import Source
from fedloge.errors import DataError

MODES = {1: ("L", "1"), 3: ("RGB",)}
"""Pillow modes that an image may have, by the number of channels that the model takes."""


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files in ``paths``, and all images in the folders in ``paths``, sorted by folder.

    Raises:
        DataError: If a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _is_image(file)]
            if not inside:
                raise DataError(f"folder {str(path)!r} holds no image. Give images, or a folder of them.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"no file or folder {str(path)!r}.")
    return found


def open_images(paths: Sequence[Path], source: Source, convert: bool = False) -> FileImages:
    """Open images in the form that the model takes.

    For a run on image files they are scaled, cropped and converted as its training images were. For other runs they
    must have the right size and mode, unless ``convert`` is on.

    Args:
        paths: Image files.
        source: Source of the images that the model was trained on.
        convert: Scale, crop and convert images that do not fit.

    Raises:
        DataError: If an image cannot be read or does not fit; names it.
    """
    if not convert and not isinstance(source, (ImageFolder, ImageLists)):
        for path in paths:
            _check(path, source)
    names = [str(path) for path in paths]
    files, side = FolderFiles(Path()), source.stored_size
    return FileImages(files, names, source.image_size, source.channels, num_workers=4, shorter_side=side)


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in Image.registered_extensions()


def _check(path: Path, source: Source) -> None:
    try:
        with Image.open(path) as image:
            size, mode = image.size, image.mode
    except Exception as error:  # Pillow raises almost any type on a damaged file
        raise DataError(f"{str(path)!r} is not an image that Pillow can read: {error}.") from error
    remedy = "Pass --convert to scale, crop and convert images."
    if size != (source.image_size,) * 2:
        wanted = f"{source.image_size}x{source.image_size}"
        raise DataError(f"{str(path)!r} has {size[0]}x{size[1]} pixels, but the model takes {wanted}. {remedy}")
    if mode not in MODES[source.channels]:
        wanted = f"{MODES[source.channels][0]} ({'grey' if source.channels == 1 else 'colour'})"
        raise DataError(f"{str(path)!r} has mode {mode}, but the model takes {wanted}. {remedy}")
