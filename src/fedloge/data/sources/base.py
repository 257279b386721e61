"""What a source of images is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloge.checks import check_positive
from fedloge.data.images import Images
from fedloge.errors import ConfigError, DataError


@dataclass(frozen=True)
class Dataset:
    """Training and test images with their labels, int64 [n]; the test set is global, and balanced where it can be.

    Raises:
        DataError: If there is not one int64 label for every image.
    """

    train: Images
    train_labels: Tensor
    test: Images
    test_labels: Tensor

    def __post_init__(self) -> None:
        for part, images, labels in (("train", self.train, self.train_labels), ("test", self.test, self.test_labels)):
            if labels.dtype != torch.int64 or labels.shape != (len(images),):
                raise DataError(
                    f"{part}_labels must be int64 [{len(images)}], one for each image, not {labels.dtype} "
                    f"{list(labels.shape)}."
                )


class Source(ABC):
    """A classification dataset before it is made long-tailed and split.

    A subclass sets the attributes in its constructor, which must be cheap, and reads the images in :meth:`load`.

    Attributes:
        name: For tables and summaries.
        class_names: In the order of the labels.
        channels: 1 or 3.
        image_size: Height and width.
        mean: Per channel, of images scaled to [0, 1].
        std: Likewise.
    """

    name: str
    class_names: Sequence[str]
    channels: int = 3
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def prepare(self) -> None:  # noqa: B027  most sources have nothing to download
        """Download, where that was asked for."""

    @abstractmethod
    def load(self) -> Dataset:
        """Read the images.

        Raises:
            DataError: If they are missing or unreadable.
        """


def check_statistics(
    channels: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as tuples.

    Raises:
        ConfigError: If there is not one of each per channel, or a deviation is not positive.
    """
    for option, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != channels:
            raise ConfigError(f"data.source.{option}", numbers, f"needs {channels} number(s)", "One per channel.")
    for number in std:
        check_positive("data.source.std", number, "Images are divided by it.")
    return tuple(mean), tuple(std)
