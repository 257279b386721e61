"""Base class of the backbones."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """The body θ of a classifier: images in, features h ∈ R^d out, no head.

    A subclass sets the two attributes and implements ``forward``: float32 [n, in_channels, H, W] to [n, out_features].

    Attributes:
        in_channels: Channels of the images it takes.
        out_features: Feature size d.
        frozen: Submodules and parameters that are never trained, as dotted names; ``""`` stands for the whole backbone.
        mean: Channel means of the images that pretrained weights were made with, scaled to [0, 1]; None if none were.
        std: Channel standard deviations of these images.
        image_size: Height and width of these images.
    """

    in_channels: int
    out_features: int
    frozen: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, out_features] of a batch of images."""
        raise NotImplementedError
