"""Small backbones for quick runs."""

from __future__ import annotations

from torch import Tensor, nn

from fedloge.errors import ConfigError
from fedloge.models.base import Backbone


class SmallCNN(Backbone):
    """Convolution, BatchNorm and ReLU per stage, halving the image between stages, then a global average.

    Args:
        channels: Channels of each stage; d is the last.
        in_channels: Channels of the images.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64), in_channels: int = 3) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigError("model.backbone.channels", channels, "must hold positive numbers", "Example: [32, 64].")
        self.in_channels, self.out_features = in_channels, channels[-1]
        stages: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip((in_channels, *channels), channels, strict=False)):
            stages += [nn.MaxPool2d(2)] if number else []
            stages += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.stages = nn.Sequential(*stages)

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, channels[-1]]."""
        maps: Tensor = self.stages(images)
        return maps.mean(dim=(2, 3))
