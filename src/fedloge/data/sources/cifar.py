"""CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision import datasets

from fedloge.data.images import TensorImages
from fedloge.data.sources.base import Dataset, Source
from fedloge.errors import DataError


class _CIFAR(Source):
    image_size = 32
    dataset: ClassVar[Any]
    num_classes: ClassVar[int]

    def __init__(self, root: str = "data", download: bool = False) -> None:
        self.root, self.download = root, download
        self.class_names = [str(c) for c in range(self.num_classes)]

    def prepare(self) -> None:
        """Download, if asked for."""
        if self.download:
            for train in (True, False):
                self.dataset(self.root, train=train, download=True)

    def load(self) -> Dataset:
        """Read the images into memory."""
        try:
            train, test = (self.dataset(self.root, train=train, download=False) for train in (True, False))
        except RuntimeError as error:
            raise DataError(
                f"{self.dataset.__name__} was not found in {str(Path(self.root).resolve())!r} and download is off. "
                "Set --data.source.init_args.root to where it is, or --data.source.init_args.download=true."
            ) from error
        self.class_names = list(train.classes)
        images = [TensorImages(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()) for part in (train, test)]
        labels = [torch.tensor(part.targets) for part in (train, test)]
        return Dataset(images[0], labels[0], images[1], labels[1])


class CIFAR10(_CIFAR):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, 10 classes (Krizhevsky, 2009).

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        download: Fetch it into ``root`` if it is not there.
    """

    name = "CIFAR-10"
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    dataset = datasets.CIFAR10
    num_classes = 10

    def __init__(self, root: str = "data", download: bool = False) -> None:
        super().__init__(root, download)


class CIFAR100(_CIFAR):
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels, 100 classes (Krizhevsky, 2009).

    Args:
        root: Folder that holds ``cifar-100-python``.
        download: Fetch it into ``root`` if it is not there.
    """

    name = "CIFAR-100"
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    dataset = datasets.CIFAR100
    num_classes = 100

    def __init__(self, root: str = "data", download: bool = False) -> None:
        super().__init__(root, download)
