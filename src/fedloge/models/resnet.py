"""Residual backbones: torchvision's ResNets with a CIFAR stem, and the small three-stage ones made for CIFAR."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet as tv

from fedloge.checks import check_choice
from fedloge.errors import ConfigError
from fedloge.models.base import Backbone


class ResNet(Backbone):
    """torchvision's ``resnet18/34/50`` without their last layer (He et al., CVPR 2016).

    Args:
        depth: 18, 34 or 50; d is 512, 512 or 2048.
        stem: ``cifar`` has a 3x3 convolution and no max-pooling (32x32 images), ``imagenet`` the original 7x7.
        in_channels: Channels of the images.
        init: Initialisation of the convolutions: ``he``, N(0, 2/fan_out) as in torchvision, or ``torch``, the default
            U(±1/√fan_in) of its layers, as in the released code. BatchNorm cancels the scale of a filter, but a filter
            with a sixth of the squared norm (3x3, equal numbers of channels) changes direction six times as fast.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50] = 18,
        stem: Literal["cifar", "imagenet"] = "cifar",
        in_channels: int = 3,
        init: Literal["he", "torch"] = "he",
    ) -> None:
        super().__init__()
        check_choice("model.backbone.init", init, ("he", "torch"))
        check_choice("model.backbone.stem", stem, ("cifar", "imagenet"))
        builders = {18: tv.resnet18, 34: tv.resnet34, 50: tv.resnet50}
        if depth not in builders:
            raise ConfigError("model.backbone.depth", depth, "is not one of 18, 34, 50", "For others use CifarResNet.")
        net = builders[depth]()
        self.in_channels, self.out_features = in_channels, net.fc.in_features
        if stem == "cifar":
            net.conv1 = nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False)
            net.maxpool = nn.Identity()
        elif in_channels != 3:
            net.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        net.fc = nn.Identity()
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        for module in net.modules() if init == "torch" else ():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, 512 or 2048]."""
        features: Tensor = self.net(images)
        return features


class CifarResNet(Backbone):
    """The three-stage ResNet for 32x32 images (He et al., CVPR 2016, section 4.2), 6n+2 layers deep.

    Args:
        depth: 8, 14, 20, 26, … (6n+2).
        width: Channels of the first stage; the stages have width, 2·width, 4·width, and d = 4·width.
        in_channels: Channels of the images.
    """

    def __init__(self, depth: int = 20, width: int = 16, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ConfigError("model.backbone.depth", depth, "is not 6n+2", "Choose 8, 14, 20, 26 or 32.")
        if width < 1:
            raise ConfigError("model.backbone.width", width, "must be positive", "The original has 16.")
        self.in_channels, self.out_features = in_channels, 4 * width
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        blocks = (depth - 2) // 6
        self.stage1 = _stage(width, width, blocks, stride=1)
        self.stage2 = _stage(width, 2 * width, blocks, stride=2)
        self.stage3 = _stage(2 * width, 4 * width, blocks, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, 4·width]."""
        maps: Tensor = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return maps.mean(dim=(2, 3))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = tv.BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(tv.BasicBlock(outputs, outputs) for _ in range(blocks - 1)))
