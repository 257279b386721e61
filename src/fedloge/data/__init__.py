"""Long-tailed datasets, split over clients."""

from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.partition import Partition
from fedloge.data.sources import CIFAR10, CIFAR100, Arrays, Digits, ImageFolder, Source

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Arrays",
    "Digits",
    "FederatedDataModule",
    "ImageFolder",
    "Partition",
    "Source",
]
