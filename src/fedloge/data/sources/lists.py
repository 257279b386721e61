"""Images that list files name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import torch

from fedloge.checks import check_choice, check_least
from fedloge.data.cache import PixelCache
from fedloge.data.files import open_files
from fedloge.data.images import FileImages, Images, InMemory
from fedloge.data.lists import (
    ImageList,
    check_apart,
    check_every_class,
    check_labels,
    classes_across,
    locate,
    read_list,
    subset,
)
from fedloge.data.sources.base import IMAGENET, Dataset, Source, check_statistics
from fedloge.errors import ConfigError, DataError


class ImageLists(Source):
    """Images below a folder that a training and a test list name, with their classes and, where it is known, users.

    A list has lines ``path label`` or ``path label user``, or is a ``.csv`` with columns ``image_id``, ``class`` and,
    where users are known, ``user_id``; an image is then ``<image_id>.jpg``. What is not at its path is looked for by
    name below the first folder of the path. Labels run from 0; every class needs a training image.

    Images are scaled by their shorter side to ``stored_size`` and cropped to the square at the centre. Training with
    ``augment: resized_crop_flip`` takes random parts of the square, testing its centre of ``image_size``. For testing
    that is the usual recipe for ImageNet (scale to 256, centre of 224); the usual one for training crops from the whole
    image at its own resolution, of which here nothing beyond the square is seen.

    Args:
        root: The image folder, or a zip archive of it.
        train_list: File of the training images, below ``lists``.
        test_list: Of the test images.
        num_classes: C, which the lists are checked against.
        lists: Folder of the list files; None takes ``root``.
        image_size: Height and width that the model sees.
        stored_size: Height and width that images are scaled and cropped to; None takes 8/7 of ``image_size``.
        classes: Keep so many classes, at evenly spaced ranks from the most frequent to the rarest; None keeps all.
        per_class: Training images, and test images, of the largest class; the others are cut in proportion, to one at
            least. Those kept are evenly spaced in the order of the list. None keeps all.
        cache: Folder for decoded images (192 KiB each at 256x256), so that each is decoded once; None decodes an image
            each time it is needed.
        in_memory: Decode everything at the start, or each batch when it is needed; ``auto`` decides by size (4 GiB).
        num_workers: Threads that decode.
        mean: Per channel, of images scaled to [0, 1]; None takes ImageNet's.
        std: Likewise.

    Raises:
        ConfigError: If an argument is out of range.
        DataError: If a list is missing or malformed, lacks a class, or names an image twice.
    """

    channels = 3
    title: ClassVar[str | None] = None
    """For tables; None takes the root's name."""
    remedy: ClassVar[str] = "Set data.source.root to the folder that the paths start from."
    """What to do where files are missing."""

    def __init__(
        self,
        root: str,
        train_list: str,
        test_list: str,
        num_classes: int,
        lists: str | None = None,
        image_size: int = 224,
        stored_size: int | None = None,
        classes: int | None = None,
        per_class: int | None = None,
        cache: str | None = None,
        in_memory: InMemory = "auto",
        num_workers: int = 4,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        check_least("data.source.num_classes", num_classes, 2)
        check_least("data.source.image_size", image_size, 1)
        check_least("data.source.num_workers", num_workers, 1)
        check_choice("data.source.in_memory", in_memory, get_args(InMemory))
        check_least("data.source.stored_size", stored_size, image_size)
        check_least("data.source.per_class", per_class, 1)
        check_least("data.source.classes", classes, 2)
        if classes is not None and classes > num_classes:
            raise ConfigError("data.source.classes", classes, f"is more than num_classes={num_classes}", "Take fewer.")
        self.root = Path(root)
        self.image_size, self.stored_size = image_size, stored_size or round(image_size * 8 / 7)
        self.cache = None if cache is None else PixelCache(cache)
        self.in_memory, self.num_workers = in_memory, num_workers
        self.mean, self.std = check_statistics(3, mean or IMAGENET[3][0], std or IMAGENET[3][1])
        folder = self.root if lists is None else Path(lists)
        train, test = (self._read(folder / name, num_classes) for name in (train_list, test_list))
        check_every_class(train, num_classes)
        check_apart(train, test)
        names = class_names(train, num_classes)
        kept = np.arange(num_classes) if classes is None else classes_across(train.counts(num_classes), classes)
        self.train, self.test = (subset(images, kept, per_class) for images in (train, test))
        self.class_names = [names[c] for c in kept]
        notes = [] if classes is None else [f"{classes} classes"]
        notes += [] if per_class is None else [f"at most {per_class} images per class"]
        self.name = (self.title or self.root.name) + (f" ({', '.join(notes)})" if notes else "")

    def load(self) -> Dataset:
        """Find the images, and decode them if they fit in memory.

        Raises:
            DataError: If images are missing, or naming the one that cannot be read.
        """
        train, test = self._images(self.train), self._images(self.test)
        users = None if self.train.users is None else torch.from_numpy(self.train.users)
        return Dataset(train, torch.from_numpy(self.train.labels), test, torch.from_numpy(self.test.labels), users)

    def _read(self, file: Path, num_classes: int) -> ImageList:
        for kind, place in (("image folder", self.root), ("list", file)):
            if not place.exists():
                raise DataError(f"no {kind} {str(place.resolve())!r}. {self.remedy}")
        images = read_list(file)
        check_labels(images, num_classes)
        return images

    def _images(self, images: ImageList) -> Images:
        assert self.stored_size is not None
        files = open_files(self.root)
        paths = locate(files, images, self.remedy)
        found = FileImages(files, paths, self.stored_size, self.channels, self.num_workers, cache=self.cache)
        return found.kept(self.in_memory)


def class_names(images: ImageList, num_classes: int) -> list[str]:
    """The folders that the classes' images are in, where each class has one of its own; numbers otherwise."""
    folders: list[set[str]] = [set() for _ in range(num_classes)]
    for path, label in zip(images.paths, images.labels, strict=True):
        folders[label].add(path.rpartition("/")[0].rpartition("/")[2])
    names = [min(own) for own in folders]
    own_folder = all(len(own) == 1 for own in folders) and len(set(names)) == num_classes and "" not in names
    return names if own_folder else [str(c) for c in range(num_classes)]
