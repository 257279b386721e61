"""Images named by list files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import torch

from fedloge.checks import check_choice, check_least
from fedloge.data.cache import PixelCache
from fedloge.data.files import Files, open_files
from fedloge.data.images import FileImages, InMemory, OnUnreadable, load_parts
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
    """Images in a folder, with classes and optional users from a training list and a test list.

    A list has lines ``path label`` or ``path label user``, or is a ``.csv`` with columns ``image_id``, ``class`` and,
    optionally, ``user_id``; an image is then ``<image_id>.jpg``. An image that is not at its path is searched by name
    below the first folder of the path. Labels start at 0; every class needs a training image.

    Images are scaled by their shorter side to ``stored_size`` and cropped to the central square. Training with
    ``augment: resized_crop_flip`` uses random parts of the square, testing its centre of ``image_size``. For testing
    this is the usual recipe for ImageNet (scale to 256, centre of 224). For training the usual recipe crops from the
    whole image at its original resolution, whereas here everything outside the square is lost.

    Args:
        root: Image folder, or a zip archive of it.
        train_list: List of the training images, a file in ``lists``.
        test_list: List of the test images, a file in ``lists``.
        num_classes: C; the lists must agree with it.
        lists: Folder of the list files; None takes ``root``.
        image_size: Height and width of the model's input.
        stored_size: Height and width that images are scaled and cropped to; None takes 8/7 of ``image_size``.
        classes: Number of classes to keep, at evenly spaced ranks from the most frequent to the rarest; None keeps all.
        per_class: Training images, and test images, of the largest class; other classes are reduced in proportion, to
            at least one image. The images kept are evenly spaced in list order. None keeps all.
        cache: Folder of a cache of decoded images (192 KiB each at 256x256); None decodes an image at every access.
        in_memory: Decode all images once (``always``) or on access (``never``); ``auto`` decides by size (4 GiB).
        num_workers: Number of decoding threads.
        mean: Channel means of images scaled to [0, 1]; None takes ImageNet's.
        std: Channel standard deviations of images scaled to [0, 1]; None takes ImageNet's.
        on_unreadable: ``refuse``, or ``skip`` what cannot be read, for which every image is decoded once; the report
            states how many images were left out. Images that are missing are refused in any case.

    Raises:
        ConfigError: If an argument is out of range.
        DataError: If a list is missing or malformed, lacks a class, or names an image twice.
    """

    channels = 3
    title: ClassVar[str | None] = None
    """Name of the dataset in tables; None takes the name of the root."""
    remedy: ClassVar[str] = "Set data.source.root to the folder that the paths start from."
    """Remedy in the error message for missing files."""

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
        on_unreadable: OnUnreadable = "refuse",
    ) -> None:
        check_least("data.source.num_classes", num_classes, 2)
        check_least("data.source.image_size", image_size, 1)
        check_least("data.source.num_workers", num_workers, 1)
        check_choice("data.source.in_memory", in_memory, get_args(InMemory))
        check_choice("data.source.on_unreadable", on_unreadable, get_args(OnUnreadable))
        check_least("data.source.stored_size", stored_size, image_size)
        check_least("data.source.per_class", per_class, 1)
        check_least("data.source.classes", classes, 2)
        if classes is not None and classes > num_classes:
            raise ConfigError("data.source.classes", classes, f"is more than num_classes={num_classes}", "Lower it.")
        self.root = Path(root)
        self.image_size, self.stored_size = image_size, stored_size or round(image_size * 8 / 7)
        self.cache = None if cache is None else PixelCache(cache)
        self.in_memory, self.num_workers, self.on_unreadable = in_memory, num_workers, on_unreadable
        self.mean, self.std = check_statistics(3, mean or IMAGENET[3][0], std or IMAGENET[3][1])
        folder = self.root if lists is None else Path(lists)
        train, test = (self._read(folder / name, num_classes) for name in (train_list, test_list))
        check_every_class(train, num_classes)
        check_apart(train, test)
        names = class_names(train, num_classes)
        chosen = np.arange(num_classes) if classes is None else classes_across(train.counts(num_classes), classes)
        self.train, self.test = (subset(images, chosen, per_class) for images in (train, test))
        self.class_names = [names[c] for c in chosen]
        notes = [] if classes is None else [f"{classes} classes"]
        notes += [] if per_class is None else [f"at most {per_class} images per class"]
        self.name = (self.title or self.root.name) + (f" ({', '.join(notes)})" if notes else "")

    def load(self) -> Dataset:
        """Find the images, and decode them if they fit in memory.

        Raises:
            DataError: If images are missing or an image cannot be read; names them.
        """
        files = open_files(self.root, wanted={path.partition("/")[0] for path in (*self.train.paths, *self.test.paths)})
        lists = {"train": self.train, "test": self.test}
        parts = load_parts(
            {part: self._files(files, images) for part, images in lists.items()}, self.in_memory, self.on_unreadable
        )
        train, test = (lists[part].chosen(parts[part].kept.numpy()) for part in ("train", "test"))
        check_every_class(train, self.num_classes)
        tested = None if train.users is None or test.users is None else test.users_among(train.user_names)
        return Dataset(
            parts["train"].images,
            torch.from_numpy(train.labels),
            parts["test"].images,
            torch.from_numpy(test.labels),
            None if train.users is None else torch.from_numpy(train.users),
            test_users=None if tested is None else torch.from_numpy(tested),
            user_names=None if train.users is None else train.user_names,
            left_out={name: part.left_out for name, part in parts.items()},
        )

    def _read(self, file: Path, num_classes: int) -> ImageList:
        for kind, place in (("image folder", self.root), ("list", file)):
            if not place.exists():
                raise DataError(f"no {kind} {str(place.resolve())!r}. {self.remedy}")
        images = read_list(file)
        check_labels(images, num_classes)
        return images

    def _files(self, files: Files, images: ImageList) -> FileImages:
        assert self.stored_size is not None
        paths = locate(files, images, self.remedy)
        return FileImages(files, paths, self.stored_size, self.channels, self.num_workers, cache=self.cache)


def class_names(images: ImageList, num_classes: int) -> list[str]:
    """Names of the classes: their image folders if each class has its own folder, numbers otherwise."""
    folders: list[set[str]] = [set() for _ in range(num_classes)]
    for path, label in zip(images.paths, images.labels, strict=True):
        folders[label].add(path.rpartition("/")[0].rpartition("/")[2])
    names = [min(own) for own in folders]
    own_folder = all(len(own) == 1 for own in folders) and len(set(names)) == num_classes and "" not in names
    return names if own_folder else [str(c) for c in range(num_classes)]
