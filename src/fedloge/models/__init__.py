"""Backbones and heads."""

from fedloge.models.base import Backbone
from fedloge.models.heads import FixedLinear
from fedloge.models.resnet import CifarResNet, ResNet
from fedloge.models.small import SmallCNN

__all__ = ["Backbone", "CifarResNet", "FixedLinear", "ResNet", "SmallCNN"]
