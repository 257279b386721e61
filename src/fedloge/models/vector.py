"""Backbones for features: vectors that are stored in place of images, [n, d, 1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fedloge.checks import check_least
from fedloge.models.base import Backbone


class Identity(Backbone):
    """Features as they are stored: only the heads are trained.

    Args:
        in_channels: Length d of the vectors.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        check_least("model.backbone.in_channels", in_channels, 1)
        self.in_channels = self.out_features = in_channels

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, d]."""
        return images.flatten(1)


class MLP(Backbone):
    """A perceptron: linear layers, each followed by ReLU.

    Args:
        hidden: Width of each layer; d is the last.
        in_channels: Length of the vectors.
    """

    def __init__(self, hidden: Sequence[int] = (256,), in_channels: int = 512) -> None:
        super().__init__()
        for width in (in_channels, *hidden):
            check_least("model.backbone.hidden", width, 1)
        widths = [in_channels, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.in_channels, self.out_features = in_channels, widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, d]."""
        features: Tensor = self.layers(images.flatten(1))
        return features
