"""Any folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fedloge.data.images import FileImages, Images, TensorImages
from fedloge.data.sources.base import Dataset, Source
from fedloge.errors import ConfigError, DataError

IN_MEMORY_LIMIT = 4 * 2**30
"""Bytes of decoded images up to which ``auto`` keeps them in memory."""


class ImageFolder(Source):
    """``root/train/<class>/*`` and ``root/test/<class>/*``, in any format that Pillow reads.

    Args:
        root: The folder.
        image_size: Height and width; other images are scaled by their shorter side and cropped at the centre.
        channels: 1 (grey) or 3 (RGB).
        in_memory: Decode everything once, or each batch when it is needed; ``auto`` decides by size (4 GiB).
        num_workers: Threads that decode.
        mean: Per channel, of images scaled to [0, 1]; None takes ImageNet's.
        std: Likewise.

    Raises:
        DataError: If a folder is missing, has one class, or its classes differ between train and test.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 32,
        channels: Literal[1, 3] = 3,
        in_memory: Literal["auto", "always", "never"] = "auto",
        num_workers: int = 4,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        for name, value in (("image_size", image_size), ("num_workers", num_workers)):
            if value < 1:
                raise ConfigError(f"data.source.{name}", value, "must be at least 1", "Choose a positive number.")
        self.root = Path(root)
        self.name = self.root.name
        self.image_size, self.channels, self.in_memory, self.num_workers = (
            image_size,
            channels,
            in_memory,
            num_workers,
        )
        self.mean = mean or ((0.485, 0.456, 0.406) if channels == 3 else (0.449,))
        self.std = std or ((0.229, 0.224, 0.225) if channels == 3 else (0.226,))
        for option, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != channels:
                raise ConfigError(f"data.source.{option}", numbers, f"needs {channels} number(s)", "One per channel.")
        self.class_names = self._classes()

    def load(self) -> Dataset:
        """Find the files, and decode them if they fit in memory."""
        (train, train_labels), (test, test_labels) = self._split("train"), self._split("test")
        return Dataset(train, train_labels, test, test_labels)

    def _classes(self) -> list[str]:
        train, test = (self._folders(part) for part in ("train", "test"))
        if train != test:
            raise DataError(
                f"the classes of {str(self.root)!r} differ: only in train {sorted(set(train) - set(test))}, only in "
                f"test {sorted(set(test) - set(train))}. Give both the same class folders."
            )
        if len(train) < 2:
            raise DataError(f"{str(self.root / 'train')!r} has {len(train)} class folder(s). At least 2 are needed.")
        return train

    def _folders(self, part: str) -> list[str]:
        folder = self.root / part
        if not folder.is_dir():
            raise DataError(
                f"no folder {str(folder.resolve())!r}. data.source.root={str(self.root)!r} must hold train/<class>/* "
                "and test/<class>/*."
            )
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    def _split(self, part: str) -> tuple[Images, Tensor]:
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.class_names):
            folder = self.root / part / name
            own = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
            if not own:
                raise DataError(f"class folder {str(folder)!r} is empty. Add images, or remove the class.")
            paths += own
            labels += [label] * len(own)
        files = FileImages(paths, self.image_size, self.channels, self.num_workers)
        size = len(paths) * self.channels * self.image_size**2
        keep = self.in_memory == "always" or (self.in_memory == "auto" and size <= IN_MEMORY_LIMIT)
        images = TensorImages(files.gather(torch.arange(len(paths)))) if keep else files
        return images, torch.tensor(labels)
