"""Backbones and heads."""

from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear
from fedloge.models.pretrained import TimmBackbone, TorchvisionBackbone
from fedloge.models.resnet import CifarResNet, ResNet
from fedloge.models.small import SmallCNN
from fedloge.models.vector import MLP, Identity

__all__ = [
    "MLP",
    "Backbone",
    "CifarResNet",
    "FixedLinear",
    "Identity",
    "ResNet",
    "SmallCNN",
    "TimmBackbone",
    "TorchvisionBackbone",
]
