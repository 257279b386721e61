"""Images in tensors of the user."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedloge.data.images import TensorImages
from fedloge.data.sources.base import Dataset, Source, check_statistics
from fedloge.errors import DataError


class Arrays(Source):
    """Your own tensors, for use from Python.

    Args:
        train_images: Training images, uint8 [n, channels, H, H].
        train_labels: Their classes, int64 [n], 0 … C-1.
        test_images: Test images, uint8 [n_test, channels, H, H].
        test_labels: Their classes, int64 [n_test], 0 … C-1.
        class_names: Names of the C classes; None takes numbers.
        name: Name of the dataset in tables.
        mean: Channel means of images scaled to [0, 1]; None takes 0.5.
        std: Channel standard deviations of images scaled to [0, 1]; None takes 0.25.

    Raises:
        DataError: If shapes, types or labels do not fit together.
    """

    def __init__(
        self,
        train_images: Tensor,
        train_labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        _check("train", train_images, train_labels)
        _check("test", test_images, test_labels)
        if train_images.shape[1:] != test_images.shape[1:]:
            shapes = [list(images.shape[1:]) for images in (train_images, test_images)]
            raise DataError(f"train and test images differ: {shapes[0]} and {shapes[1]}.")
        num_classes = int(max(train_labels.max(), test_labels.max())) + 1
        self.class_names = list(class_names or map(str, range(num_classes)))
        if len(self.class_names) < num_classes:
            raise DataError(f"{len(self.class_names)} class_names for {num_classes} classes.")
        self.name, self.channels, self.image_size = name, train_images.shape[1], train_images.shape[2]
        self.mean, self.std = check_statistics(
            self.channels, mean or (0.5,) * self.channels, std or (0.25,) * self.channels
        )
        self._dataset = Dataset(
            TensorImages(train_images), train_labels.long(), TensorImages(test_images), test_labels.long()
        )

    def load(self) -> Dataset:
        """The tensors."""
        return self._dataset


def _check(part: str, images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise DataError(f"{part}_images must be uint8 [n, channels, H, H], not {images.dtype} {list(images.shape)}.")
    if labels.is_floating_point() or labels.shape != (len(images),) or len(labels) == 0 or int(labels.min()) < 0:
        raise DataError(f"{part}_labels must hold a class, 0 or more, for each of the {len(images)} images.")
