"""Images in class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fedloge.checks import check_choice, check_least
from fedloge.data.files import open_files
from fedloge.data.images import FileImages, Images, InMemory
from fedloge.data.sources.base import IMAGENET, Dataset, Source, check_statistics
from fedloge.errors import DataError


class ImageFolder(Source):
    """Images in ``root/train/<class>/*`` and ``root/test/<class>/*``, in any format that Pillow reads.

    Args:
        root: Folder, or zip archive of this layout, which is read without unpacking.
        image_size: Height and width; other images are scaled by their shorter side and cropped at the centre.
        channels: 1 (grey) or 3 (RGB).
        in_memory: Decode all images once (``always``) or on access (``never``); ``auto`` decides by size (4 GiB).
        num_workers: Number of decoding threads.
        mean: Channel means of images scaled to [0, 1]; None takes ImageNet's.
        std: Channel standard deviations of images scaled to [0, 1]; None takes ImageNet's.

    Raises:
        ConfigError: If an argument is out of range.
        DataError: If a folder is missing, has one class, or its classes differ between train and test.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 32,
        channels: Literal[1, 3] = 3,
        in_memory: InMemory = "auto",
        num_workers: int = 4,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        check_least("data.source.image_size", image_size, 1)
        check_least("data.source.num_workers", num_workers, 1)
        check_choice("data.source.channels", channels, (1, 3))
        check_choice("data.source.in_memory", in_memory, get_args(InMemory))
        self.root = Path(root)
        self.files = open_files(root)
        self.name = self.root.name.removesuffix(".zip")
        self.image_size, self.channels = image_size, channels
        self.in_memory, self.num_workers = in_memory, num_workers
        self.mean, self.std = check_statistics(channels, mean or IMAGENET[channels][0], std or IMAGENET[channels][1])
        self.class_names = self._classes()

    def load(self) -> Dataset:
        """Find the images, and decode them if they fit in memory.

        Raises:
            DataError: If a class is empty or an image cannot be read; names it.
        """
        (train, train_labels), (test, test_labels) = self._split("train"), self._split("test")
        return Dataset(train, train_labels, test, test_labels)

    def _classes(self) -> list[str]:
        train, test = (self._folders(part) for part in ("train", "test"))
        if train != test:
            raise DataError(
                f"the classes of {str(self.root)!r} differ: only in train {sorted(set(train) - set(test))}, only in "
                f"test {sorted(set(test) - set(train))}. Both need the same class folders."
            )
        if len(train) < 2:
            raise DataError(f"{str(self.root / 'train')!r} has {len(train)} class folder(s). At least 2 are needed.")
        return train

    def _folders(self, part: str) -> list[str]:
        folders = self.files.folders(part)
        if folders is None:
            raise DataError(
                f"no folder {str((self.root / part).resolve())!r}. data.source.root={str(self.root)!r} must hold "
                "train/<class>/* and test/<class>/*, as a folder or a .zip."
            )
        return folders

    def _split(self, part: str) -> tuple[Images, Tensor]:
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            own = self.files.names(f"{part}/{name}")
            if not own:
                folder = str(self.root / part / name)
                raise DataError(f"class folder {folder!r} is empty. Add images, or remove the class.")
            paths += [f"{part}/{name}/{file}" for file in own]
            labels += [label] * len(own)
        files = FileImages(self.files, paths, self.image_size, self.channels, self.num_workers)
        return files.load(self.in_memory), torch.tensor(labels)
