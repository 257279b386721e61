import torch

from fedloge.data import Digits


def test_digits_have_a_balanced_test_set_apart_from_training():
    dataset = Digits().load()
    assert torch.bincount(dataset.test_labels).tolist() == [40] * 10
    assert len(dataset.train) == 1797 - 400
    image = dataset.train.gather(torch.tensor([0, 5]))
    assert (image.dtype, image.shape) == (torch.uint8, (2, 1, 8, 8))
    assert int(dataset.train.gather(torch.arange(len(dataset.train))).max()) == 255
