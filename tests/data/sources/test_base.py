import pytest
import torch

from fedloge.data import Source
from fedloge.data.images import TensorImages
from fedloge.data.sources import Dataset
from fedloge.errors import DataError


def test_a_source_has_to_say_how_to_load():
    with pytest.raises(TypeError, match="load"):
        Source()


def test_a_dataset_has_a_label_for_every_image():
    images, labels = TensorImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)), torch.tensor([0, 1])
    with pytest.raises(DataError, match=r"test_labels must be int64 \[2\]"):
        Dataset(images, labels, images, labels[:1])
    with pytest.raises(DataError, match="train_labels must be int64"):
        Dataset(images, labels.int(), images, labels)
