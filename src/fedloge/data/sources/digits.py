"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from fedloge.data.images import TensorImages
from fedloge.data.sources.base import Dataset, Source

TEST_PER_CLASS = 40


class Digits(Source):
    """1,797 handwritten digits of 8x8 pixels (UCI optical recognition test set), without a download.

    A fixed selection of 40 images per class is the test set.
    """

    name = "digits"
    channels = 1
    image_size = 8
    mean = (0.305,)
    std = (0.376,)

    def __init__(self) -> None:
        self.class_names = [str(digit) for digit in range(10)]

    def load(self) -> Dataset:
        """Read the images from scikit-learn."""
        from sklearn.datasets import load_digits

        raw = load_digits()
        images = torch.from_numpy(np.round(raw.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        labels = torch.from_numpy(raw.target.astype(np.int64))
        order = np.random.RandomState(0).permutation(len(labels))
        test = np.concatenate([order[labels[order] == c][:TEST_PER_CLASS] for c in range(10)])
        train = np.setdiff1d(order, test)
        return Dataset(TensorImages(images[train]), labels[train], TensorImages(images[test]), labels[test])
