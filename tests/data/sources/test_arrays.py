import pytest
import torch

from fedloge.data import Arrays
from fedloge.errors import ConfigError, DataError


def test_arrays_check_their_tensors():
    images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    assert Arrays(images, labels, images, labels).class_names == ["0", "1"]
    with pytest.raises(DataError, match="must be uint8"):
        Arrays(images.float(), labels, images, labels)
    with pytest.raises(DataError, match="for each of the 4 images"):
        Arrays(images, labels[:3], images, labels)
    with pytest.raises(DataError, match="for each of the 4 images"):
        Arrays(images, labels.float(), images, labels)
    with pytest.raises(DataError, match=r"differ: \[1, 8, 8\] and \[1, 4, 4\]"):
        Arrays(images, labels, images[:, :, :4, :4], labels)
    with pytest.raises(DataError, match="1 class_names for 2"):
        Arrays(images, labels, images, labels, class_names=["a"])
    with pytest.raises(ConfigError, match=r"data\.source\.mean="):
        Arrays(images, labels, images, labels, mean=(0.1, 0.2))
    assert Arrays(images, labels, images, labels, mean=[0.1], std=[0.2]).mean == (0.1,)
