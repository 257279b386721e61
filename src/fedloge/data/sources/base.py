"""The base class of all sources of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedloge.checks import check_positive
from fedloge.data.images import Images, outdated
from fedloge.errors import ConfigError, DataError

IMAGENET = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.449,), (0.226,))}
"""ImageNet's mean and standard deviation by number of channels."""


@dataclass(frozen=True)
class Dataset:
    """Training and test images; the test set is global and, if possible, balanced.

    Args:
        train: Training images.
        train_labels: Their classes, int64 [n].
        test: Test images.
        test_labels: Their classes, int64 [n_test].
        train_users: User of each training image, int64 [n]; None if unknown. A user is whoever images belong to: a
            person, a hospital, a camera.
        val: Validation images, apart from the others; None without any.
        val_labels: Their classes, int64 [n_val]; None without validation images.
        test_users: User of each test image, int64 [n_test], -1 for an image that belongs to none; None if unknown.
        val_users: User of each validation image, likewise.
        user_names: Names of the users by number; None where they have only numbers.
        train_groups: Group of each training image, int64 [n], such as the patient; None if unknown.
        test_groups: Group of each test image, int64 [n_test]; None if unknown.
        test_paths: Path of each test image; None if unknown.
        left_out: Number of images that could not be read and were left out, by part.

    Raises:
        DataError: If labels or users are not int64, one for each image.
    """

    train: Images
    train_labels: Tensor
    test: Images
    test_labels: Tensor
    train_users: Tensor | None = None
    val: Images | None = None
    val_labels: Tensor | None = None
    test_users: Tensor | None = None
    val_users: Tensor | None = None
    user_names: Sequence[str] | None = None
    train_groups: Tensor | None = None
    test_groups: Tensor | None = None
    test_paths: Sequence[str] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns: list[tuple[str, Images, Tensor | None]] = [
            ("train_labels", self.train, self.train_labels),
            ("test_labels", self.test, self.test_labels),
            ("train_users", self.train, self.train_users),
            ("train_groups", self.train, self.train_groups),
            ("test_users", self.test, self.test_users),
            ("test_groups", self.test, self.test_groups),
        ]
        if self.val is not None:
            columns += [("val_labels", self.val, self.val_labels), ("val_users", self.val, self.val_users)]
        for name, images, values in columns:
            if values is not None and (values.dtype != torch.int64 or values.shape != (len(images),)):
                raise DataError(
                    f"{name} must be int64 [{len(images)}], one for each image, not {values.dtype} "
                    f"{list(values.shape)}."
                )

    def outdated(self) -> bool:
        """Whether files were changed, replaced or removed since their images were loaded."""
        return any(outdated(images) for images in (self.train, self.test, self.val) if images is not None)


class Source(ABC):
    """A classification dataset before it is made long-tailed and split.

    A subclass sets the attributes in its constructor, which must be cheap, and reads images in :meth:`load`.

    Attributes:
        name: Name of the dataset in tables and summaries.
        class_names: Names of the classes, in label order.
        channels: Number of channels, 1 or 3.
        image_size: Height and width of the model's input.
        stored_size: Height and width of the stored images, of which training may crop any part and testing takes the
            centre; None means ``image_size``.
        mean: Channel means of images scaled to [0, 1].
        std: Channel standard deviations of images scaled to [0, 1].
        seed: Seed of a source that draws images at random; the data module sets it to ``data.seed`` before it loads.
    """

    name: str
    class_names: Sequence[str]
    channels: int = 3
    image_size: int
    stored_size: int | None = None
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def prepare(self) -> None:  # noqa: B027  most sources have nothing to download
        """Download the dataset, if configured to."""

    @abstractmethod
    def load(self) -> Dataset:
        """Read the images.

        Raises:
            DataError: If images are missing or unreadable.
        """


def check_statistics(
    channels: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as tuples.

    Raises:
        ConfigError: If their length is not ``channels``, or a deviation is not positive.
    """
    for option, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != channels:
            raise ConfigError(f"data.source.{option}", numbers, f"needs {channels} number(s)", "One per channel.")
    for number in std:
        check_positive("data.source.std", number, "Images are divided by it.")
    return tuple(mean), tuple(std)
