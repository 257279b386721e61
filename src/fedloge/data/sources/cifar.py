"""CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision import datasets

from fedloge.data.images import TensorImages
from fedloge.data.sources.base import Dataset, Source, check_statistics
from fedloge.errors import DataError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
# fmt: on


class _CIFAR(Source):
    image_size = 32
    dataset: ClassVar[Any]

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.root, self.download = root, download
        self.mean, self.std = check_statistics(self.channels, mean or self.mean, std or self.std)

    def prepare(self) -> None:
        """Download the dataset if ``download`` is set.

        Raises:
            DataError: If the download fails.
        """
        if self.download:
            try:
                self._parts(download=True)
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"{type(self).__name__} could not be downloaded to {self._where()}: {error}. Try again, or copy "
                    "it there."
                ) from error

    def load(self) -> Dataset:
        """Read the images into memory.

        Raises:
            DataError: If the images are not in ``root``.
        """
        try:
            train, test = self._parts(download=False)
        except RuntimeError as error:
            download = "prepare_data() was not called" if self.download else "download is off"
            raise DataError(
                f"{type(self).__name__} was not found in {self._where()} and {download}. Set "
                "--data.source.init_args.root to where it is, or --data.source.init_args.download=true."
            ) from error
        images = [TensorImages(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()) for part in (train, test)]
        labels = [torch.tensor(part.targets) for part in (train, test)]
        return Dataset(images[0], labels[0], images[1], labels[1])

    def _parts(self, download: bool) -> tuple[Any, Any]:
        """Training and test set of torchvision, which does the download and verifies checksums."""
        train, test = (self.dataset(self.root, train=train, download=download) for train in (True, False))
        return train, test

    def _where(self) -> str:
        return repr(str(Path(self.root).resolve()))


class CIFAR10(_CIFAR):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels, 10 classes (Krizhevsky, 2009).

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        download: Download the dataset into ``root`` if it is not there.
        mean: Channel means of images scaled to [0, 1]; None takes the dataset's own.
        std: Channel standard deviations of images scaled to [0, 1]; None takes the dataset's own.
    """

    name = "CIFAR-10"
    class_names = CIFAR10_CLASSES
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    dataset = datasets.CIFAR10


class CIFAR100(_CIFAR):
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels, 100 classes (Krizhevsky, 2009).

    Args:
        root: Folder that holds ``cifar-100-python``.
        download: Download the dataset into ``root`` if it is not there.
        mean: Channel means of images scaled to [0, 1]; None takes the dataset's own.
        std: Channel standard deviations of images scaled to [0, 1]; None takes the dataset's own.
    """

    name = "CIFAR-100"
    class_names = CIFAR100_CLASSES
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    dataset = datasets.CIFAR100
