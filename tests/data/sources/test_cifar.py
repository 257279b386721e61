import numpy as np
import pytest
import torch

from fedloge.data import CIFAR10, CIFAR100
from fedloge.errors import ConfigError, DataError


def test_cifar_that_is_not_there_says_where_and_how(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR10 was not found in .* download is off.*download=true"):
        CIFAR10(str(tmp_path)).load()


def test_cifar_through_torchvision(monkeypatch):
    class Fake:
        def __init__(self, root, train, download):
            assert not download
            self.data, self.targets = np.full((4, 32, 32, 3), 7, dtype=np.uint8), [0, 1, 0, 1]

    monkeypatch.setattr(CIFAR10, "dataset", Fake)
    dataset = CIFAR10("anywhere").load()
    assert dataset.train.gather(torch.tensor([1])).shape == (1, 3, 32, 32)
    assert dataset.test_labels.tolist() == [0, 1, 0, 1]


def test_cifar_takes_other_statistics():
    other = CIFAR10(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert (other.mean, other.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert CIFAR10().mean == (0.4914, 0.4822, 0.4465)
    with pytest.raises(ConfigError, match="One per channel"):
        CIFAR10(mean=[0.5])


def test_cifar_class_names_are_known_before_loading():
    assert CIFAR10().class_names[:2] == ("airplane", "automobile")
    assert (CIFAR10().num_classes, CIFAR100().num_classes) == (10, 100)
    assert list(CIFAR100().class_names) == sorted(set(CIFAR100().class_names))


def test_cifar_downloads_when_asked(monkeypatch):
    asked = []
    fake = staticmethod(lambda root, train, download: asked.append((train, download)))
    monkeypatch.setattr(CIFAR10, "dataset", fake)
    CIFAR10("anywhere").prepare()
    assert asked == []
    CIFAR10("anywhere", download=True).prepare()
    assert asked == [(True, True), (False, True)]


def test_a_download_that_fails_says_so(monkeypatch):
    def fail(root, train, download):
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "dataset", staticmethod(fail))
    with pytest.raises(DataError, match=r"CIFAR10 could not be downloaded to .*: no route to host"):
        CIFAR10("anywhere", download=True).prepare()
