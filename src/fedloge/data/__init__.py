"""Long-tailed datasets, split over clients."""

from fedloge.data.datamodule import FederatedDataModule
from fedloge.data.partition import Partition
from fedloge.data.sources import (
    CIFAR10,
    CIFAR100,
    Arrays,
    Digits,
    Features,
    ImageFolder,
    ImageLists,
    ImageNetLT,
    INaturalist,
    SiteTable,
    Source,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Arrays",
    "Digits",
    "Features",
    "FederatedDataModule",
    "INaturalist",
    "ImageFolder",
    "ImageLists",
    "ImageNetLT",
    "Partition",
    "SiteTable",
    "Source",
]
