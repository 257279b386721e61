"""Sources of images, one file per kind."""

from fedloge.data.sources.arrays import Arrays
from fedloge.data.sources.base import Dataset, Source
from fedloge.data.sources.cifar import CIFAR10, CIFAR100
from fedloge.data.sources.digits import Digits
from fedloge.data.sources.features import Features
from fedloge.data.sources.folder import ImageFolder
from fedloge.data.sources.imagenet_lt import ImageNetLT
from fedloge.data.sources.inaturalist import INaturalist
from fedloge.data.sources.lists import ImageLists
from fedloge.data.sources.sites import SiteTable

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Arrays",
    "Dataset",
    "Digits",
    "Features",
    "INaturalist",
    "ImageFolder",
    "ImageLists",
    "ImageNetLT",
    "SiteTable",
    "Source",
]
