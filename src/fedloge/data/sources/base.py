"""What a source of images is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fedloge.data.images import Images


@dataclass(frozen=True)
class Dataset:
    """Training and test images with their labels, int64 [n]; the test set is global, and balanced where it can be."""

    train: Images
    train_labels: Tensor
    test: Images
    test_labels: Tensor


class Source:
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

    def prepare(self) -> None:
        """Download, where that was asked for."""

    def load(self) -> Dataset:
        """Read the images.

        Raises:
            DataError: If they are missing or unreadable.
        """
        raise NotImplementedError
